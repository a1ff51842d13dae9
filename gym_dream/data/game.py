"""A game being played, and recorded as it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from gym_dream.data.episode import Episode, EpisodeInfo


class _Step(NamedTuple):
    """One recorded step; everything but the action it began with is as it was afterwards."""

    action: int
    reward: float
    ended: bool
    truncated: bool
    lives: int
    ram: np.ndarray | None


class RecordedGame:
    """One game from its beginning, all its lives, step by step.

    Of an environment's ``info`` it takes ``lives``, ``raw_reward`` and ``ram`` where they are; a game without lives is
    one life.

    Attributes:
        seed: of the game.
        frame: uint8 (H, W, C), the current one.
        reward: of the last step, raw; 0 at first.
        over: whether the game has ended or was cut off.
    """

    def __init__(self, env: gym.Env[np.ndarray, Any], spec: dict[str, Any], seed: int) -> None:
        """Begin the game.

        Args:
            env: ends with the game, not with a life.
            spec: what its frames and actions mean, for the episode (`gym_dream.real.env_spec`).
            seed: with the same seed and the same actions comes the same game.
        """
        self._env, self._spec, self.seed = env, spec, seed
        self.frame, self._info = env.reset(seed=seed)
        self._frames: list[np.ndarray] = [self.frame]
        self._steps: list[_Step] = []
        self.reward = 0.0
        self.over = False

    def __len__(self) -> int:
        """Steps played."""
        return len(self._steps)

    @property
    def info(self) -> dict[str, np.ndarray]:
        """What the environment says beside the current frame, as policies see it: a batch of one."""
        return {name: np.asarray(value)[None] for name, value in self._info.items()}

    @property
    def actions(self) -> np.ndarray:
        """int64 (T,), all that were taken."""
        return np.array([step.action for step in self._steps], np.int64)

    @property
    def life(self) -> np.ndarray:
        """uint8 (K, H, W, C), the frames of the life at hand up to the current one."""
        ends = [index for index, step in enumerate(self._steps) if step.ended]
        return np.stack(self._frames[ends[-1] + 1 if ends else 0 :])

    def step(self, action: int) -> bool:
        """Take an action; returns whether it ended a life."""
        lives = self._info.get("lives", 0)
        self.frame, reward, terminated, truncated, self._info = self._env.step(action)
        self.reward = float(self._info.get("raw_reward", reward))
        self.over = bool(terminated or truncated)
        ended = bool(terminated) or self._info.get("lives", 0) < lives
        self._frames.append(self.frame)
        self._steps.append(
            _Step(
                action=int(action),
                reward=self.reward,
                ended=ended,
                truncated=bool(truncated),
                lives=int(self._info.get("lives", 0)),
                ram=self._info.get("ram"),
            )
        )
        return ended

    def episode(self, policy: str) -> Episode:
        """What was played so far, at least one step; ``policy`` names who played."""
        steps = self._steps
        memory = [step.ram for step in steps if step.ram is not None]
        return Episode(
            frames=np.stack(self._frames),
            actions=self.actions,
            rewards=np.array([step.reward for step in steps], np.float32),
            terminated=np.array([step.ended for step in steps]),
            truncated=np.array([step.truncated for step in steps]),
            lives=np.array([step.lives for step in steps], np.int32),
            ram=np.stack(memory) if memory else None,
            info=EpisodeInfo(self._spec, self.seed, policy, in_progress=not self.over),
        )
