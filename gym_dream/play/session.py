"""The state of a session at the window, and what each key makes of it: pure functions, no window and no game."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

WorldName = Literal["dream", "real"]
Driver = Literal["human", "policy"]

NO_HORIZON = -1  # a dream that is never cut off
HORIZONS = (15, 30, 50, 100, 200, 500, 1000, 2000, 5000)
SPEEDS = (1, 2, 4, 8, 15, 30, 60)
# Many players reach for the arrows; Gymnasium's convention, which `keys_to_action` follows, are letters.
ARROWS = {"up": "w", "left": "a", "down": "s", "right": "d"}


@dataclass(frozen=True)
class Session:
    """What the keys decide. What happens in the games is not in here.

    Attributes:
        world: the one that is shown and played; the other waits.
        driver: who acts.
        horizon: steps until a dream is cut off; `NO_HORIZON` for never.
        denoising_steps: passes of the denoiser a frame; None if the model has none to choose.
        fps: steps a second to aim at.
        paused: whether time stands still.
        single: whether one step is due nevertheless.
        held: the keys held down that are no commands, in the order of being pressed.
        tapped: those of them that went down since the last step, held still or not: a step can be slower than a finger.
        new_games: how often the player asked for a new game.
        filming: whether a video is being recorded.
        recording: whether the real game is being recorded as episodes.
        has_real: whether there is a real game to switch to.
        running: whether the window stays open.
        notice: a line for the player about the last key; "" for none.
    """

    world: WorldName = "dream"
    driver: Driver = "human"
    horizon: int = 1000
    denoising_steps: int | None = None
    fps: int = 15
    paused: bool = False
    single: bool = False
    held: tuple[str, ...] = ()
    tapped: tuple[str, ...] = ()
    new_games: int = 0
    filming: bool = False
    recording: bool = False
    has_real: bool = True
    running: bool = True
    notice: str = ""

    @property
    def due(self) -> bool:
        """Whether the game shown goes on."""
        return self.running and (self.single or not self.paused)

    @property
    def asked(self) -> tuple[str, ...]:
        """The keys that count for the next step, in the order of being pressed."""
        return (*(key for key in self.held if key not in self.tapped), *self.tapped)


@dataclass(frozen=True)
class Command:
    """One thing that the keys can do.

    Attributes:
        keys: their names, each of which does it.
        label: how the keys are called on the screen.
        help: what they do, in a few words.
        change: the session before to the session after.
    """

    keys: tuple[str, ...]
    label: str
    help: str
    change: Callable[[Session], Session]


def press(session: Session, key: str) -> Session:
    """The session after a key went down.

    Args:
        session: before.
        key: as `gym_dream.play.screen.key_name` names it, e.g. ``"tab"``, ``"a"`` or ``" "``.
    """
    session = replace(session, notice="")
    if key in COMMAND_OF_KEY:
        return COMMAND_OF_KEY[key].change(session)
    if key in session.held:
        return session
    tapped = (*(other for other in session.tapped if other != key), key)
    return replace(session, held=(*session.held, key), tapped=tapped)


def release(session: Session, key: str) -> Session:
    """The session after a key went up."""
    return replace(session, held=tuple(other for other in session.held if other != key))


def stepped(session: Session) -> Session:
    """The session after its game made a step."""
    return replace(session, single=False, tapped=())


def action_of(asked: Sequence[str], keys_to_action: Mapping[str, int], idle: int = 0) -> int:
    """The action that some keys ask for.

    Gymnasium's own player knows no action for keys that are in no combination together, such as left with right. Here
    the largest combination among them counts and, among equals, the one pressed last: rolling a finger from one key to
    the next never lets go of the paddle.

    Args:
        asked: keys in the order of being pressed, arrows included.
        keys_to_action: the action of each combination, its keys as one string, e.g. ``{"d": 2, "d ": 5}``.
        idle: the action if there is no combination among them.
    """
    places = {ARROWS.get(key, key): place for place, key in enumerate(asked)}
    combinations = [keys for keys in keys_to_action if keys and set(keys) <= set(places)]
    if not combinations:
        return idle
    largest = max(combinations, key=lambda keys: (len(set(keys)), max(places[key] for key in keys)))
    return keys_to_action[largest]


def check_keys(keys_to_action: Mapping[str, int]) -> None:
    """Make sure that no key of the game is a command of the window.

    Raises:
        ValueError: one is.
    """
    for combination in keys_to_action:
        if taken := sorted(set(combination) & set(COMMAND_OF_KEY)):
            raise ValueError(
                f"This model's keys_to_action play with {', '.join(map(repr, taken))}, but in this window "
                f"that means: {COMMAND_OF_KEY[taken[0]].help}. Choose another key under 'env' in its config.json."
            )


def _switch_world(session: Session) -> Session:
    if not session.has_real:
        return replace(session, notice="This model dreams of no game that is installed here.")
    return replace(session, world="real" if session.world == "dream" else "dream")


def _switch_driver(session: Session) -> Session:
    return replace(session, driver="policy" if session.driver == "human" else "human")


def _single_step(session: Session) -> Session:
    return replace(session, paused=True, single=True)


def _move(ladder: Sequence[int], value: int, up: bool) -> int:
    """The next rung above or below a value, which need not be a rung; at the end the value stays."""
    rungs = [rung for rung in ladder if (rung > value if up else rung < value)]
    return (min(rungs) if up else max(rungs)) if rungs else value


def _horizon(session: Session, up: bool) -> Session:
    endless = sys.maxsize  # the last rung
    moved = _move((*HORIZONS, endless), endless if session.horizon == NO_HORIZON else session.horizon, up)
    return replace(session, horizon=NO_HORIZON if moved == endless else moved)


def _denoising(session: Session, change: int) -> Session:
    if session.denoising_steps is None:
        return replace(session, notice="This model has no denoising steps to choose.")
    return replace(session, denoising_steps=max(1, session.denoising_steps + change))


def _record(session: Session) -> Session:
    if session.recording:
        return replace(session, recording=False)
    if session.world == "dream":
        return replace(
            session, notice="A dream is no data: episodes are recorded in the real game (Tab). V films a dream."
        )
    return replace(session, recording=True)


COMMANDS: tuple[Command, ...] = (
    Command(("tab",), "Tab", "dream / real game", _switch_world),
    Command(("return", "enter"), "Enter", "human / policy", _switch_driver),
    Command(("p",), "P", "pause / go on", lambda s: replace(s, paused=not s.paused, single=False)),
    Command(("n",), "N", "single step", _single_step),
    Command(("r",), "R", "new game", lambda s: replace(s, new_games=s.new_games + 1)),
    Command((",",), ",", "slower / faster", lambda s: replace(s, fps=_move(SPEEDS, s.fps, up=False))),
    Command((".",), ".", "slower / faster", lambda s: replace(s, fps=_move(SPEEDS, s.fps, up=True))),
    Command(("-",), "-", "denoising steps", lambda s: _denoising(s, -1)),
    Command(("+", "="), "+", "denoising steps", lambda s: _denoising(s, 1)),
    Command(("page down",), "PgDn", "horizon", lambda s: _horizon(s, up=False)),
    Command(("page up",), "PgUp", "horizon", lambda s: _horizon(s, up=True)),
    Command(("v",), "V", "film on / off", lambda s: replace(s, filming=not s.filming)),
    Command(("k",), "K", "episodes on / off", _record),
    Command(("escape",), "Esc", "quit", lambda s: replace(s, running=False)),
)
COMMAND_OF_KEY = {key: command for command in COMMANDS for key in command.keys}


def help_lines() -> list[tuple[str, str]]:
    """The commands for the screen: keys and what they do, neighbours that turn the same wheel in one line."""
    groups = itertools.groupby(COMMANDS, key=lambda command: command.help)
    return [(" ".join(command.label for command in group), text) for text, group in groups]


def game_keys(keys_to_action: Mapping[str, int], meanings: Sequence[str]) -> list[tuple[str, str]]:
    """The single keys of the game for the screen, and what their actions are called."""
    arrows = {letter: arrow for arrow, letter in ARROWS.items()}
    lines = []
    for key, action in keys_to_action.items():
        if len(key) == 1 and meanings[action] != "NOOP":
            label = "Space" if key == " " else key.upper()
            lines.append((f"{label} or {arrows[key]}" if key in arrows else label, meanings[action]))
    return lines
