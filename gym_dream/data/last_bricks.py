"""Games of Breakout that begin near the end of their first wall."""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
import numpy as np

from gym_dream.breakout import COLUMNS, LIVES, NOOP, ROWS, without_bricks
from gym_dream.policy import streams
from gym_dream.real import ale_id

# Bricks taken away at once come back: for some steps after a reset the game still writes its wall.
WALL_DRAWN = 16


class LastBricks(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """The real game, begun when few bricks are left of its first wall, so that a second one comes soon.

    Which bricks, and how many, is drawn anew for each game; a seed fixes it. What follows is the game's own doing.
    """

    def __init__(self, env: gym.Env[np.ndarray, int], most: int) -> None:
        """Wrap a game of `gym_dream.real.make`.

        Args:
            env: Breakout. Where it limits episodes itself, the steps until the bricks are gone count.
            most: bricks that a game begins with, at most; at least one.

        Raises:
            ValueError: another game, or ``most`` is not from 1 to 108.
        """
        if env.spec is None or env.spec.id != ale_id("Breakout"):
            raise ValueError(f"Last bricks to begin a game with: for Breakout only, got {env.spec and env.spec.id}.")
        if not 1 <= most <= ROWS * COLUMNS:
            raise ValueError(f"Last bricks to begin a game with: expected from 1 to {ROWS * COLUMNS}, got {most}.")
        super().__init__(env)
        self._most = most
        self._random = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a game and take bricks away; a later life of the same game begins as the game has it.

        Returns:
            The frame, uint8 (64, 64, 3), and the game's ``info`` with ``"start"``, e.g. ``"last_bricks=3"``, which
            `gym_dream.data.collect.collect` records.
        """
        if seed is not None:
            (self._random,) = streams(1, seed, purpose=7)
        frame, info = self.env.reset(seed=seed, options=options)
        start = {"start": f"last_bricks={self._most}"}
        if info["lives"] < LIVES:
            return frame, info | start
        for _ in range(WALL_DRAWN):
            self.env.step(NOOP)
        left = self._random.permutation(ROWS * COLUMNS) < self._random.integers(1, self._most + 1)
        ale = cast("Any", self.env.unwrapped).ale
        for address, value in enumerate(without_bricks(ale.getRAM(), left)):
            ale.setRAM(address, int(value))
        # The score that was written passes for points of this step.
        frame, _, _, _, info = self.env.step(NOOP)
        return frame, info | {"raw_reward": 0.0} | start
