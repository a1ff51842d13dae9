"""Models saved by Stable-Baselines3 and sb3-contrib, as policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.save_util import load_from_zip_file

from gym_dream.policy import streams

if TYPE_CHECKING:
    from gym_dream.data.contexts import Contexts

# What a policy does without, and what other versions of Python often fail to unpickle.
_UNUSED = ("learning_rate", "lr_schedule", "clip_range", "clip_range_vf", "exploration_schedule", "target_kl")


@dataclass(frozen=True)
class _Memory:
    """What an SB3 policy of N environments remembers."""

    random: np.random.Generator
    stack: np.ndarray  # uint8 (N, H, W, C * frames), the newest last
    recurrent: tuple[np.ndarray, ...] | None  # each (layers, N, units); None: as at an episode's start
    starts: np.ndarray  # bool (N,): the next observation is the first of its episode


@dataclass(frozen=True)
class SB3Policy:
    """A policy network of Stable-Baselines3 or sb3-contrib, feed-forward or recurrent.

    Frames are stacked as `VecFrameStack` stacks them: zeros before the first. Actions are drawn as the network says,
    from one random stream for the batch: the same seed and batch give the same actions.

    Attributes:
        name: how to load it again.
        network: the policy, as `load_sb3_policy` builds it.
        frame_shape: (H, W, C) of one observation.
        num_frames: how many are stacked.
    """

    name: str
    network: BasePolicy
    frame_shape: tuple[int, int, int]
    num_frames: int

    def begin(self, num_envs: int, seed: int) -> _Memory:
        """Empty stacks, and nothing remembered."""
        height, width, channels = self.frame_shape
        (random,) = streams(1, seed, purpose=3)
        stack = np.zeros((num_envs, height, width, channels * self.num_frames), np.uint8)
        return _Memory(random, stack, None, np.ones(num_envs, np.bool_))

    def reset(self, state: _Memory, mask: np.ndarray, contexts: Contexts | None = None) -> _Memory:
        """Forget what ended; run the network over the contexts' frames before their last one."""
        state = replace(state, stack=np.where(_as_rows(mask, 4), 0, state.stack), starts=state.starts | mask)
        if contexts is None:
            return state
        for step in range(contexts.length - 1):
            seen = mask & contexts.real[:, step]
            _, after = self._predict(state, contexts.frames[:, step])
            state = _Memory(
                state.random,
                np.where(_as_rows(seen, 4), after.stack, state.stack),
                _merge(seen, after.recurrent, state.recurrent),
                state.starts & ~seen,
            )
        return state

    def act(self, state: _Memory, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, _Memory]:
        """Draw from the network's distribution (networks of action values: the best)."""
        return self._predict(state, observations)

    def _predict(self, state: _Memory, observations: np.ndarray) -> tuple[np.ndarray, _Memory]:
        stack = np.concatenate([state.stack[..., self.frame_shape[2] :], observations], axis=-1)
        with torch.random.fork_rng(devices=[]):  # SB3 draws from torch's global stream
            torch.manual_seed(int(state.random.integers(2**63)))
            actions, recurrent = self.network.predict(stack, state=state.recurrent, episode_start=state.starts)
        return actions, _Memory(state.random, stack, recurrent, np.zeros_like(state.starts))


def load_sb3_policy(path: Path, num_actions: int, frame_shape: tuple[int, ...]) -> SB3Policy:
    """Load a model saved with SB3's ``model.save``. This unpickles: only open files you trust.

    Args:
        path: the zip file.
        num_actions: of the environment it is to play.
        frame_shape: (H, W, C) of that environment's observations.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no SB3 model, or it was trained on other observations or actions.
        ModuleNotFoundError: it needs a package that is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}: expected a model saved by Stable-Baselines3, e.g. 'sb3:ppo.zip'."
        )
    try:
        data, parameters, _ = load_from_zip_file(path, device="cpu", custom_objects=dict.fromkeys(_UNUSED))
    except ModuleNotFoundError as error:
        hint = " (pip install 'gym-dream[contrib]')" if error.name and error.name.startswith("sb3_contrib") else ""
        raise ModuleNotFoundError(
            f"{path} needs {error.name}, which is not installed{hint}.", name=error.name
        ) from error
    if not data or "policy_class" not in data or "policy" not in parameters:
        raise ValueError(f"{path} is a zip file, but not a model saved by Stable-Baselines3.")
    observation_space, action_space = data["observation_space"], data["action_space"]
    if not isinstance(action_space, Discrete) or int(action_space.n) != num_actions:
        raise ValueError(
            f"{path} was trained for actions {action_space}, this environment takes Discrete({num_actions})."
        )
    num_frames = _stacked_frames(observation_space, frame_shape)
    if num_frames is None:
        raise ValueError(
            f"{path} was trained on observations {observation_space}; expected images of "
            f"{frame_shape[0]}x{frame_shape[1]} with {frame_shape[2]} channels or, for stacked frames, a multiple. "
            "Train it in gym_dream's environments."
        )
    network = data["policy_class"](observation_space, action_space, lambda _: 0.0, **data["policy_kwargs"])
    network.load_state_dict(parameters["policy"])
    return SB3Policy(f"sb3:{path}", network, frame_shape, num_frames)  # type: ignore[arg-type]


def _stacked_frames(space: Space[Any], frame_shape: tuple[int, ...]) -> int | None:
    """How many frames lie in one observation, channels first or last; None if the space is of another kind."""
    if not isinstance(space, Box) or len(space.shape) != 3:
        return None
    shape = space.shape[1:] + space.shape[:1] if is_image_space_channels_first(space) else space.shape
    frames, rest = divmod(shape[2], frame_shape[2])
    return None if shape[:2] != frame_shape[:2] or rest or not frames else frames


def _as_rows(mask: np.ndarray, ndim: int) -> np.ndarray:
    return mask.reshape(-1, *(1,) * (ndim - 1))


def _merge(
    mask: np.ndarray, new: tuple[np.ndarray, ...] | None, old: tuple[np.ndarray, ...] | None
) -> tuple[np.ndarray, ...] | None:
    """Recurrent memories (layers, N, units): the new one in the rows of the mask."""
    if new is None:
        return None
    old = old or tuple(np.zeros_like(part) for part in new)
    return tuple(np.where(mask[:, None], a, b) for a, b in zip(new, old, strict=True))
