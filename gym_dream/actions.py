"""Which actions a dream takes, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.error import InvalidAction
from gymnasium.vector.utils import batch_space


def check_actions(space: Space[Any], actions: Any, count: int) -> np.ndarray:
    """A batch of actions in the type of their space.

    Args:
        space: the space of one action.
        actions: array-like (count, …).
        count: how many there should be.

    Raises:
        gymnasium.error.InvalidAction: wrong shape or type, or a value that is not in the space.
    """
    batch = batch_space(space, count)
    actions = np.asarray(actions)
    if actions.shape != batch.shape or not np.can_cast(actions.dtype, np.dtype(batch.dtype), "same_kind"):
        raise InvalidAction(
            f"Expected {count} actions of {space}, an array of shape {batch.shape} and type {batch.dtype}; "
            f"got shape {actions.shape} and type {actions.dtype}."
        )
    converted = actions.astype(batch.dtype)
    if converted not in batch:
        row = next(i for i, action in enumerate(converted) if action not in space)
        raise InvalidAction(f"Expected actions in {space}, got {actions[row]} (row {row} of {count}).")
    return converted


class ActionNames:
    """Names and keys of the actions, from the specification of the real environment in a model's config."""

    _env_spec: Mapping[str, Any]

    def get_action_meanings(self) -> list[str]:
        """The name of each action, e.g. ``["NOOP", "FIRE", "RIGHT", "LEFT"]``.

        Raises:
            ValueError: the world model does not say.
        """
        return list(self._of_spec("action_meanings"))

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """The action of each combination of keys, as `gymnasium.utils.play` wants it, e.g. ``{("d",): 2}``.

        Raises:
            ValueError: the world model does not say.
        """
        return {tuple(keys): action for keys, action in self._of_spec("keys_to_action").items()}

    def _of_spec(self, name: str) -> Any:
        if name not in self._env_spec:
            raise ValueError(f"This world model's config does not say its {name}: add it under 'env' in config.json.")
        return self._env_spec[name]
