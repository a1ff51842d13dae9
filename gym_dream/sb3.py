"""Any Gymnasium vector environment, dreamt or real, as a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv

Indices = int | Iterable[int] | None


class SB3VecEnv(VecEnv):
    """Hands a Gymnasium vector environment to Stable-Baselines3.

    SB3 wants ended environments reset within the step, the frame before the reset in ``terminal_observation`` and
    ``TimeLimit.truncated`` where an episode was only cut off: without it the value of what would have followed is lost,
    and with a short horizon the value function with it.

    Attributes, methods and wrappers are those of the sub-environments where there are any (`SyncVectorEnv`,
    `AsyncVectorEnv`), else those of the vector environment, the same for every index.

    Example:
        >>> envs = gymnasium.make_vec("Dream/Breakout-v0", num_envs=16, autoreset_mode="SameStep")
        >>> PPO("CnnPolicy", SB3VecEnv(envs)).learn(100_000)
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Wrap a vector environment.

        Raises:
            ValueError: it does not reset ended environments within the step.
        """
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"Stable-Baselines3 resets within the step: expected autoreset mode SAME_STEP, got {mode}. Make the "
                "vector environment with autoreset_mode='SameStep', or, if it is a SyncVectorEnv or AsyncVectorEnv, "
                "with vector_kwargs={'autoreset_mode': 'SameStep'}."
            )
        self.env = env
        self._actions: np.ndarray | None = None
        self._next_options: dict[str, Any] | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Reset all environments, with the seeds of `seed` and the options of `set_options` if either was called."""
        observations, infos = self.env.reset(seed=self._seeds[0], options=self._next_options)
        self._reset_seeds()
        self._next_options = None
        self.reset_infos = split_infos(infos, self.num_envs)
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Take the step.

        Returns:
            Observations, rewards float32, dones bool, and one info an environment. That of an ended one holds its final
            info beside that of its reset.
        """
        observations, rewards, terminated, truncated, vector_infos = self.env.step(self._actions)
        final_observations, final_infos = vector_infos.pop("final_obs", None), vector_infos.pop("final_info", {})
        infos, dones = split_infos(vector_infos, self.num_envs), np.logical_or(terminated, truncated)
        finals = split_infos(final_infos, self.num_envs)
        for i, info in enumerate(infos):
            if dones[i]:
                self.reset_infos[i] = dict(info)
                info |= finals[i]
                info["terminal_observation"] = _row(final_observations, i)
            info["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return observations, np.asarray(rewards, np.float32), dones, infos

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Options for the next reset, as the vector environment takes them.

        Raises:
            ValueError: a list; a vector environment takes one dictionary for all.
        """
        if isinstance(options, list):
            raise ValueError("A Gymnasium vector environment takes one dictionary of options for all, got a list.")
        self._next_options = options

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One frame an environment."""
        frames: Any = self.env.render() or [None] * self.num_envs
        return list(frames)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Attributes of the environments.

        Raises:
            AttributeError: there is none of that name.
        """
        inner = self.env.unwrapped
        if isinstance(inner, (SyncVectorEnv, AsyncVectorEnv)):
            values = inner.get_attr(attr_name)
        else:
            values = (getattr(self._owner(attr_name), attr_name),) * self.num_envs
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute, of all environments.

        Raises:
            ValueError: only some are to be set.
        """
        self._require_all(indices, "set_attr")
        inner = self.env.unwrapped
        if isinstance(inner, (SyncVectorEnv, AsyncVectorEnv)):
            inner.set_attr(attr_name, [value] * self.num_envs)
        else:
            owner = self._owner(attr_name)
            # What wrappers only pass on has to be set where it comes from.
            while isinstance(owner, VectorWrapper) and _read_only(owner, attr_name):
                owner = owner.env
            setattr(owner, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """Call a method of all environments.

        Raises:
            ValueError: only some are to be called.
            AttributeError: there is none of that name.
        """
        self._require_all(indices, "env_method")
        inner = self.env.unwrapped
        if isinstance(inner, (SyncVectorEnv, AsyncVectorEnv)):
            return list(inner.call(method_name, *args, **kwargs))
        return [getattr(self._owner(method_name), method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Whether environments are wrapped so; always False where they cannot be looked into."""
        inner = self.env.unwrapped
        envs = inner.envs if isinstance(inner, SyncVectorEnv) else []
        wrapped = [is_wrapped(env, wrapper_class) for env in envs] or [False] * self.num_envs
        return [wrapped[i] for i in self._get_indices(indices)]

    def _owner(self, name: str) -> Any:
        """The outermost of the wrappers that has an attribute, or the environment itself."""
        env: Any = self.env
        while isinstance(env, VectorWrapper) and not hasattr(env, name):
            env = env.env
        return env

    def _require_all(self, indices: Indices, what: str) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError(f"{what} works on all {self.num_envs} environments at once, got indices {indices}.")


def split_infos(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """A vector environment's info as one dictionary an environment.

    Each holds what concerns it: ``infos["_key"]``, if there, says to whom ``infos["key"]`` belongs.
    """
    split: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, value in infos.items():
        if key.startswith("_"):
            continue
        rows = split_infos(value, num_envs) if isinstance(value, dict) else value
        for i in np.flatnonzero(infos.get(f"_{key}", np.ones(num_envs, np.bool_))):
            split[i][key] = rows[i]
    return split


def _row(batch: Any, i: int) -> Any:
    """Row i of a batch of observations, which may be a dictionary or tuple of batches."""
    if isinstance(batch, dict):
        return {key: _row(value, i) for key, value in batch.items()}
    return tuple(_row(value, i) for value in batch) if isinstance(batch, tuple) else batch[i]


def _read_only(owner: object, name: str) -> bool:
    found = getattr(type(owner), name, None)
    return isinstance(found, property) and found.fset is None
