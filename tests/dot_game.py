"""The game of `tiny` to be played: a dot walks, two lives, a point a step on the right half."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import tiny

LIFE = 9  # steps


class DotGame(gym.Env[np.ndarray, np.int64]):
    """Ends with the game. The seed fixes where the dot begins and the shade of the background."""

    def __init__(self, points: bool = True) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (tiny.SIDE, tiny.SIDE, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(4)
        self.points = points

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.shade, self.steps = int(self.np_random.integers(2, 12)), int(self.np_random.integers(99)), 0
        return self._frame(), {"lives": 2}

    def step(self, action: Any) -> Any:
        self.place = int(np.clip(self.place + (action == 2) - (action == 3), 0, tiny.SIDE - 2))
        self.steps += 1
        reward = float(self.points and self.place > 7)
        lives = 2 - self.steps // LIFE
        return self._frame(), reward, lives == 0, False, {"lives": lives, "raw_reward": 10 * reward}

    def _frame(self) -> np.ndarray:
        frame = np.full((tiny.SIDE, tiny.SIDE, 3), self.shade, np.uint8)
        frame[6:8, self.place : self.place + 2] = 255
        return frame
