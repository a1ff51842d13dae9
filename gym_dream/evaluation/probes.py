"""What to look for in a frame: the details of a game that tell a good dream from a pretty one.

A policy is not lost for a decibel but for a ball that is gone. Each probe reads one detail from frames, real or dreamt,
and knows where the console's memory holds the same, so `validate` can say how often it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gym_dream import breakout, pong
from gym_dream.data.episode import Episode

NEAR = 2.0
"""Pixels within which an object counts as where the real one is."""


@dataclass(frozen=True)
class Probe:
    """Finds one object in frames, real or dreamt.

    Attributes:
        name: of the object, as tables show it.
        locate: from frames uint8 (M, H, W, C) to centres (x, y), float (M, 2), in pixels; NaN where it is not seen.
        reliable: from centres to bool (M,): a real object here would surely be seen, so a dream must show it.
        in_ram: the centres that the console's memory, uint8 (M, 128), holds.
        comes_and_goes: whether the object can be absent; if not, only its place is worth a figure.
    """

    name: str
    locate: Callable[[np.ndarray], np.ndarray]
    reliable: Callable[[np.ndarray], np.ndarray]
    in_ram: Callable[[np.ndarray], np.ndarray]
    comes_and_goes: bool = True


@dataclass(frozen=True)
class Pieces:
    """Tells which of P fixed pieces are there, such as bricks, each of which goes when a reward comes.

    Attributes:
        name: of the pieces, as tables show it.
        look: from frames uint8 (M, H, W, C) to bool (M, P).
        in_ram: the same from the console's memory, uint8 (M, 128).
    """

    name: str
    look: Callable[[np.ndarray], np.ndarray]
    in_ram: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Number:
    """Reads a number that changes only when a reward comes, such as a score.

    Attributes:
        name: as tables show it.
        read: from frames uint8 (M, H, W, C) to int64 (M,), -1 where it cannot be read.
        in_ram: the same from the console's memory, uint8 (M, 128).
    """

    name: str
    read: Callable[[np.ndarray], np.ndarray]
    in_ram: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Details:
    """All that is looked for in one game."""

    objects: tuple[Probe, ...] = ()
    pieces: tuple[Pieces, ...] = ()
    numbers: tuple[Number, ...] = ()


BALL_PEAK = 30
BALL_SUM = breakout.BALL_REDNESS / 2
PADDLE_REDNESS = 105  # red minus green of a pixel in the paddle's row
PADDLE_WIDTH = 16 * breakout.SCALE_X


def _breakout_ball(frames: np.ndarray) -> np.ndarray:
    """The ball, if it is sharp and at least half as strong as a real one: a red haze is no ball.

    Redness is red minus green. Of 9,650 real balls the brightest pixel has 47 to 126 and the 3x3 pixels around the
    centre sum to 124 to 278; all but one, at a wall, are found.
    """
    ball = breakout.locate_in_frames(frames)[0]
    seen = np.flatnonzero(~np.isnan(ball[:, 0]))
    x, y = np.round(ball[seen]).astype(np.int64).T
    around = np.arange(-1, 2)
    rows, columns = y[:, None, None] + around[:, None], x[:, None, None] + around
    spot = frames[seen[:, None, None], rows, columns].astype(np.int64)
    redness = np.clip(spot[..., 0] - spot[..., 1], 0, None)
    faint = (redness.max(axis=(1, 2)) < BALL_PEAK) | (redness.sum(axis=(1, 2)) < BALL_SUM)
    ball[seen[faint]] = np.nan
    return ball


def _breakout_paddle(frames: np.ndarray) -> np.ndarray:
    """The paddle; where the foot of the right wall, which is red, too, covers its end, told by its left edge."""
    x = breakout.locate_in_frames(frames)[1]
    row = frames[:, breakout.PADDLE_ROW, breakout.PADDLE_COLUMNS].astype(np.float64)
    share = np.clip((row[..., 0] - row[..., 1]) / PADDLE_REDNESS, 0, 1)
    seen = share.sum(axis=1)
    covered = (share[:, -1] > 0.5) & (seen < PADDLE_WIDTH)
    x[covered] = breakout.PADDLE_COLUMNS.stop - 0.5 - seen[covered] + PADDLE_WIDTH / 2
    return np.stack([x, np.where(np.isnan(x), np.nan, breakout.PADDLE_ROW)], axis=1)


def _breakout_ball_in_ram(ram: np.ndarray) -> np.ndarray:
    return breakout.locate_in_ram(ram)[0]


def _breakout_paddle_in_ram(ram: np.ndarray) -> np.ndarray:
    x = breakout.locate_in_ram(ram)[1]
    return np.stack([x, np.full(len(x), float(breakout.PADDLE_ROW))], axis=1)


def _below_bricks(centres: np.ndarray) -> np.ndarray:
    return (centres[:, 1] >= 30) & (centres[:, 1] <= 55)


def _in_court(centres: np.ndarray) -> np.ndarray:
    """Far enough from Pong's upper and lower edge, which cut ball and paddles off."""
    return (centres[:, 1] >= 14) & (centres[:, 1] <= 53)


def _seen(centres: np.ndarray) -> np.ndarray:
    return ~np.isnan(centres[:, 0])


DETAILS: dict[str, Details] = {
    "Breakout": Details(
        objects=(
            Probe("ball", _breakout_ball, _below_bricks, _breakout_ball_in_ram),
            Probe("paddle", _breakout_paddle, _seen, _breakout_paddle_in_ram, comes_and_goes=False),
        ),
        pieces=(Pieces("bricks", breakout.bricks_in_frames, breakout.bricks_in_ram),),
        numbers=(Number("score", breakout.score_in_frames, breakout.score_in_ram),),
    ),
    "Pong": Details(
        objects=(
            Probe("ball", pong.ball_in_frames, _in_court, pong.ball_in_ram),
            *(
                Probe(
                    f"{whose}'s paddle",
                    partial(pong.paddle_in_frames, whose=whose),
                    _in_court,
                    partial(pong.paddle_in_ram, whose=whose),
                    comes_and_goes=False,
                )
                for whose in ("player", "opponent")
            ),
        ),
        numbers=tuple(
            Number(
                f"{whose}'s score", partial(pong.score_in_frames, whose=whose), partial(pong.score_in_ram, whose=whose)
            )
            for whose in ("player", "opponent")
        ),
    ),
}


def details_of(env: Mapping[str, Any]) -> Details:
    """What to look for in an environment's game, given its spec (`gym_dream.real.env_spec`); in most games nothing."""
    return DETAILS.get(env.get("game", ""), Details())


def probes_of(env: Mapping[str, Any]) -> tuple[Probe, ...]:
    """The objects to look for in an environment's game."""
    return details_of(env).objects


def all_visible(probes: tuple[Probe, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Which frames, uint8 (M, H, W, C), surely show every probed object: bool (M,)."""

    def visible(frames: np.ndarray) -> np.ndarray:
        seen = np.ones(len(frames), np.bool_)
        for probe in probes:
            seen &= probe.reliable(probe.locate(frames))
        return seen

    return visible


@dataclass(frozen=True)
class Validation:
    """How often a probe says of real frames what the console's memory says."""

    frames: int
    """Real frames that it was asked about."""
    right: float
    """Share of them; NaN without any."""


def validate(details: Details, episodes: Sequence[Episode]) -> dict[str, Validation]:
    """Compare probes with the console's memory on real frames.

    The memory holds the last moment of a step; the frame merges the last two, and shows scores one moment late. So an
    object is judged where the memory says that it would surely be seen (right: within `NEAR` of there), or that there
    is none nor was a step before (right: none seen); pieces in every frame (right: each as the memory holds it then or
    held it a step before); numbers where the memory held the same a step before (a frame in which a number changes
    may show both, one on top of the other).

    Args:
        details: what to look for.
        episodes: real games; those without recorded memory are left out.

    Returns:
        By the probe's name.
    """
    frames, ram, before = [], [], []
    for episode in episodes:
        if episode.ram is not None:
            frames.append(episode.frames[1:])
            ram.append(episode.ram)
            before.append(episode.ram[np.maximum(np.arange(len(episode)) - 1, 0)])
    probes: list[Probe | Pieces | Number] = [*details.objects, *details.pieces, *details.numbers]
    return {
        probe.name: _validation([_right(probe, *part) for part in zip(frames, ram, before, strict=True)])
        for probe in probes
    }


def _right(probe: Probe | Pieces | Number, frames: np.ndarray, ram: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Of the frames that the probe is asked about, bool: it is right."""
    now, earlier = probe.in_ram(ram), probe.in_ram(before)
    if isinstance(probe, Number):
        return (probe.read(frames) == now)[now == earlier]
    if isinstance(probe, Pieces):
        seen = probe.look(frames)
        return ((seen == now) | (seen == earlier)).all(axis=1)
    seen = probe.locate(frames)
    absent = np.isnan(now[:, 0])
    with np.errstate(invalid="ignore"):
        near = np.hypot(*(seen - now).T) <= NEAR
        asked = (absent & np.isnan(earlier[:, 0])) | probe.reliable(now)
    return np.where(absent, np.isnan(seen[:, 0]), near)[asked]


def _validation(right: Sequence[np.ndarray]) -> Validation:
    joined = np.concatenate(right) if right else np.zeros(0, np.bool_)
    return Validation(len(joined), float(joined.mean()) if len(joined) else float("nan"))
