"""Catch in 16 pixels: a ball falls, and after four steps a paddle is under it or not.

At first the ball is alone; after a step a decoy like it falls on the other side, and only then the paddle moves. Who
remembers which was there first catches every ball: the optimum is a return of 1 an episode. Who follows either reaches
about a quarter of that.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

SIDE = 16
LANES = 8  # two pixels each
STEPS = 4  # of an episode
OPTIMUM = 1.0
STAY, RIGHT, LEFT = range(3)
ENV: dict[str, Any] = {
    "id": "Catch-v0",
    "game": "Catch",
    "frame_shape": [SIDE, SIDE, 3],
    "frame_skip": 1,
    "action_meanings": ["NOOP", "RIGHT", "LEFT"],
    "keys_to_action": {"": 0, "d": 1, "a": 2},
    "ending": "game",
}


class CatchVectorEnv(VectorEnv):
    """Many games at once; resets are left to the caller. A ball caught pays 1, one missed -1."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        self.single_action_space = gym.spaces.Discrete(len(ENV["action_meanings"]))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.ball, self.height, self.paddle = np.zeros((3, num_envs), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self.ball[mask] = self.np_random.integers(LANES, size=mask.sum())
        self.paddle[mask] = self.np_random.integers(LANES // 2 - 1, LANES // 2 + 1, size=mask.sum())
        # Games of one batch are at different stages: else an update would see only the beginnings, or only the ends.
        self.height[mask] = self.np_random.integers(STEPS, size=mask.sum()) if mask.all() and seed is not None else 0
        return self._frames(), {}

    def step(self, actions: np.ndarray) -> Any:
        assert (self.height < STEPS).all(), "a game that is over was not reset"
        move = np.choose(actions, [0, 1, -1])
        self.paddle = np.clip(self.paddle + np.where(self.height == 0, 0, move), 1, LANES - 2)
        self.height += 1
        over = self.height == STEPS
        rewards = np.where(over, np.where(abs(self.ball - self.paddle) <= 1, 1.0, -1.0), 0.0)
        return self._frames(), rewards, over, np.zeros_like(over), {}

    def _frames(self) -> np.ndarray:
        lanes = np.zeros((self.num_envs, LANES, LANES, 3), np.uint8)
        rows = np.arange(self.num_envs)
        first, right = self.height == 0, self.ball >= LANES // 2
        lanes[first & ~right, :, : LANES // 2] = lanes[first & right, :, LANES // 2 :] = (40, 120, 40)
        for part in (-1, 0, 1):
            lanes[rows, -1, self.paddle + part] = (60, 160, 250)
        row = np.minimum(2 * self.height, LANES - 1)
        two = rows[~first]
        lanes[rows, row, self.ball] = lanes[two, row[two], LANES - 1 - self.ball[two]] = (250, 250, 90)
        return lanes.repeat(2, axis=1).repeat(2, axis=2)
