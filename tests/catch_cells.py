"""Catching a falling ball in 16 pixels: the smallest real game in which the whole loop has to learn to play.

The screen has four lanes and four rows. A ball falls straight down from any lane, a row a step, and a paddle one lane
wide moves by one lane or stays. When the ball comes down it turns green on the paddle and the game pays 1, or red
beside it and the game pays -1; either way it is over. Three moves take the paddle to any lane in time, so the optimum
is a return of 1 a game; who does not look is right once in four.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

SIDE = 16
LANES = 4  # and rows
STEPS = LANES - 1  # of a game
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
BALL, PADDLE, CAUGHT, MISSED = (250, 250, 90), (60, 160, 250), (60, 250, 60), (250, 60, 60)


class CatchGame(gym.Env[np.ndarray, np.int64]):
    """One game; the seed fixes where ball and paddle start."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(len(ENV["action_meanings"]))
        self.ball = self.row = self.paddle = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.ball, self.paddle = (int(place) for place in self.np_random.integers(LANES, size=2))
        self.row = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.row < STEPS, "a game that is over was not reset"
        self.paddle = min(max(self.paddle + (0, 1, -1)[int(action)], 0), LANES - 1)
        self.row += 1
        over = self.row == STEPS
        return self._frame(), (1.0 if self.ball == self.paddle else -1.0) if over else 0.0, over, False, {}

    def best_action(self) -> int:
        """What moves the paddle under the ball."""
        return STAY if self.ball == self.paddle else RIGHT if self.ball > self.paddle else LEFT

    def _frame(self) -> np.ndarray:
        lanes = np.zeros((LANES, LANES, 3), np.uint8)
        lanes[-1, self.paddle] = PADDLE
        down = CAUGHT if self.ball == self.paddle else MISSED
        lanes[self.row, self.ball] = down if self.row == STEPS else BALL
        return lanes.repeat(LANES, axis=0).repeat(LANES, axis=1)
