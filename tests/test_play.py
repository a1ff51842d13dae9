from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from gymnasium.error import DependencyNotInstalled
from tiny import PRESET, config, fit

from gym_dream import real
from gym_dream.cli import Play, main
from gym_dream.data import Contexts, EpisodeStore
from gym_dream.data.collect import collect
from gym_dream.files import write_json
from gym_dream.play import loop
from gym_dream.play.drawing import SIZE, Painter, View, figures
from gym_dream.play.games import DreamGame, Outcome, RealGame, Table, Tally, has_real
from gym_dream.play.loop import Player, record
from gym_dream.play.recording import free_name, panel
from gym_dream.play.screen import Screen
from gym_dream.play.session import (
    COMMANDS,
    NO_HORIZON,
    Session,
    action_of,
    check_keys,
    game_keys,
    help_lines,
    press,
    release,
    stepped,
)
from gym_dream.policy import PersistentPolicy, RandomPolicy
from gym_dream.trainers import fit as fitting
from gym_dream.trainers.presets import PRESETS
from gym_dream.world_model import WorldModel

BREAKOUT = real.env_spec("Breakout")
KEYS = BREAKOUT["keys_to_action"]
NOOP, FIRE, RIGHT, LEFT = range(4)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    """A dream in the format of Breakout: untrained, so it shows noise; rewards are dice, and nothing ends it."""
    frames = np.full((3, 4, 64, 64, 3), 60, np.uint8)
    starts = Contexts(frames, np.zeros((3, 3), np.int64), np.ones((3, 4), np.bool_))
    model = WorldModel.create(config(BREAKOUT), starts)
    hidden, _, logits = model.reward_termination.head
    with torch.no_grad():
        hidden.weight.zero_(), hidden.bias.fill_(1), logits.weight.zero_()
        logits.weight[3] = 10.0  # of going on
    return model


@pytest.fixture
def pygame(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return pytest.importorskip("pygame")


@pytest.fixture
def screen(pygame: Any) -> Iterator[Screen]:
    with Screen("test") as opened:
        yield opened


class Seat:
    """A player at the real loop whose clock runs as told: a step is due at every turn unless it is paused."""

    def __init__(self, pygame: Any, player: Player) -> None:
        self._pygame, self.player, self._now = pygame, player, 0.0

    def keys(self, *names: str, up: bool = True) -> Seat:
        for name in names:
            key = self._pygame.key.key_code(name)
            self._pygame.event.post(self._pygame.event.Event(self._pygame.KEYDOWN, key=key))
            if up:
                self.up(name)
        return self

    def up(self, name: str) -> Seat:
        self._pygame.event.post(self._pygame.event.Event(self._pygame.KEYUP, key=self._pygame.key.key_code(name)))
        return self

    def turn(self, turns: int = 1) -> Tally:
        for _ in range(turns):
            self._now += 2.0
            assert self.player.turn(self._now) == self.player.session.running
        return self.tally

    @property
    def session(self) -> Session:
        return self.player.session

    @property
    def tally(self) -> Tally:
        return self.player.table.tally


@pytest.fixture
def seat(pygame: Any, screen: Screen, model: WorldModel, tmp_path: Path) -> Iterator[Seat]:
    player = Player(
        screen,
        model,
        PersistentPolicy(0.9, 4),
        seed=5,
        video=tmp_path / "film.gif",
        episodes=tmp_path / "episodes",
        device="cpu",
    )
    yield Seat(pygame, player)
    player.tables.close()


def pressed(*keys: str, session: Session | None = None) -> Session:
    session = session or Session(denoising_steps=3)
    for key in keys:
        session = press(session, key)
    return session


# The state and its keys.


def test_every_key_has_one_meaning_and_all_are_told() -> None:
    keys = [key for command in COMMANDS for key in command.keys]
    assert len(keys) == len(set(keys)) and not set(keys) & set("".join(KEYS))
    told = " ".join(label for label, _ in help_lines()).split()
    assert told == [command.label for command in COMMANDS]


def test_keys_turn_the_session() -> None:
    assert pressed("tab").world == "real" and pressed("tab", "tab").world == "dream"
    assert pressed("return").driver == "policy" and pressed("enter", "return").driver == "human"
    assert pressed("p").paused and not pressed("p", "p").paused
    assert not pressed("p").due and pressed("p", "n").due and not stepped(pressed("n")).due
    assert pressed("r", "r").new_games == 2
    assert not pressed("escape").running and not pressed("escape").due
    assert pressed("+").denoising_steps == 4 and pressed(*"---").denoising_steps == 1
    assert pressed(",").fps < 15 < pressed(".").fps and pressed(*"," * 20).fps == 1
    assert pressed("v").filming and not pressed("v", "v").filming


def test_the_horizon_climbs_from_any_value_to_none_and_back() -> None:
    odd = Session(horizon=333)
    assert pressed("page up", session=odd).horizon == 500
    assert pressed("page down", session=odd).horizon == 200
    endless = pressed(*["page up"] * 20, session=odd)
    assert endless.horizon == NO_HORIZON
    assert 333 < pressed("page down", session=endless).horizon < sys.maxsize
    assert pressed(*["page down"] * 20, session=odd).horizon == 15


def test_what_cannot_be_is_said_and_changes_nothing() -> None:
    in_dream = pressed("k")
    assert not in_dream.recording and "A dream is no data" in in_dream.notice
    assert pressed("x", session=in_dream).notice == ""
    recording = pressed("tab", "k")
    assert recording.recording and not pressed("k", session=recording).recording
    alone = pressed("tab", session=Session(has_real=False))
    assert alone.world == "dream" and "only" not in alone.notice and alone.notice
    one_step = pressed("+", session=Session(denoising_steps=None))
    assert one_step.denoising_steps is None and "no denoising steps" in one_step.notice


def test_held_keys_are_the_games_and_a_tap_counts_once() -> None:
    session = pressed("a", " ")
    assert session.held == session.asked == ("a", " ")
    tapped = release(session, " ")
    assert tapped.held == ("a",) and tapped.asked == ("a", " ")
    assert stepped(tapped).asked == ("a",)
    again = pressed("a", session=stepped(tapped))  # the system repeats a key that is held
    assert again.asked == ("a",)
    assert pressed("d", session=again).asked == ("a", "d")


@pytest.mark.parametrize(
    ("asked", "action"),
    [((), NOOP), ("x", NOOP), ("d", RIGHT), (("left",), LEFT), ("ad", RIGHT), ("da", LEFT), ("d ", FIRE), ("e", NOOP)],
)
def test_actions_of_breakout(asked: tuple[str, ...], action: int) -> None:
    assert action_of(tuple(asked), KEYS) == action


def test_the_largest_combination_counts() -> None:
    keys = {"w": 1, "d": 2, "d ": 3, "dw": 4, "": 7}
    assert action_of(("d", "up"), keys) == 4
    assert action_of((" ", "d"), keys) == 3
    assert action_of((" ",), keys) == 0


def test_games_keys_are_named_and_must_not_be_the_windows() -> None:
    named = game_keys(KEYS, BREAKOUT["action_meanings"])
    assert named == [("Space", "FIRE"), ("D or right", "RIGHT"), ("A or left", "LEFT")]
    check_keys(KEYS)
    with pytest.raises(ValueError, match=r"play with 'p', but .* pause / go on"):
        check_keys({"p": 1})


def test_a_tally_counts_episodes() -> None:
    def outcome(reward: float, ending: str = "", points: float | None = None, lives: int | None = None) -> Outcome:
        return Outcome(np.zeros(0), reward, points, lives, ending, False, None)

    tally = Tally().begun(lives=5).after(1, outcome(1.0, points=7.0, lives=5))
    tally = tally.after(2, outcome(1.0, "life lost", 4.0, lives=4))
    assert (tally.step, tally.total, tally.score, tally.ending, tally.last_return) == (2, 2.0, 11.0, "life lost", None)
    after = tally.after(3, outcome(0.0, points=0.0, lives=4))
    assert (after.step, after.total, after.score, after.last_return, after.action) == (1, 0.0, 11.0, 2.0, 3)
    anew = after.after(0, outcome(-1.0, "game over", -1.0, lives=0)).begun(lives=5)
    assert anew == Tally(last_return=-1.0, lives=5, score=0.0)
    assert Tally(total=3.0, last_return=1.0).begun(None) == Tally(last_return=1.0)  # given up: it does not count


# The window.


def view(session: Session | None = None, **changes: Any) -> View:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[3, 5] = 200, 10, 20
    drawn = View(session or Session(denoising_steps=3), "Dream of Breakout", frame, Tally(), "", "human", 0.0, 0, 0, ())
    return replace(drawn, **changes)


def test_the_frame_is_enlarged_to_sharp_squares(screen: Screen, pygame: Any) -> None:
    for size, scale in ((SIZE, 8), ((1400, 900), 12), ((640, 300), 2)):
        surface = pygame.Surface(size)
        Painter().draw(surface, view())
        drawn = pygame.surfarray.array3d(surface)
        assert (drawn == (200, 10, 20)).all(axis=-1).sum() == scale**2


def test_what_is_told_beside_the_frame() -> None:
    def told(shown: View) -> dict[str, str]:
        return {label: value for label, value, *_ in figures(shown)}

    tally = Tally(step=12, reward=1.0, total=3.0, last_return=2.0)
    dream = told(view(Session(denoising_steps=3), tally=tally, speed=4.2, action="LEFT"))
    assert dream["reward"] == "+1" and dream["return"] == "3" and dream["return before"] == "2"
    assert dream["step"] == "12" and dream["horizon"] == "1000" and dream["denoising steps"] == "3"
    assert dream["action"] == "LEFT" and dream["steps a second"] == "15 (4 reached)"
    assert told(view(Session(horizon=NO_HORIZON)))["horizon"] == "none"
    in_game = told(view(Session(world="real"), tally=replace(tally, lives=4, score=11.0), speed=15.0))
    assert in_game["lives"] == "4" and in_game["score of the game"] == "11" and in_game["steps a second"] == "15"
    assert "denoising steps" not in in_game


def test_every_state_can_be_drawn(screen: Screen, pygame: Any) -> None:
    busy = Session(paused=True, filming=True, recording=True, notice="a long word " * 20 + "x" * 200, world="real")
    pictures = []
    for shown in (view(), view(busy), view(tally=Tally(ending="life lost")), view(driver="sb3:" + "x" * 99)):
        screen.show(shown)
        pictures.append(pygame.surfarray.array3d(screen.surface))
    assert all((a != b).any() for a, b in itertools.pairwise(pictures))


@pytest.mark.parametrize("driver", ["no such driver", "offscreen fallback"])
def test_without_a_display_it_says_what_can_be_done(
    pygame: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], driver: str
) -> None:
    if driver == "offscreen fallback":
        monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")
    else:
        monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    assert main(["play"]) == 2
    said = capsys.readouterr().err
    assert "no display" in said and "gym-dream play --record play.gif --steps 300" in said
    assert not pygame.display.get_init()


def test_without_pygame_it_says_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(DependencyNotInstalled, match=r"gym-dream\[play\].*--record"):
        Screen("")


# The loop: the real one, with keys posted as a keyboard would.


def test_a_person_steers_and_lets_the_policy_steer(seat: Seat) -> None:
    seat.keys("d", up=False).turn(2)
    assert (seat.tally.step, seat.tally.action) == (2, RIGHT)
    seat.up("d").keys("left").turn()  # let go of before the step is due, and yet it counts
    assert seat.tally.action == LEFT
    assert seat.turn().action == NOOP
    seat.keys("return")
    actions = {seat.turn().action for _ in range(40)}
    assert seat.session.driver == "policy" and len(actions) > 1
    seat.keys("return")
    assert {seat.turn().action for _ in range(4)} == {NOOP}


def test_time_stands_still_and_goes_on_step_by_step(seat: Seat) -> None:
    assert seat.turn(3).step == 3
    assert seat.keys("p").turn(4).step == 3
    assert seat.keys("n").turn(4).step == 4
    seat.keys("d", "n")
    assert (seat.turn(4).step, seat.tally.action) == (5, RIGHT)
    assert seat.keys("p").turn(2).step == 7


def test_speed_is_steps_a_second(seat: Seat) -> None:
    def steps(second: int) -> int:
        before = seat.tally.step
        for turn in range(60):
            seat.player.turn(second + turn / 60)
        return seat.tally.step - before

    assert steps(100) == 15
    seat.keys(",")
    assert steps(200) == 8


def test_worlds_take_turns_and_wait_for_each_other(seat: Seat) -> None:
    seat.turn(3)
    dream = seat.player.table.frame
    assert seat.keys("tab").turn(2).step == 2
    assert seat.session.world == "real" and seat.tally.lives == 5
    game = seat.player.table.frame
    seat.keys("p", "tab").turn()
    np.testing.assert_array_equal(seat.player.table.frame, dream)
    assert seat.tally.step == 3
    seat.keys("tab").turn()
    np.testing.assert_array_equal(seat.player.table.frame, game)


def test_denoising_steps_and_horizon_turn_the_dream(seat: Seat) -> None:
    dream = seat.player.tables.dream
    shipped = dream.denoising_steps
    seat.keys("=").turn()
    assert dream.denoising_steps == seat.session.denoising_steps == shipped + 1
    seat.keys(*["page down"] * 20).turn()
    tally = seat.turn(13)
    assert (tally.step, tally.ending) == (15, "horizon reached")
    assert seat.keys("space").turn().step == 0 and seat.tally.last_return == tally.total
    assert seat.turn().action == FIRE  # pressed when the next dream had not begun


def test_a_new_game_on_demand(seat: Seat) -> None:
    seat.keys("tab").turn(4)
    assert seat.keys("p", "r").turn().step == 0
    with real.make("Breakout", ending="game") as env:
        np.testing.assert_array_equal(seat.player.table.frame, env.reset(seed=6)[0])  # the second of seed 5


def test_a_film_of_both_worlds(seat: Seat, tmp_path: Path) -> None:
    seat.keys("v").turn(3)
    seat.keys("tab").turn(4)
    seat.keys("v").turn()
    assert seat.session.notice == f"Wrote {tmp_path / 'film.gif'}: 7 frames."
    film = cv2.VideoCapture(str(tmp_path / "film.gif"))
    assert sum(iter(lambda: film.read()[0], False)) == 7
    seat.keys("v").turn(2)
    seat.player.close()  # what runs is written
    assert seat.player.written == [tmp_path / "film.gif", tmp_path / "film-2.gif"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film-2.gif", "film.gif"]


def test_long_names_fit_below_a_film() -> None:
    name = "sb3:runs/sb3/breakout_ppo_dream_seed0.zip"
    (shown, _), *_ = panel("Dream", name, np.zeros((64, 64, 3), np.uint8), Tally(), []).lines[2:]
    assert shown == "played by sb3:runs...m_seed0.zip" and len(shown) == 32


def test_what_cannot_be_written_is_told_and_not_lost(seat: Seat, tmp_path: Path) -> None:
    blocked = tmp_path / "films"
    blocked.touch()
    seat.player._video = blocked / "film.gif"
    seat.keys("v").turn(2)
    seat.keys("v").turn()
    assert "films" in seat.session.notice and seat.session.filming
    blocked.unlink()
    seat.keys("v").turn()
    assert (blocked / "film.gif").exists() and not seat.session.filming

    (tmp_path / "episodes").write_text("a file")
    seat.keys("tab").turn()
    seat.keys("k").turn()
    assert "episodes" in seat.session.notice and not seat.session.recording


def test_recorded_games_are_those_that_collect_records(seat: Seat, tmp_path: Path) -> None:
    seat.keys("return", "tab").turn(3)
    seat.keys("k").turn(50)
    seat.keys("tab").turn(3)  # in the meantime a dream, which is in no episode
    seat.keys("tab").turn(30)
    seat.keys("p", "k").turn()
    assert not seat.session.recording
    (episode,) = EpisodeStore(tmp_path / "episodes").load_all()
    assert len(episode) == 80 and episode.terminated.any()
    collect("Breakout", PersistentPolicy(0.9, 4), 80, tmp_path / "collected", seed=5, progress=False)
    (collected,) = EpisodeStore(tmp_path / "collected").load_all()
    assert episode.info == collected.info
    for name in ("frames", "actions", "rewards", "terminated", "truncated", "lives", "ram"):
        np.testing.assert_array_equal(getattr(episode, name), getattr(collected, name), err_msg=name)


def test_a_game_recorded_to_its_end_and_the_next_one_begins(seat: Seat, tmp_path: Path) -> None:
    seat.keys("tab", "k").turn()
    store = EpisodeStore(tmp_path / "episodes")
    seat.keys("space", up=False)
    while not len(store):
        seat.turn()
    seat.turn(3)
    seat.player.close()
    first, second = store.load_all()
    assert first.game_over and first.terminated.sum() == 5 and not first.info.in_progress
    assert first.info.policy == "human" and (first.actions[1:] == FIRE).all()
    assert second.info.in_progress and (first.info.seed, second.info.seed) == (5, 6)
    assert len(second) == 3


def test_a_game_that_cannot_be_written_waits(seat: Seat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Any, episode: Any) -> Path:
        raise OSError("No space left on device")

    seat.keys("tab", "k", "space").turn(5)
    seat.player.table.over = True  # as after its last step
    with monkeypatch.context() as patch:
        patch.setattr(EpisodeStore, "add", full_disk)
        seat.turn()
        assert seat.session.paused and "No space left" in seat.session.notice
        seat.keys("k").turn()  # cannot be stopped either, for that would lose it
        assert seat.session.recording
    seat.keys("n").turn()
    (episode,) = EpisodeStore(tmp_path / "episodes").load_all()
    assert len(episode) == 5 and seat.tally.step == 0


def test_trainers_learn_from_what_a_person_played(seat: Seat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seat.keys("tab", "k", "space").turn(15)
    seat.keys("return").turn(10)
    seat.keys("return", "r").turn(25)
    seat.keys("k").turn()
    store = EpisodeStore(tmp_path / "episodes")
    players = [episode.info.policy for episode in store.load_all()]
    assert players == ["human and persistent(repeat=0.9)", "human"]
    monkeypatch.setitem(PRESETS, "tiny", PRESET)
    monkeypatch.setattr(fitting, "HELD_OUT_BATCHES", 1)
    folder = fit(tmp_path / "run", store.folder, steps=1)
    assert WorldModel.load(folder).config.env == BREAKOUT


def test_the_policy_watches_while_a_person_plays(model: WorldModel) -> None:
    """Handed the wheel at step 5, it acts as if it had sat there all along: it has seen the same frames."""

    class Counting(RandomPolicy):
        def act(self, state: Any, observations: np.ndarray, info: Any) -> tuple[np.ndarray, Any]:
            seen.append(observations[0])
            return super().act(state, observations, info)

    seen: list[np.ndarray] = []
    table = Table(DreamGame(model, device="cpu"), Counting(4))
    table.begin(seed=1)
    shown = [table.frame]
    for _ in range(5):
        shown.append(table.step(LEFT).frame)
    assert len(seen) == 5 and all((a == b).all() for a, b in zip(seen, shown, strict=False))


def test_the_policy_is_told_of_a_lost_life() -> None:
    class Told(RandomPolicy):
        def reset(self, state: Any, mask: np.ndarray, contexts: Contexts | None = None) -> Any:
            resets.append(table.tally.ending)
            return state

    resets: list[str] = []
    table = Table(RealGame(BREAKOUT), Told(4))
    table.begin(seed=1)
    while table.tally.ending != "life lost":
        assert not resets
        table.step(FIRE)
    table.step(FIRE)
    assert resets == ["life lost"]
    table.game.close()


def test_models_of_no_game_here_are_only_dreams(screen: Screen, model: WorldModel) -> None:
    assert has_real(BREAKOUT)
    assert not has_real({}) and not has_real(BREAKOUT | {"game": "Dot"})
    assert not has_real(BREAKOUT | {"frame_shape": [32, 32, 3]})
    dot = WorldModel(
        replace(model.config, env=BREAKOUT | {"game": "Dot"}), model.denoiser, model.reward_termination, model.starts
    )
    with pytest.raises(ValueError, match="only the dream"):
        Player(screen, dot, RandomPolicy(4), world="real", device="cpu")
    for wrong, message in (({"fps": 0}, "fps"), ({"horizon": 0}, "horizon"), ({"video": "a.avi"}, r"\.gif or \.mp4")):
        with pytest.raises(ValueError, match=message):
            Player(screen, dot, RandomPolicy(4), device="cpu", **wrong)


def test_free_names_are_counted(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        names.append(free_name(tmp_path / "film.gif"))
        names[-1].touch()
    assert [path.name for path in names] == ["film.gif", "film-2.gif", "film-3.gif"]


# The command.


def test_the_verb_takes_the_loops_defaults() -> None:
    for function in (Player, record):
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not parameter.empty and name != "progress":
                assert type(parameter.default)(getattr(Play(), name)) == parameter.default, name


def saved(model: WorldModel, folder: Path) -> list[str]:
    model.save(folder)
    return ["play", "--model", str(folder), "--device", "cpu"]


def test_the_command_opens_a_window_and_obeys(
    pygame: Any,
    model: WorldModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def press_next(self: Screen, per_second: int) -> None:
        """In place of waiting, press the next key."""
        turns.append(per_second)
        key = {3: pygame.K_v, 12: pygame.K_TAB, 20: pygame.K_ESCAPE}.get(len(turns))
        if key is not None:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))

    turns: list[int] = []
    monkeypatch.setattr(Screen, "wait", press_next)
    film = tmp_path / "film.mp4"
    assert main([*saved(model, tmp_path / "model"), "--fps", "100000", "--video", str(film), "--horizon", "-1"]) == 0
    assert len(turns) == 20 and set(turns) == {loop.TICKS}
    assert cv2.VideoCapture(str(film)).get(cv2.CAP_PROP_FRAME_COUNT) == 17
    assert capsys.readouterr().out == f"Wrote {film}.\n"
    assert not pygame.display.get_init()


@pytest.mark.parametrize("world", ["dream", "real"])
def test_without_a_window_a_policy_is_filmed(
    model: WorldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], world: str
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    film = tmp_path / "film.gif"
    command = [*saved(model, tmp_path / "model"), "--record", str(film), "--steps", "6", "--world", world]
    assert main([*command, "--policy", "random+epsilon=0.5", "--denoising-steps", "1"]) == 0
    assert cv2.VideoCapture(str(film)).get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert f"Wrote {film}." in capsys.readouterr().out


def test_a_film_of_whole_episodes_counts_them(model: WorldModel, tmp_path: Path) -> None:
    played = record(model, RandomPolicy(4), tmp_path / "film.gif", steps=12, horizon=4, progress=False, device="cpu")
    assert played.lives >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--record film.avi", r"must end in .gif or .mp4"),
        ("--record film.gif --steps 0", "steps must be at least 1"),
        ("--record film.gif --horizon 0", "horizon must be at least 1"),
        ("--record film.gif --denoising-steps 0", "num_denoising_steps"),
        ("--record film.gif --policy nobody", "Unknown policy"),
        ("--record film.gif --model nowhere", "gym-dream fit"),
        ("ALE/Breakout-v5 --record film.gif", "needs a world model"),
        ("Dream/Brekout-v0 --record film.gif", "Brekout"),
    ],
)
def test_bad_requests_get_one_plain_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["play", *arguments.split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_that_names_no_keys_is_not_played_by_a_person(
    pygame: Any, model: WorldModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    command = saved(model, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    written = json.loads(path.read_text())
    del written["env"]["keys_to_action"]
    write_json(path, written)
    assert main(command) == 2
    assert "keys_to_action: add it under 'env'" in capsys.readouterr().err


def test_the_page_names_every_key() -> None:
    page = (Path(__file__).parents[1] / "docs" / "play.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) +\|", page, re.MULTILINE)
    named = {label for row in rows for label in re.findall(r"`([^`]+)`", row)}
    assert {command.label for command in COMMANDS} <= named
