"""A game being played, and recorded as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from gym_dream.data.episode import Episode, EpisodeInfo


class Step(NamedTuple):
    """One recorded step; everything but the frame and action it began with is as it was afterwards."""

    frame: np.ndarray  # uint8 (H, W, C)
    action: int
    next_frame: np.ndarray
    reward: float  # raw
    life_lost: bool
    game_over: bool
    truncated: bool
    lives: int  # 0 where the game has none
    ram: np.ndarray | None  # uint8 (128,), where the game has one


def take_step(env: gym.Env[Any, Any], frame: np.ndarray, action: Any, lives: int) -> tuple[Step, dict[str, Any]]:
    """Play one action.

    Args:
        env: ends with the game, not with a life. Of its ``info`` are taken ``lives``, ``raw_reward`` and ``ram`` where
            they are.
        frame: the observation before.
        action: what to do.
        lives: left before.

    Returns:
        The step, and the environment's ``info`` after it.
    """
    next_frame, reward, game_over, truncated, info = env.step(action)
    step = Step(
        frame=frame,
        action=int(action),
        next_frame=next_frame,
        reward=float(info.get("raw_reward", reward)),
        life_lost=info.get("lives", 0) < lives,
        game_over=bool(game_over),
        truncated=bool(truncated),
        lives=int(info.get("lives", 0)),
        ram=info.get("ram"),
    )
    return step, info


def to_episode(steps: Sequence[Step], spec: dict[str, Any], seed: int, policy: str, start: str = "") -> Episode:
    """The episode that consecutive steps make, from the first of a game.

    Args:
        steps: at least one.
        spec: of the environment.
        seed: of the game and of the policy's random numbers.
        policy: who played.
        start: how the game's beginning was changed, if it was.
    """
    last = steps[-1]
    memory = [step.ram for step in steps if step.ram is not None]
    return Episode(
        frames=np.stack([step.frame for step in steps] + [last.next_frame]),
        actions=np.array([step.action for step in steps], np.int64),
        rewards=np.array([step.reward for step in steps], np.float32),
        terminated=np.array([step.life_lost or step.game_over for step in steps]),
        truncated=np.array([step.truncated for step in steps]),
        lives=np.array([step.lives for step in steps], np.int32),
        ram=np.stack(memory) if memory else None,
        info=EpisodeInfo(spec, seed, policy, in_progress=not (last.game_over or last.truncated), start=start),
    )


class RecordedGame:
    """One game from its beginning, all its lives, step by step.

    Attributes:
        seed: of the game.
        frame: uint8 (H, W, C), the current one.
        steps: those played.
    """

    def __init__(self, env: gym.Env[Any, Any], spec: dict[str, Any], seed: int) -> None:
        """Begin the game.

        Args:
            env: as for `take_step`. A ``start`` in its `reset`'s ``info`` says how the beginning was changed.
            spec: what its frames and actions mean, for the episode (`gym_dream.real.env_spec`).
            seed: with the same seed and the same actions in the same ``env`` comes the same game.
        """
        self._env, self._spec, self.seed = env, spec, seed
        self.frame, info = env.reset(seed=seed)
        self._start = str(info.get("start", ""))
        self._info = {name: value for name, value in info.items() if name != "start"}
        self.steps: list[Step] = []

    def __len__(self) -> int:
        """Steps played."""
        return len(self.steps)

    @property
    def over(self) -> bool:
        """Whether the game has ended or was cut off."""
        return bool(self.steps) and (self.steps[-1].game_over or self.steps[-1].truncated)

    @property
    def info(self) -> dict[str, np.ndarray]:
        """What the environment says beside the current frame, as policies see it: a batch of one."""
        return {name: np.asarray(value)[None] for name, value in self._info.items()}

    @property
    def actions(self) -> np.ndarray:
        """int64 (T,), all that were taken."""
        return np.array([step.action for step in self.steps], np.int64)

    def life(self, most: int) -> np.ndarray:
        """uint8 (K, H, W, C), the last frames of the life at hand up to the current one, ``most`` at most."""
        frames = [self.frame]
        for step in self.steps[:-most:-1]:
            if step.life_lost or step.game_over:
                break
            frames.append(step.frame)
        return np.stack(frames[::-1])

    def step(self, action: Any) -> Step:
        """Take an action."""
        step, self._info = take_step(self._env, self.frame, action, self._info.get("lives", 0))
        self.steps.append(step)
        self.frame = step.next_frame
        return step

    def episode(self, policy: str) -> Episode:
        """What was played so far, at least one step; ``policy`` names who played."""
        return to_episode(self.steps, self._spec, self.seed, policy, self._start)
