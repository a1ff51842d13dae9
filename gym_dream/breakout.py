"""Breakout: where ball, paddle and bricks are, what the score says, and a scripted player.

Positions are in pixels of the 64x64 frame; pixel i has its centre at i. The console's memory counts in pixels of its
own 160x210 picture, from another origin (found by comparing memory and picture over whole games):

    ======= ========================================== ================================
    address what it holds                              in the console's picture
    ======= ========================================== ================================
    0-35    the wall: six groups of six bytes,     a brick 8 wide and 6 high from (8, 57);
            two bits a brick, see `BRICK_BITS`     of a group the last byte is the top row
    57      lives left
    72      paddle, horizontal                         left edge at ram - 47, 16 wide
    99      ball, horizontal                           left edge at ram - 49, 2 wide
    76, 77  score, binary-coded decimal: its hundreds  three digits from (36, 5), see `SCORE_DIGITS`
            in the low half of 76, the rest in 77
    101     ball, vertical; 0 while there is no ball   top edge at ram + 9, 4 high
    ======= ========================================== ================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gym_dream.digits import Digit, read_number
from gym_dream.policy import short, streams

if TYPE_CHECKING:
    from gym_dream.data.contexts import Contexts

NOOP, FIRE, RIGHT, LEFT = range(4)

RAM_PADDLE, RAM_BALL_X, RAM_BALL_Y = 72, 99, 101
SCALE_X, SCALE_Y = 64 / 160, 64 / 210  # frame pixels per pixel of the console

LIVES = 5  # of a game
ROWS, COLUMNS = 6, 18  # of bricks
# The byte of each column's lowest brick, and the lower of its two bits, which stand for half a brick each.
BRICK_BITS = (
    *((30, 6),),
    *((24, bit) for bit in (6, 4, 2, 0)),
    *((18, bit) for bit in (0, 2, 4, 6)),
    *((12, bit) for bit in (4, 6)),
    *((6, bit) for bit in (6, 4, 2, 0)),
    *((0, bit) for bit in (0, 2, 4)),
)
BRICK_POINTS = (7, 7, 4, 4, 1, 1)  # for each row, from the top; of a whole wall 432
BRICK_ROWS = (18, 20, 21, 23, 25, 27)  # for each row of bricks, from the top, a row of pixels that is its alone
BRICK_LEVELS = (200, 198, 180, 162, 160, 200)  # the largest channel of an untouched brick there
BRICK_SHARE = 0.5  # of this level, in the darkest of the brick's own pixels: the ball is narrower than they are
RAM_SCORE_HIGH, RAM_SCORE_LOW = 76, 77
SCORE_DIGITS = tuple(Digit(left, top=5, row_height=2) for left in (36, 52, 68))
SCORE_LEVEL = 142  # of the digits' grey

FIELD_ROWS, FIELD_COLUMNS = slice(29, 57), slice(3, 61)  # between the bricks and the paddle
PADDLE_ROW, PADDLE_COLUMNS = 58, slice(4, 60)  # without the foot of the right wall, which is red, too
BALL_REDNESS = 125  # red minus green, summed over a ball at rest; up to twice that for a moving one

COURT_LEFT, COURT_RIGHT = 8 * SCALE_X - 0.5, 152 * SCALE_X - 0.5  # between these the ball's centre moves
LANDING = 187 * SCALE_Y - 0.5  # height of the ball's centre when it touches the paddle
STRIDE = 23 * SCALE_X  # how far one LEFT or RIGHT moves the paddle: half of it at once, half in the next step
SPREAD = 3 * SCALE_X  # how far from the paddle's centre the player chooses to meet the ball
SERVE = 0.2  # probability to serve, at each step without a ball


def locate_in_ram(ram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ball and paddle from the console's memory, uint8 (N, 128).

    Returns:
        The ball's centre (x, y), float (N, 2), NaN while there is none, and the paddle's centre x, float (N,).
    """
    ram = ram.astype(np.float64)
    ball = np.stack([(ram[:, RAM_BALL_X] - 48) * SCALE_X, (ram[:, RAM_BALL_Y] + 11) * SCALE_Y], axis=1) - 0.5
    ball[ram[:, RAM_BALL_Y] == 0] = np.nan
    return ball, (ram[:, RAM_PADDLE] - 39) * SCALE_X - 0.5


def ball_events(ram: np.ndarray) -> np.ndarray:
    """The steps that are hard to foresee: the ball turns, comes, goes, or flies fast (over 2.5 pixels a step down).

    Args:
        ram: uint8 (T, 128), the memory after each of T consecutive steps.

    Returns:
        bool (T,).
    """
    ball, _ = locate_in_ram(ram)
    before, earlier = (np.concatenate([np.repeat(ball[:1], k, axis=0), ball])[: len(ball)] for k in (1, 2))
    velocity, last_velocity = ball - before, before - earlier
    turns = np.abs(velocity - last_velocity).max(axis=1) > 0.7  # a straight flight wavers by a pixel of the console
    return turns | (np.isnan(ball[:, 0]) != np.isnan(before[:, 0])) | (np.abs(velocity[:, 1]) > 2.5)


def locate_in_frames(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ball and paddle from frames, uint8 (N, 64, 64, 3), real or dreamt.

    Both are the only red things below the bricks (the walls are grey). The ball is not looked for among the bricks and
    above them, where it has their colour. A frame merges two moments a quarter of a step apart, so what moves lies an
    eighth of a step behind `locate_in_ram`; otherwise the two agree to within 0.3 pixels.

    Returns:
        As `locate_in_ram`; the ball is NaN where nothing as red as a tenth of a ball is seen, the paddle where its row
        holds nothing red.
    """
    redness = np.clip(frames[..., 0].astype(np.int64) - frames[..., 1], 0, None)

    field = np.zeros_like(redness)
    field[:, FIELD_ROWS, FIELD_COLUMNS] = redness[:, FIELD_ROWS, FIELD_COLUMNS]
    rows, columns = np.unravel_index(field.reshape(len(field), -1).argmax(axis=1), field.shape[1:])
    near_row = np.abs(np.arange(field.shape[1]) - rows[:, None]) <= 2
    near_column = np.abs(np.arange(field.shape[2]) - columns[:, None]) <= 2
    spot = field * near_row[:, :, None] * near_column[:, None, :]
    ball = np.stack([_centroid(spot.sum(axis=1)), _centroid(spot.sum(axis=2))], axis=1)
    ball[spot.sum(axis=(1, 2)) < BALL_REDNESS / 10] = np.nan

    floor = np.zeros_like(redness[:, PADDLE_ROW])
    floor[:, PADDLE_COLUMNS] = redness[:, PADDLE_ROW, PADDLE_COLUMNS]
    return ball, _centroid(floor)


def bricks_in_ram(ram: np.ndarray) -> np.ndarray:
    """Which bricks stand, from the console's memory, uint8 (N, 128): bool (N, 108), row by row from the top left."""
    bytes_, bits = _wall()
    return ((ram[:, bytes_] >> bits) & 1).astype(np.bool_).reshape(len(ram), -1)


def without_bricks(ram: np.ndarray, left: np.ndarray) -> np.ndarray:
    """The console's memory, uint8 (128,), when of a whole first wall only the bricks ``left``, bool (108,), stand.

    Their points are in the score, for it is by a score of 432 that the game tells a cleared wall: the next one comes
    when the ball then touches the paddle.
    """
    ram, gone = ram.copy(), ~left.reshape(ROWS, COLUMNS)
    bytes_, bits = _wall()
    np.bitwise_and.at(ram, bytes_[gone], ~(3 << np.broadcast_to(bits, gone.shape)[gone]).astype(np.uint8))
    high, low = divmod(int(gone.sum(axis=1) @ BRICK_POINTS), 100)
    ram[RAM_SCORE_HIGH] = ram[RAM_SCORE_HIGH] & 0xF0 | high
    ram[RAM_SCORE_LOW] = 16 * (low // 10) + low % 10
    return ram


def _wall() -> tuple[np.ndarray, np.ndarray]:
    """Of each brick the address of its byte, int (6, 18), and its bit, int (18,)."""
    bytes_ = np.array([[base + ROWS - 1 - row for base, _ in BRICK_BITS] for row in range(ROWS)])
    return bytes_, np.array([bit for _, bit in BRICK_BITS])


def bricks_in_frames(frames: np.ndarray) -> np.ndarray:
    """Which bricks stand, from frames, uint8 (N, 64, 64, 3), real or dreamt: bool (N, 108), as `bricks_in_ram`.

    A brick stands where all pixels that are its alone have at least half its brightness. A ball between the bricks
    covers too few of them to pass for one.
    """
    level = frames[:, BRICK_ROWS].max(axis=3) / np.array(BRICK_LEVELS)[:, None]  # (N, rows, 64)
    standing = []
    for column in range(COLUMNS):
        left, right = 8 * (column + 1) * SCALE_X, 8 * (column + 2) * SCALE_X
        own = slice(int(np.ceil(left - 1e-9)), int(np.floor(right + 1e-9)))
        standing.append(level[:, :, own].min(axis=2) >= BRICK_SHARE)
    return np.stack(standing, axis=2).reshape(len(frames), -1)


def score_in_ram(ram: np.ndarray) -> np.ndarray:
    """The score, from the console's memory, uint8 (N, 128): int64 (N,)."""
    high, low = ram[:, RAM_SCORE_HIGH].astype(np.int64), ram[:, RAM_SCORE_LOW].astype(np.int64)
    return 100 * (high & 15) + 10 * (low >> 4) + (low & 15)


def score_in_frames(frames: np.ndarray) -> np.ndarray:
    """The score as its digits show it, from frames, uint8 (N, 64, 64, 3): int64 (N,), -1 where they cannot be read."""
    return read_number(frames.mean(axis=3) / SCORE_LEVEL, SCORE_DIGITS)


def _centroid(mass: np.ndarray) -> np.ndarray:
    """Mean position, float (N,), of the mass (N, length); NaN where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (mass * np.arange(mass.shape[1])).sum(axis=1) / mass.sum(axis=1)


@dataclass(frozen=True)
class _Memory:
    """What the scripted player remembers of N games."""

    random: list[np.random.Generator]
    sights: np.ndarray  # float (lag + 2, N, 2): where the ball was seen, the newest first; NaN: nowhere
    heading: np.ndarray  # int (N,): -1, 0 or 1, where the last action drove the paddle
    falling: np.ndarray  # bool (N,): the ball was coming down at the last step
    offset: np.ndarray  # float (N,): where to meet the falling ball, relative to its landing
    resort: np.ndarray  # float (N,): where to wait for a rising ball; NaN: below it


@dataclass(frozen=True)
class ScriptedBreakout:
    """Foresees where the falling ball lands and meets it with a part of the paddle chosen anew for each fall.

    While the ball rises the player follows it or waits at a random place, chosen anew for each rise. Without a ball it
    serves at a random moment.

    Attributes:
        source: ``"pixels"`` looks at the frames, so it plays in dream and real game alike; ``"ram"`` reads the
            console's memory, ``info["ram"]`` uint8 (N, 128).
        noise: largest error in judging where the ball lands, as a fraction of the court's width, drawn for each fall.
        lag: reaction time: the ball is seen that many steps late.
    """

    source: Literal["pixels", "ram"] = "pixels"
    noise: float = 0.0
    lag: int = 0

    def __post_init__(self) -> None:
        if self.source not in ("pixels", "ram"):
            raise ValueError(f"source must be 'pixels' or 'ram', got {self.source!r}.")
        if self.noise < 0 or self.lag < 0:
            raise ValueError(f"noise and lag must not be negative, got noise={self.noise} and lag={self.lag}.")

    @property
    def name(self) -> str:
        """E.g. ``"scripted(noise=0.03)"``; where the player looked is not said."""
        lag = f",lag={self.lag}" if self.lag else ""
        return f"scripted(noise={short(self.noise)}{lag})"

    def begin(self, num_envs: int, seed: int) -> _Memory:
        """Nothing seen yet."""
        return _Memory(
            random=streams(num_envs, seed, purpose=2),
            sights=np.full((self.lag + 2, num_envs, 2), np.nan),
            heading=np.zeros(num_envs, np.int64),
            falling=np.zeros(num_envs, np.bool_),
            offset=np.zeros(num_envs),
            resort=np.full(num_envs, np.nan),
        )

    def reset(self, state: _Memory, mask: np.ndarray, contexts: Contexts | None = None) -> _Memory:
        """Forget the ball and the last action, or take them from the contexts' frames (with source "pixels")."""
        fresh = self.begin(len(mask), seed=0)
        sights, heading = fresh.sights, fresh.heading
        if contexts is not None and self.source == "pixels":
            for frames, real in zip(contexts.frames[:, :-1].swapaxes(0, 1), contexts.real[:, :-1].T, strict=True):
                ball = np.where(real[:, None], locate_in_frames(frames)[0], np.nan)
                sights = np.concatenate([ball[None], sights[:-1]])
            if contexts.length > 1:
                last = np.where(contexts.real[:, -2], contexts.actions[:, -1], NOOP)
                heading = (last == RIGHT).astype(np.int64) - (last == LEFT)
        return replace(
            state,
            sights=np.where(mask[:, None], sights, state.sights),
            heading=np.where(mask, heading, state.heading),
            falling=state.falling & ~mask,
            resort=np.where(mask, np.nan, state.resort),
        )

    def act(self, state: _Memory, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, _Memory]:
        """Drive the paddle to where the ball will land.

        Raises:
            ValueError: source is "ram" and the environment does not show its memory.
        """
        ball, paddle = self._look(observations, info)
        sights = np.concatenate([ball[None], state.sights[:-1]])
        here, velocity = sights[-2], sights[-2] - sights[-1]
        falling = velocity[:, 1] > 0
        dice = np.stack([stream.random(5) for stream in state.random]).T  # (5, N), uniform in [0, 1)

        turned = falling != state.falling
        misjudged = (2 * dice[0] - 1) * self.noise * (COURT_RIGHT - COURT_LEFT)
        offset = np.where(turned, misjudged + (2 * dice[1] - 1) * SPREAD, state.offset)
        anywhere = COURT_LEFT + dice[2] * (COURT_RIGHT - COURT_LEFT)
        resort = np.where(turned, np.where(dice[3] < 0.5, anywhere, np.nan), state.resort)

        steps = np.full(len(here), np.inf)  # until the ball lands
        np.divide(LANDING - here[:, 1], velocity[:, 1], out=steps, where=falling)
        landing = _reflect(here[:, 0] + np.where(falling, steps, 0.0) * velocity[:, 0])
        target = np.where(falling, landing + offset, np.where(np.isnan(resort), here[:, 0], resort))

        rest = paddle + state.heading * STRIDE / 2  # where the paddle stops if it is driven no further
        reach = np.where(steps < 1.5, STRIDE / 2, STRIDE)
        heading = np.nan_to_num(np.clip(np.round((target - rest) / reach), -1, 1)).astype(np.int64)
        serve = np.isnan(here[:, 0]) & (dice[4] < SERVE)
        heading[serve] = 0
        actions = np.where(serve, FIRE, np.choose(heading + 1, [LEFT, NOOP, RIGHT]))
        return actions, _Memory(state.random, sights, heading, falling, offset, resort)

    def _look(self, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        if self.source == "pixels":
            return locate_in_frames(observations)
        if "ram" not in info:
            raise ValueError(
                "This scripted player reads info['ram'], which only gym_dream.real.make shows: use source='pixels'."
            )
        return locate_in_ram(info["ram"])


def _reflect(x: np.ndarray) -> np.ndarray:
    """Where a ball on its way to x ends up between the side walls."""
    width = COURT_RIGHT - COURT_LEFT
    phase = np.mod(x - COURT_LEFT, 2 * width)
    return COURT_LEFT + width - np.abs(phase - width)
