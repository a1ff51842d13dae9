"""One dream as a Gymnasium environment."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from torch import Tensor

from gym_dream.actions import ActionNames
from gym_dream.dream import Dream
from gym_dream.dynamics import DreamModel
from gym_dream.settings import ResetFrom, context_source, open_model, reset_options
from gym_dream.window import Window


class DreamEnv(ActionNames, gym.Env[np.ndarray, Any]):
    """A world model's dream, one at a time: a batch of one.

    Observations are uint8 (H, W, C), fresh arrays; rewards are signs. A dream is not limited in length here: under
    `gymnasium.make` Gymnasium's ``TimeLimit`` truncates it (``max_episode_steps``, 1000 as registered; -1 for never).
    After an ending `step` goes on dreaming, as `Dream` does.

    ``info["context"]`` at a reset holds what the dream began from, for agents that remember: ``frames`` uint8
    (L, H, W, C), of which the last is the observation, ``actions`` (L - 1, …) and ``real`` bool (L,), False where a
    frame is padding.

    Example:
        >>> env = gymnasium.make("Dream/Breakout-v0", render_mode="rgb_array")
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    """

    # Without pygame, Gymnasium says what is missing when "human" is asked for.
    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"] + ["human"] * (importlib.util.find_spec("pygame") is not None),
        "render_fps": 15,
    }

    def __init__(
        self,
        model: str | Path | DreamModel | None = None,
        *,
        reset_from: ResetFrom = "start",
        device: str = "auto",
        precision: str = "auto",
        compile: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Open a world model.

        Args:
            model: the name of a model that ships with gym_dream, a world model folder, ``"hub:organisation/name"``, or
                a model already loaded.
            reset_from: begin at the ``"start"`` of real games or at any moment of them, ``"replay"``.
            device: where the model runs, e.g. ``"cpu"`` or ``"cuda"``.
            precision: of the networks, e.g. ``"float32"``.
            compile: compile the networks; pays off after some thousand steps.
            model_kwargs: the model's own settings, e.g. ``{"num_denoising_steps": 3}``.
            render_mode: ``"rgb_array"`` (the frame as it is), ``"human"`` (a window) or None.

        Raises:
            FileNotFoundError: the model is not on this machine; the message says how to get it.
            ValueError: a setting that cannot be.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode must be one of {self.metadata['render_modes']} or None, got {render_mode!r}."
            )
        world_model = open_model(model)
        dynamics = world_model.dynamics(device=device, precision=precision, compile=compile, **(model_kwargs or {}))
        self.dream = Dream(dynamics, num_dreams=1, contexts=context_source(world_model, reset_from))
        self.metadata = dict(self.metadata)  # type: ignore[misc]
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, dynamics.frame_shape, np.uint8)
        self.action_space = dynamics.action_space
        self._env_spec = world_model.config.env
        self._window = Window(f"A dream of {self._env_spec.get('game', 'a game')}", self.metadata["render_fps"])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream.

        Args:
            seed: begins a random stream; without one the stream goes on.
            options: ``{"context": {"frames": uint8 (L, H, W, C), "actions": int (L - 1,)}}`` starts this dream from
                frames of your own.

        Raises:
            ValueError: unknown options, or a context of the wrong shape or type.
            gymnasium.error.InvalidAction: an action of the context is not in the action space.
        """
        given = reset_options(options, self.dream.dynamics)
        super().reset(seed=seed)
        if seed is None and self.dream.observation is None:
            seed = self.np_random_seed
        context = self.dream.reset(seeds=[seed], contexts=given.contexts).context
        self._show()
        names = ("frames", "actions", "real")
        return self._frame(), {"context": {name: to_numpy(getattr(context, name)[0]) for name in names}}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
            gymnasium.error.InvalidAction: an action that is not in the action space.
        """
        step = self.dream.step(np.asarray(action)[None])
        self._show()
        return self._frame(), float(step.reward), bool(step.terminated), bool(step.truncated), {}

    def render(self) -> np.ndarray | None:
        """The current frame in mode ``"rgb_array"``; in mode ``"human"`` it is shown."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode: give gymnasium.make(…, render_mode='rgb_array').")
        self._show()
        return self._frame() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close the window, if one is open."""
        self._window.close()

    def _frame(self) -> np.ndarray:
        if self.dream.observation is None:
            raise ResetNeeded("There is nothing to see yet: call reset() before render().")
        return to_numpy(self.dream.observation[0])

    def _show(self) -> None:
        if self.render_mode == "human":
            self._window.show(self._frame())


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A NumPy copy, never a view."""
    return tensor.to("cpu", copy=True).numpy()
