"""Pong: where the ball and the two paddles are, and what the scores say.

Positions are in pixels of the 64x64 frame; pixel i has its centre at i. The console's memory counts in pixels of its
own 160x210 picture, from another origin. Addresses as published for AtariARI (Anand et al., 2019, arXiv 1906.08226),
origins found by comparing memory and picture over whole games:

    ======= ======================================== ======================================
    address what it holds                            in the console's picture
    ======= ======================================== ======================================
    13, 14  score of the opponent and of the player  two digits from (20, 1) and (100, 1)
    49      ball, horizontal                         left edge at ram - 49, 2 wide
    50      the opponent's paddle, vertical          centre at ram - 7, 16 high; from x = 16
    51      the player's paddle, vertical            centre at ram - 5, 16 high; from x = 140
    54      ball, vertical; 0 while there is none    top edge at ram - 14, 4 high
    ======= ======================================== ======================================

The court lies between y = 34 and y = 194; what is beyond its edges is not drawn.
"""

from __future__ import annotations

import numpy as np

from gym_dream.digits import Digit, read_number

RAM_ENEMY_SCORE, RAM_PLAYER_SCORE = 13, 14
RAM_BALL_X, RAM_ENEMY_Y, RAM_PLAYER_Y, RAM_BALL_Y = 49, 50, 51, 54
SCALE_X, SCALE_Y = 64 / 160, 64 / 210  # frame pixels per pixel of the console

COURT_ROWS = slice(11, 59)
PADDLE_COLUMNS = {"opponent": slice(6, 9), "player": slice(55, 59)}
PADDLE_X = {"opponent": 18 * SCALE_X - 0.5, "player": 142 * SCALE_X - 0.5}
BALL_AREA = 2 * 4 * SCALE_X * SCALE_Y  # frame pixels
PADDLE_AREA = 4 * 16 * SCALE_X * SCALE_Y

BACKGROUND = np.array([144.0, 72.0, 17.0])
INKS = {"ball": (236, 236, 236), "player": (92, 186, 92), "opponent": (213, 130, 74)}
SCORE_DIGITS = {
    "opponent": tuple(Digit(left, top=1, row_height=4, blank=left == 20) for left in (20, 36)),
    "player": tuple(Digit(left, top=1, row_height=4, blank=left == 100) for left in (100, 116)),
}


def ball_in_ram(ram: np.ndarray) -> np.ndarray:
    """The ball's centre (x, y), from the console's memory, uint8 (N, 128): float (N, 2), NaN while there is none."""
    x, y = ram[:, RAM_BALL_X].astype(np.float64), ram[:, RAM_BALL_Y].astype(np.float64)
    ball = np.stack([(x - 48) * SCALE_X, (y - 12) * SCALE_Y], axis=1) - 0.5
    ball[y == 0] = np.nan
    return ball


def ball_in_frames(frames: np.ndarray) -> np.ndarray:
    """The ball's centre, from frames, uint8 (N, 64, 64, 3), real or dreamt: float (N, 2).

    NaN where no spot of five by five pixels is as white as half a ball.
    """
    white = _inks(frames)["ball"]
    rows, columns = np.unravel_index(white.reshape(len(white), -1).argmax(axis=1), white.shape[1:])
    near_row = np.abs(np.arange(white.shape[1]) - rows[:, None]) <= 2
    near_column = np.abs(np.arange(white.shape[2]) - columns[:, None]) <= 2
    spot = white * near_row[:, :, None] * near_column[:, None, :]
    mass = spot.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        x = (spot.sum(axis=1) * np.arange(white.shape[2])).sum(axis=1) / mass
        y = (spot.sum(axis=2) * np.arange(white.shape[1])).sum(axis=1) / mass + COURT_ROWS.start
    ball = np.stack([x, y], axis=1)
    ball[mass < BALL_AREA / 2] = np.nan
    return ball


def paddle_in_ram(ram: np.ndarray, whose: str) -> np.ndarray:
    """The centre of the paddle of ``"player"`` or ``"opponent"``, from memory, uint8 (N, 128): float (N, 2)."""
    address, origin = {"player": (RAM_PLAYER_Y, 5), "opponent": (RAM_ENEMY_Y, 7)}[whose]
    y = (ram[:, address].astype(np.float64) - origin) * SCALE_Y - 0.5
    return np.stack([np.full(len(ram), PADDLE_X[whose]), y], axis=1)


def paddle_in_frames(frames: np.ndarray, whose: str) -> np.ndarray:
    """The centre of a paddle, from frames, uint8 (N, 64, 64, 3): float (N, 2).

    Only its height is looked for, since a paddle does not leave its column. NaN where less than half a paddle is seen.
    """
    ink = _inks(frames)[whose][:, :, PADDLE_COLUMNS[whose]].sum(axis=2)
    mass = ink.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        y = (ink * np.arange(ink.shape[1])).sum(axis=1) / mass + COURT_ROWS.start
    y[mass < PADDLE_AREA / 2] = np.nan
    return np.stack([np.where(np.isnan(y), np.nan, PADDLE_X[whose]), y], axis=1)


def score_in_ram(ram: np.ndarray, whose: str) -> np.ndarray:
    """The score of ``"player"`` or ``"opponent"``, from memory, uint8 (N, 128): int64 (N,)."""
    return ram[:, {"player": RAM_PLAYER_SCORE, "opponent": RAM_ENEMY_SCORE}[whose]].astype(np.int64)


def score_in_frames(frames: np.ndarray, whose: str) -> np.ndarray:
    """A score as its digits show it, from frames, uint8 (N, 64, 64, 3): int64 (N,), -1 where they cannot be read."""
    return read_number(_inks(frames, slice(0, 8))[whose], SCORE_DIGITS[whose])


def _inks(frames: np.ndarray, rows: slice = COURT_ROWS) -> dict[str, np.ndarray]:
    """How much of each object every pixel shows, float (N, rows, 64) in [0, 1].

    Reducing a picture by area mixes colours linearly, so the shares of the three objects and of the background, which
    add up to 1, follow from the three channels.
    """
    colours = np.array(list(INKS.values())) - BACKGROUND
    shares = np.clip((frames[:, rows] - BACKGROUND) @ np.linalg.inv(colours), 0, 1)
    return {name: shares[..., index] for index, name in enumerate(INKS)}
