"""The last few frames as one observation, for agents without a memory: a single frame shows no motion.

Gymnasium stacks the frames of single environments (`gymnasium.wrappers.FrameStackObservation`), but has nothing for
vector environments. A stack is uint8 (N, H, W, C * num_frames), the newest frame last, zeros where an episode had no
frames yet, as Stable-Baselines3's `VecFrameStack` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from gym_dream.policy import streams

if TYPE_CHECKING:
    from gym_dream.data.contexts import Contexts


def push(stack: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The stack with the oldest frame gone and a new one behind.

    Args:
        stack: uint8 (N, H, W, C * num_frames).
        frames: uint8 (N, H, W, C).
    """
    return np.concatenate([stack[..., frames.shape[-1] :], frames], axis=-1)


class StackFrames(VectorWrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """A vector environment that shows the last few frames.

    All three autoreset modes are understood. In mode ``SAME_STEP`` the frames of ``info["final_obs"]`` are stacked on
    those before them, so it can be handed to the network that the observations go to.
    """

    def __init__(self, envs: VectorEnv[np.ndarray, np.ndarray, np.ndarray], num_frames: int = 4) -> None:
        """Wrap environments.

        Args:
            envs: observations are uint8 (H, W, C).
            num_frames: how many the stack holds.

        Raises:
            ValueError: other observations, no frames, or environments that do not say how they reset themselves.
        """
        super().__init__(envs)
        space = envs.single_observation_space
        if not isinstance(space, Box) or space.dtype != np.uint8 or len(space.shape) != 3:
            raise ValueError(f"Expected observations that are images, uint8 (H, W, C), got {space}.")
        if num_frames < 1:
            raise ValueError(f"num_frames: expected at least 1, got {num_frames}.")
        if "autoreset_mode" not in envs.metadata:
            raise ValueError("These environments do not say how they reset: metadata['autoreset_mode'] is missing.")
        self.autoreset_mode = AutoresetMode(envs.metadata["autoreset_mode"])
        low, high = (np.tile(bound, num_frames) for bound in (space.low, space.high))
        self.single_observation_space = Box(low, high, dtype=np.uint8)
        self.observation_space = batch_space(self.single_observation_space, envs.num_envs)
        self._empty = np.zeros((envs.num_envs, *low.shape), np.uint8)
        self._stack = self._empty
        self._ended = np.zeros(envs.num_envs, np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes, all or those of ``options["reset_mask"]``, with stacks that hold one frame."""
        begun = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        frames, info = self.env.reset(seed=seed, options=options)
        self._stack = np.where(_rows(begun), push(self._empty, frames), self._stack)
        self._ended = self._ended & ~begun
        return self._stack.copy(), info

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take an action in each."""
        frames, rewards, terminated, truncated, info = self.env.step(actions)
        ended = terminated | truncated
        before, begun = self._stack, self._ended  # in mode NEXT_STEP, what ended a step ago begins now
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            begun = ended
            if ended.any():
                final = frames.copy()
                final[ended] = np.stack(list(info["final_obs"][ended]))  # some environments give an array of arrays
                info = {**info, "final_obs": push(before, final)}
        self._stack = push(np.where(_rows(begun), 0, before), frames)
        self._ended = ended
        return self._stack.copy(), rewards, terminated, truncated, info


class _State(NamedTuple):
    random: list[np.random.Generator]
    stack: np.ndarray | None  # None before the first frame


@dataclass(frozen=True)
class StackedPolicy:
    """A network that sees the last few frames, as a `gym_dream.policy.Policy`: it draws from what the network says.

    Attributes:
        name: of the policy.
        logits: the network: a stack, uint8 (N, H, W, C * num_frames), to the logits of N distributions over actions,
            float (N, num_actions).
        num_frames: how many the stack holds.
    """

    name: str
    logits: Callable[[np.ndarray], np.ndarray]
    num_frames: int = 4

    def begin(self, num_envs: int, seed: int) -> _State:
        """The rows' random streams, and nothing seen."""
        return _State(streams(num_envs, seed, purpose=6), None)

    def reset(self, state: _State, mask: np.ndarray, contexts: Contexts | None = None) -> _State:
        """Empty the stacks of what ended; put the contexts' frames before their last one on them."""
        stack = state.stack
        if stack is not None:
            stack = np.where(_rows(mask), 0, stack)
        if contexts is not None:
            for step in range(contexts.length - 1):
                seen = mask & contexts.real[:, step]
                stack = self._or_empty(stack, contexts.frames[:, step])
                stack = np.where(_rows(seen), push(stack, contexts.frames[:, step]), stack)
        return _State(state.random, stack)

    def act(self, state: _State, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, _State]:
        """Draw from the network's distribution over actions."""
        stack = push(self._or_empty(state.stack, observations), observations)
        logits = np.asarray(self.logits(stack), np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        cumulative = (weights / weights.sum(axis=1, keepdims=True)).cumsum(axis=1)[:, :-1]
        chance = np.array([stream.random() for stream in state.random])
        return (chance[:, None] >= cumulative).sum(axis=1), _State(state.random, stack)

    def _or_empty(self, stack: np.ndarray | None, frames: np.ndarray) -> np.ndarray:
        shape = (*frames.shape[:-1], frames.shape[-1] * self.num_frames)
        return np.zeros(shape, np.uint8) if stack is None else stack


def _rows(mask: np.ndarray) -> np.ndarray:
    return mask[:, None, None, None]
