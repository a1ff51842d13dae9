"""Playing at a window, or without one for a film.

Gymnasium has a player of its own, `gymnasium.utils.play`, which works on a dream as on any environment. It does not
reach as far as this window: `play` owns its loop and its one environment, and knows one mode, a person who acts at
every tick of a fixed clock. It has no seam at which to hand the wheel to a policy, change the world, stop time or write
beside the frame: its callback hears of a step after the fact, and its `PlayableGame` opens a window for one
environment. Importing it also sets matplotlib's backend for the whole process. What is kept of it is the contract: an
environment's `get_keys_to_action` says which keys mean which action, so the game's keys are the same in both players.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from gymnasium.error import Error as GymnasiumError
from tqdm import tqdm

from gym_dream.demo import Played
from gym_dream.dynamics import DreamModel
from gym_dream.play.drawing import View
from gym_dream.play.games import Table, Tables, has_real, real_spec
from gym_dream.play.recording import Film, Tape, free_name, panel
from gym_dream.play.screen import Screen
from gym_dream.play.session import Session, WorldName, action_of, check_keys, game_keys, press, release, stepped
from gym_dream.policy import Policy
from gym_dream.registration import HORIZON
from gym_dream.video import FPS, check_format

TICKS = 60  # looks at the keyboard a second, however slowly the game is played
EXPLAINED = (ValueError, OSError, ImportError, GymnasiumError)  # a player is told of these, not thrown out


class Player:
    """A session at a window; `turn` is one turn of the loop.

    Attributes:
        session: what the keys decided so far.
        tables: the games.
        written: the films and episodes, in their order.
    """

    def __init__(
        self,
        screen: Screen,
        world_model: DreamModel,
        policy: Policy,
        *,
        world: WorldName = "dream",
        horizon: int = HORIZON,
        fps: int = FPS,
        seed: int = 0,
        video: str | os.PathLike[str] = "play.mp4",
        episodes: str | os.PathLike[str] = "episodes",
        **dream_settings: Any,
    ) -> None:
        """Open the games.

        Args:
            screen: the window.
            world_model: what dreams.
            policy: plays when a person does not; it sees frames only.
            world: the one to begin in.
            horizon: steps until a dream is cut off, -1 for never.
            fps: steps a second.
            seed: game i of either world is played with ``seed + i``, a recorded one by its number in its folder.
            video: where films go; a number is added where a file is.
            episodes: the folder of the recorded games.
            **dream_settings: of `gym_dream.env.DreamEnv`, such as ``device``.

        Raises:
            ValueError: a setting that cannot be, a model that does not name its keys or takes one of the window's, or
                no real game to begin in.
        """
        check_format(video)
        if fps < 1:
            raise ValueError(f"fps must be at least 1, got {fps}.")
        self.tables = Tables(world_model, policy, seed, **dream_settings)
        dream = self.tables.dream
        dream.set(horizon)
        self._keys_to_action, self._meanings = dream.keys_to_action(), dream.action_meanings()
        check_keys(self._keys_to_action)
        self._env = world_model.config.env
        self._screen, self._policy = screen, policy.name
        self._video, self._episodes, self._seed = Path(video), Path(episodes), seed
        self._film = Film()
        self._tape: Tape | None = None
        self.written: list[Path] = []
        self._due = 0.0  # the time of the next step
        self._last_step: float | None = None  # the time of the last one
        self._speed = 0.0
        self.session = Session(
            world=world, horizon=horizon, denoising_steps=dream.denoising_steps, fps=fps, has_real=has_real(self._env)
        )
        self.tables.at(world)
        self._show()

    @property
    def table(self) -> Table:
        """Of the world shown."""
        return self.tables.at(self.session.world)

    def turn(self, now: float) -> bool:
        """Obey the keys, make a step if one is due, and draw what is new.

        Args:
            now: the time, in seconds.

        Returns:
            Whether the window stays open.
        """
        before = self.session
        for key, down in self._screen.key_events():
            self._obey((press if down else release)(self.session, key))
        due = self.session.due and (self.session.single or now >= self._due)
        if self.session.paused:
            self._last_step = None
        if due:
            period = 1 / self.session.fps
            self._due = period + (self._due if now < self._due + period else now)  # lost time is not made up for
            self._measure(now)
            self._step()
        if due or self.session is not before or self._screen.stale:
            self._show()
        return self.session.running

    def close(self) -> None:
        """Write what is being recorded and close the games.

        Raises:
            OSError: it cannot be written.
        """
        try:
            try:
                self._finish_game()
            finally:
                if self.session.filming:
                    self._write_film()
        finally:
            self.tables.close()

    def _obey(self, wanted: Session) -> None:
        """Make the session what a key wants it to be, or say why it cannot be."""
        try:
            self.session = replace(wanted, notice=self._change(self.session, wanted) or wanted.notice)
        except EXPLAINED as error:
            self.session = replace(self.session, notice=str(error))

    def _change(self, before: Session, after: Session) -> str:
        """Do what changed from one session to the next, by one key; returns what the player should be told."""
        if (after.world, after.fps) != (before.world, before.fps):
            self.tables.at(after.world)
            self._last_step, self._speed = None, 0.0
        elif (after.horizon, after.denoising_steps) != (before.horizon, before.denoising_steps):
            self.tables.dream.set(after.horizon, after.denoising_steps)
        elif after.new_games != before.new_games:
            return self._begin(after.world)
        elif after.filming and not before.filming:
            self._film = Film()
        elif before.filming and not after.filming:
            return self._write_film()
        elif after.recording and not before.recording:
            self._tape = Tape(self._episodes, real_spec(self._env), self._seed)
            self._begin("real")
            return f"A new game. It is recorded from its first frame on, into {self._episodes}."
        elif before.recording and not after.recording:
            notice = self._finish_game()
            self._tape = None
            return notice
        return ""

    def _step(self) -> None:
        """One step of the game shown; after its last one, the beginning of the next game."""
        session, table = self.session, self.table
        if table.over:
            self.session = replace(session, single=False)  # what was tapped counts for the first step
            try:
                self.session = replace(self.session, notice=self._begin(session.world) or session.notice)
            except OSError as error:  # the game waits, so that it can still be written
                self.session = replace(self.session, paused=True, notice=str(error))
                return
        else:
            self.session = stepped(session)
            human = session.driver == "human"
            outcome = table.step(action_of(session.asked, self._keys_to_action) if human else None)
            if self._tape is not None and outcome.step is not None:
                self._tape.add(outcome.step, self._driver)
        if session.filming:
            self._film.add(panel(table.game.title, self._driver, table.frame, table.tally, self._meanings))

    def _begin(self, world: WorldName) -> str:
        """Begin a new game, after the old one is written if it is being recorded; returns what to tell the player."""
        if world == "dream" or self._tape is None:
            self.tables.begin(world)
            return ""
        notice = self._finish_game()
        self.tables.begin(world, self._tape.begin())
        return notice

    def _finish_game(self) -> str:
        path = None if self._tape is None else self._tape.finish()
        if path is None:
            return ""
        self.written.append(path)
        return f"Wrote {path}."

    def _write_film(self) -> str:
        if not len(self._film):
            return "Nothing was filmed."
        path = free_name(self._video)
        self._film.write(path)
        self.written.append(path)
        return f"Wrote {path}: {len(self._film)} frames."

    @property
    def _driver(self) -> str:
        return "human" if self.session.driver == "human" else self._policy

    def _measure(self, now: float) -> None:
        """Steps a second as reached, averaged over the last ten or so."""
        if self._last_step is not None and now > self._last_step:
            latest = 1 / (now - self._last_step)
            self._speed = 0.9 * self._speed + 0.1 * latest if self._speed else latest
        self._last_step = now

    def _show(self) -> None:
        table = self.table
        self._screen.show(
            View(
                session=self.session,
                title=f"{'Dream of' if self.session.world == 'dream' else 'Real'} {self._env.get('game', 'a game')}",
                frame=table.frame,
                tally=table.tally,
                action="" if table.tally.action is None else self._meanings[table.tally.action],
                driver=self._driver,
                speed=self._speed,
                filmed=len(self._film),
                taped=0 if self._tape is None else len(self._tape),
                keys=tuple(game_keys(self._keys_to_action, self._meanings)),
            )
        )


def play(screen: Screen, world_model: DreamModel, policy: Policy, **settings: Any) -> list[Path]:
    """Play at a window until it is closed; what is being recorded then is written.

    Args:
        screen: the window.
        world_model: what dreams.
        policy: plays when a person does not.
        **settings: of `Player`.

    Returns:
        The films and episodes that were written.

    Raises:
        ValueError: as `Player`.
        OSError: a recording cannot be written.
    """
    player = Player(screen, world_model, policy, **settings)
    try:
        while player.turn(time.perf_counter()):
            screen.wait(TICKS)
    finally:
        player.close()
    return player.written


def record(
    world_model: DreamModel,
    policy: Policy,
    out: str | os.PathLike[str],
    *,
    steps: int = 300,
    world: WorldName = "dream",
    horizon: int = HORIZON,
    seed: int = 0,
    progress: bool = True,
    **dream_settings: Any,
) -> Played:
    """Let a policy play without a window and write a film of it.

    Args:
        world_model: what dreams.
        policy: plays; it sees frames only.
        out: the film, ``.gif`` or ``.mp4``; replaced if it is there.
        steps: how many.
        world: the dream or the real game.
        horizon: steps until a dream is cut off, -1 for never.
        seed: game i is played with ``seed + i``.
        progress: show a progress bar.
        **dream_settings: of `gym_dream.env.DreamEnv`, such as ``device``.

    Returns:
        How it went; the speed is that of world and policy together.

    Raises:
        ValueError: a setting that cannot be, or no real game to play.
        OSError: the film cannot be written.
    """
    check_format(out)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    tables = Tables(world_model, policy, seed, **dream_settings)
    try:
        tables.dream.set(horizon)
        meanings = tables.dream.action_meanings()
        table, film = tables.at(world), Film()
        total, endings, began = 0.0, 0, time.perf_counter()
        for _ in tqdm(range(steps), "playing", unit="step", disable=not progress):
            if table.over:
                tables.begin(world)
            outcome = table.step(None)
            total, endings = total + outcome.reward, endings + bool(outcome.ending)
            film.add(panel(table.game.title, policy.name, table.frame, table.tally, meanings))
        seconds = time.perf_counter() - began
    finally:
        tables.close()
    film.write(out)
    return Played(steps / seconds, total, endings)
