"""What users hand to the environments, checked: the model, where its dreams begin, and the options of a reset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import Space

from gym_dream.actions import check_actions
from gym_dream.data.contexts import Contexts
from gym_dream.dynamics import DreamModel, Dynamics

ResetFrom = Literal["start", "replay"]


def open_model(model: str | Path | DreamModel | None) -> DreamModel:
    """The world model that a user names.

    Raises:
        ValueError: none is named.
        FileNotFoundError: it is not on this machine.
    """
    if model is None:
        raise ValueError(
            "Which world model shall dream? Pass model='runs/pong/world_model' (a folder), model='breakout' (one that "
            "ships with gym_dream) or model='hub:organisation/name'."
        )
    if isinstance(model, (str, Path)):
        from gym_dream.world_model import WorldModel

        return WorldModel.load(model)
    return model


def context_source(model: DreamModel, reset_from: ResetFrom) -> Contexts:
    """The contexts that dreams begin from.

    Args:
        model: the world model.
        reset_from: ``"start"``, the first frames of real games, or ``"replay"``, any moments of them.

    Raises:
        ValueError: an unknown word, or the model comes without replay contexts.
    """
    if reset_from == "start":
        return model.starts
    if reset_from != "replay":
        raise ValueError(f"reset_from must be 'start' or 'replay', got {reset_from!r}.")
    if model.replay is None:
        raise ValueError(
            "This world model comes without replay contexts: use reset_from='start', or hand contexts of your own to "
            "reset(options={'context': {'frames': …, 'actions': …}})."
        )
    return model.replay


@dataclass(frozen=True)
class ResetOptions:
    """The options of one reset."""

    mask: np.ndarray | None = None
    """bool (num_envs,), which environments; None for all."""
    contexts: Contexts | None = None
    """One for each environment; None lets the dreams draw theirs."""


def reset_options(
    options: Mapping[str, Any] | None, dynamics: Dynamics[Any], num_envs: int | None = None
) -> ResetOptions:
    """Read the ``options`` of a Gymnasium reset.

    Args:
        options: ``"context"``, a dictionary of ``"frames"`` uint8 (L, H, W, C), ``"actions"`` (L - 1, …) and, if some
            frames are padding, ``"real"`` bool (L,); for a vector environment each with a leading ``num_envs`` axis.
            For a vector environment also ``"reset_mask"``, bool (num_envs,).
        dynamics: says what a context looks like.
        num_envs: of a vector environment; None for a single one.

    Raises:
        TypeError, ValueError, gymnasium.error.InvalidAction: something unknown, or of the wrong shape, type or range.
    """
    options = dict(options or {})
    mask, context = options.pop("reset_mask", None), options.pop("context", None)
    if options or (mask is not None and num_envs is None):
        known = "'context'" if num_envs is None else "'reset_mask' and 'context'"
        raise ValueError(f"Unknown reset options {sorted(options) or ['reset_mask']}: expected {known}.")
    if mask is not None and (getattr(mask, "dtype", None) != np.bool_ or mask.shape != (num_envs,) or not mask.any()):
        raise ValueError(
            f"options['reset_mask'] must be a NumPy array of type bool and shape ({num_envs},) with at least one True, "
            f"got {mask!r}."
        )
    return ResetOptions(mask, None if context is None else _read_context(context, dynamics, num_envs))


def _read_context(context: Any, dynamics: Dynamics[Any], num_envs: int | None) -> Contexts:
    if not isinstance(context, Mapping) or not {"frames", "actions"} <= set(context) <= {"frames", "actions", "real"}:
        got = sorted(context) if isinstance(context, Mapping) else type(context).__name__
        raise ValueError(f"options['context'] must be a dictionary of 'frames', 'actions' and maybe 'real', got {got}.")
    batch = () if num_envs is None else (num_envs,)
    length, space = dynamics.context_length, dynamics.action_space
    action_shape = space.shape or ()
    frames = _expect(context, "frames", np.uint8, (*batch, length, *dynamics.frame_shape))
    real = _expect({"real": np.ones((*batch, length), np.bool_), **context}, "real", np.bool_, (*batch, length))
    actions = np.asarray(context["actions"])
    if actions.shape != (*batch, length - 1, *action_shape):
        raise ValueError(
            f"options['context']['actions'] must be the actions between the frames, of shape "
            f"{(*batch, length - 1, *action_shape)}, got {actions.shape}."
        )
    check_actions(space, actions.reshape(-1, *action_shape), actions.size // int(np.prod(action_shape)))
    return Contexts(*(array if batch else array[None] for array in (frames, _as_stored(actions, space), real)))


def _expect(context: Mapping[str, Any], name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(context[name])
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"options['context'][{name!r}] must be {np.dtype(dtype).name} of shape {shape}, "
            f"got {array.dtype} of shape {array.shape}."
        )
    return array


def _as_stored(actions: np.ndarray, space: Space[Any]) -> np.ndarray:
    """Contexts hold single integers as int64 and vectors as float32."""
    return actions.astype(np.float32 if space.shape else np.int64)
