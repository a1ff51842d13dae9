"""Breakout in 16 pixels: a ball, a paddle, three bricks, and lives of some 25 steps that end with a ball missed."""

from __future__ import annotations

from typing import Any

import numpy as np

from gym_dream.data import Episode, EpisodeInfo

SIDE = 16
NOOP, RIGHT, LEFT = range(3)
ENV: dict[str, Any] = {
    "id": "Bricks-v0",
    "game": "Bricks",
    "frame_shape": [SIDE, SIDE, 3],
    "frame_skip": 1,
    "action_meanings": ["NOOP", "RIGHT", "LEFT"],
    "keys_to_action": {"": 0, "d": 1, "a": 2},
    "ending": "life",
}
BALL, PADDLE, WALL = (250, 250, 90), (60, 160, 250), (110, 110, 110)
BRICK, BRICK_COLUMNS = (230, 70, 60), (slice(1, 6), slice(6, 10), slice(10, 15))
FLOOR = 14  # row of the paddle


def life(seed: int) -> Episode:
    """The ball falls on the paddle, rises to a brick and takes it (3 points), and falls past the paddle.

    The ball is 2 pixels wide and moves by one pixel along either axis each step, the paddle by two where it is told to.
    """
    rng = np.random.default_rng(seed)
    x, y, dx, dy = int(rng.integers(2, 13)), int(rng.integers(5, 9)), int(rng.choice([-1, 1])), 1
    paddle = int(np.clip(_landing(x, y, dx) + rng.integers(-2, 1), 1, SIDE - 5))
    bricks = [True] * 3
    frames, actions, rewards = [_frame(x, y, paddle, bricks)], [], []
    over = False
    while not over:
        # Up to the paddle the player stays, afterwards it wanders and gets out of the way.
        rising_or_missed = dy < 0 or 3.0 in rewards
        action = int(rng.integers(3)) if rising_or_missed else NOOP
        if dy > 0 and 3.0 in rewards:
            action = LEFT if _landing(x, y, dx) > 6 else RIGHT
        paddle = int(np.clip(paddle + {NOOP: 0, RIGHT: 2, LEFT: -2}[action], 1, SIDE - 5))
        reward = 0.0
        dx = -dx if not 1 <= x + dx <= SIDE - 3 else dx
        hit = [i for i, columns in enumerate(BRICK_COLUMNS) if columns.start <= x + dx < columns.stop and bricks[i]]
        if dy < 0 and y + dy <= 3 and hit:
            bricks[hit[0]], reward, dy = False, 3.0, 1
        elif dy > 0 and y + 1 == FLOOR - 1 and paddle - 1 <= x + dx <= paddle + 3:
            dy = -1
        x, y = x + dx, y + dy
        over = y + 1 > FLOOR
        frames.append(_frame(x, y, paddle, bricks))
        actions.append(action)
        rewards.append(reward)
    steps = len(actions)
    terminated = np.arange(steps) == steps - 1
    return Episode(
        frames=np.stack(frames),
        actions=np.array(actions, np.int64),
        rewards=np.array(rewards, np.float32),
        terminated=terminated,
        truncated=np.zeros(steps, np.bool_),
        lives=np.where(terminated, 0, 1).astype(np.int32),
        ram=None,
        info=EpisodeInfo(env=ENV, seed=seed, policy="misses the second ball"),
    )


def locate_ball(frames: np.ndarray) -> np.ndarray:
    """The ball's upper left pixel (x, y) in frames uint8 (N, 16, 16, 3), real or dreamt: float (N, 2).

    It is the 2x2 pixels most yellow: nothing else is both red and green to more than half as much.
    """
    yellow = frames[..., :2].min(axis=3).astype(np.int64)
    spots = yellow[:, :-1, :-1] + yellow[:, 1:, :-1] + yellow[:, :-1, 1:] + yellow[:, 1:, 1:]
    y, x = np.unravel_index(spots.reshape(len(spots), -1).argmax(axis=1), spots.shape[1:])
    return np.stack([x, y], axis=1).astype(np.float64)


def _landing(x: int, y: int, dx: int) -> int:
    """Where a falling ball reaches the paddle's row."""
    for _ in range(FLOOR - 2 - y):
        dx = -dx if not 1 <= x + dx <= SIDE - 3 else dx
        x += dx
    return x


def _frame(x: int, y: int, paddle: int, bricks: list[bool]) -> np.ndarray:
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    frame[0], frame[:, 0], frame[:, -1] = WALL, WALL, WALL
    for columns, there in zip(BRICK_COLUMNS, bricks, strict=True):
        if there:
            frame[2:4, columns] = BRICK
    frame[FLOOR, paddle : paddle + 4] = PADDLE
    frame[y : y + 2, x : x + 2] = BALL  # cut off by the picture's lower edge once it is lost
    return frame
