"""What to look for in a frame: the objects of a game whose places tell a good dream from a pretty one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gym_dream import breakout


@dataclass(frozen=True)
class Probe:
    """Finds one object in frames, real or dreamt.

    Attributes:
        name: of the object, as tables show it.
        locate: from frames uint8 (M, H, W, C) to centres (x, y), float (M, 2), in pixels; NaN where it is not seen.
        reliable: from centres to bool (M,): a real object here would surely be seen, so a dream must show it.
        comes_and_goes: whether the object can be absent; if not, only its place is worth a figure.
    """

    name: str
    locate: Callable[[np.ndarray], np.ndarray]
    reliable: Callable[[np.ndarray], np.ndarray]
    comes_and_goes: bool = True


BALL_PEAK = 30
BALL_SUM = breakout.BALL_REDNESS / 2


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
    x = breakout.locate_in_frames(frames)[1]
    return np.stack([x, np.where(np.isnan(x), np.nan, breakout.PADDLE_ROW)], axis=1)


def _below_bricks(centres: np.ndarray) -> np.ndarray:
    return (centres[:, 1] >= 30) & (centres[:, 1] <= 55)


PROBES: dict[str, tuple[Probe, ...]] = {
    "Breakout": (
        Probe("ball", _breakout_ball, _below_bricks),
        Probe("paddle", _breakout_paddle, lambda centres: ~np.isnan(centres[:, 0]), comes_and_goes=False),
    ),
}


def probes_of(env: Mapping[str, Any]) -> tuple[Probe, ...]:
    """The probes of an environment's game, given its spec (`gym_dream.real.env_spec`); most games have none."""
    return PROBES.get(env.get("game", ""), ())


def all_visible(probes: tuple[Probe, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Which frames, uint8 (M, H, W, C), surely show every probed object: bool (M,)."""

    def visible(frames: np.ndarray) -> np.ndarray:
        seen = np.ones(len(frames), np.bool_)
        for probe in probes:
            seen &= probe.reliable(probe.locate(frames))
        return seen

    return visible
