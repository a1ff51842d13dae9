"""A batch of dreams as a Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from gym_dream.actions import ActionNames
from gym_dream.dream import Dream
from gym_dream.dynamics import DreamModel
from gym_dream.env import to_numpy
from gym_dream.registration import HORIZON
from gym_dream.settings import ResetFrom, context_source, open_model, reset_options

StepResult = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class DreamVectorEnv(ActionNames, VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many dreams of one world model, in one network call a denoising step.

    Observations are uint8 (num_envs, H, W, C), fresh arrays; rewards float64, signs. Dream i with seed s goes just as
    `DreamEnv` with seed s does (up to a grey level: sums are reordered in a larger batch).

    An ended dream is reset as ``autoreset_mode`` says, with Gymnasium's meanings: ``NEXT_STEP`` by the step after,
    which ignores its action; ``SAME_STEP`` at once, with the frames before the reset (of all dreams) in
    ``info["final_obs"]`` and which dreams ended in ``info["_final_obs"]``; ``DISABLED`` by you, with
    ``reset(options={"reset_mask": …})``.

    ``info["context"]`` holds what the dreams in ``info["_context"]`` began from: ``frames`` uint8
    (num_envs, L, H, W, C), ``actions`` (num_envs, L - 1, …) and ``real`` bool (num_envs, L), False for padding.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}  # type: ignore[misc]

    def __init__(
        self,
        model: str | Path | DreamModel | None = None,
        num_envs: int = 1,
        *,
        max_episode_steps: int = HORIZON,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        reset_from: ResetFrom = "start",
        device: str = "auto",
        precision: str = "auto",
        compile: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Open a world model.

        Args:
            model: as in `DreamEnv`.
            num_envs: the number of dreams.
            max_episode_steps: the horizon, after which a dream is truncated; -1 for never.
            autoreset_mode: how ended dreams are reset, e.g. ``AutoresetMode.SAME_STEP`` or ``"SameStep"``.
            reset_from: as in `DreamEnv`, like the following.
            device: where the model runs.
            precision: of the networks.
            compile: compile the networks.
            model_kwargs: the model's own settings.
            render_mode: ``"rgb_array"`` or None.

        Raises:
            FileNotFoundError: the model is not on this machine; the message says how to get it.
            ValueError: a setting that cannot be.
        """
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}.")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}  # type: ignore[misc]
        self.render_mode = render_mode
        self.num_envs = num_envs
        world_model = open_model(model)
        dynamics = world_model.dynamics(device=device, precision=precision, compile=compile, **(model_kwargs or {}))
        contexts = context_source(world_model, reset_from)
        self.dream = Dream(dynamics, num_envs, contexts, horizon=max_episode_steps)
        self.single_observation_space = spaces.Box(0, 255, dynamics.frame_shape, np.uint8)
        self.single_action_space = dynamics.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._env_spec = world_model.config.env
        self._ended = np.zeros(num_envs, np.bool_)  # and not yet reset

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin dreams.

        Args:
            seed: dream i begins the random stream of ``seed + i`` or ``seed[i]``; without a seed its stream goes on.
            options: ``"reset_mask"``, bool (num_envs,), resets some dreams; ``"context"``, ``{"frames": uint8
                (num_envs, L, H, W, C), "actions": int (num_envs, L - 1)}``, starts them from frames of your own.

        Raises:
            ValueError: unknown options, or seeds, mask or context of the wrong shape or type.
            gymnasium.error.InvalidAction: an action of the context is not in the action space.
        """
        self._check_open()
        given = reset_options(options, self.dream.dynamics, self.num_envs)
        if isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
        elif seed is None and self.dream.observation is None:
            seed = self.np_random_seed
        seeds = range(seed, seed + self.num_envs) if isinstance(seed, (int, np.integer)) else seed
        mask = np.ones(self.num_envs, np.bool_) if given.mask is None else given.mask
        info = self._reset(mask, seeds=seeds, contexts=given.contexts)
        self._ended = self._ended & ~mask
        return self._frames(), info

    def step(self, actions: np.ndarray) -> StepResult:
        """Every dream takes one action; ended ones are reset as `autoreset_mode` says.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, or in mode ``DISABLED`` while a dream has ended.
            gymnasium.error.InvalidAction: wrong shape or type, or an action that is not in the action space.
        """
        self._check_open()
        overdue = self._ended
        if self.autoreset_mode is AutoresetMode.DISABLED and overdue.any():
            raise ResetNeeded(
                f"Dreams {np.flatnonzero(overdue).tolist()} have ended and autoreset is off: reset them with "
                "reset(options={'reset_mask': …})."
            )
        if overdue.all():
            rewards, terminated, truncated = np.zeros(self.num_envs), ~overdue, ~overdue
        else:
            step = self.dream.step(actions)
            rewards, terminated, truncated = map(to_numpy, (step.reward.double(), step.terminated, step.truncated))
            rewards[overdue] = terminated[overdue] = truncated[overdue] = 0
        info: dict[str, Any] = {}
        ended = terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            if ended.any():
                final = {"final_obs": self._frames(), "_final_obs": ended.copy()}
                info = {**final, "final_info": {}, "_final_info": ended.copy(), **self._reset(ended)}
        else:
            if overdue.any():
                info = self._reset(overdue)
            self._ended = ended
        return self._frames(), rewards, terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frame of every dream, uint8 (H, W, C), in mode ``"rgb_array"``.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        self._check_open()
        return tuple(self._frames()) if self.render_mode == "rgb_array" else None

    def close_extras(self) -> None:
        """Let go of the model."""
        vars(self).pop("dream", None)

    def _reset(self, mask: np.ndarray, **kwargs: Any) -> dict[str, Any]:
        """Reset the dreams in the mask; the info on where they begin, laid out as Gymnasium's vector infos are."""
        context = self.dream.reset(mask, **kwargs).context
        info: dict[str, np.ndarray] = {}
        for name in ("frames", "actions", "real"):
            rows = to_numpy(getattr(context, name))
            info[name] = np.zeros((self.num_envs, *rows.shape[1:]), rows.dtype)
            info[name][mask] = rows
            info[f"_{name}"] = mask.copy()
        return {"context": info, "_context": mask.copy()}

    def _frames(self) -> np.ndarray:
        if self.dream.observation is None:
            raise ResetNeeded("There is nothing to see yet: call reset() first.")
        return to_numpy(self.dream.observation)

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("This vector environment is closed: make a new one.")
