"""A Gymnasium vector environment as a world to train an agent in: the control experiment without a world model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from gym_dream.dream import DreamReset, DreamStep
from gym_dream.dynamics import ContextTensors


class VectorEnvWorld:
    """Steps a vector environment as `gym_dream.dream.Dream` is stepped: on tensors, and nothing is reset by itself.

    An episode begins from a context of one frame, so there is nothing to catch up on, unless the environment says in
    ``info["context"]`` what came before, as `gym_dream.vector_env.DreamVectorEnv` does.

    Environments cannot be kept in a checkpoint: after `load_tensors` all episodes begin anew, from other seeds.

    Attributes:
        observation: uint8 (B, H, W, C), the current frames; None before the first reset.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], *, seed: int, device: str | torch.device = "cpu") -> None:
        """Take over environments.

        Args:
            envs: made with ``autoreset_mode="Disabled"``, observations uint8 (H, W, C), discrete actions.
            seed: of the environments.
            device: where the tensors go.

        Raises:
            ValueError: the environments reset themselves, which hides final frames.
        """
        mode = envs.metadata.get("autoreset_mode")
        if mode is None or AutoresetMode(mode) is not AutoresetMode.DISABLED:
            raise ValueError(
                f"Expected environments that leave resets to the trainer, got autoreset_mode={mode}: make them with "
                "autoreset_mode='Disabled'."
            )
        self.envs = envs
        self.observation: Tensor | None = None
        self._seed, self._device = seed, torch.device(device)
        self._times_begun = 0

    def reset(self, mask: Tensor | None = None) -> DreamReset:
        """Begin the episodes in the mask, bool (B,), anew; all by default, as at first."""
        if self.observation is None:
            drawn = np.random.default_rng([self._seed, self._times_begun]).integers(2**30)
            self._times_begun += 1
            frames, info = self.envs.reset(seed=int(drawn))
        else:
            options = None if mask is None else {"reset_mask": mask.cpu().numpy()}
            frames, info = self.envs.reset(options=options)
        self.observation = self._tensor(frames)
        if mask is None:
            mask = torch.ones(len(frames), dtype=torch.bool, device=self._device)
        return DreamReset(self.observation, mask, self._context(info, mask))

    def step(self, actions: Tensor) -> DreamStep:
        """Take an action, int64 (B,), in each."""
        frames, rewards, terminated, truncated, _ = self.envs.step(actions.cpu().numpy())
        self.observation = self._tensor(frames)
        return DreamStep(
            self.observation, self._tensor(rewards).float(), self._tensor(terminated), self._tensor(truncated)
        )

    def tensors(self) -> dict[str, Tensor]:
        """How often all episodes were begun, so that they do not begin with the same seeds again."""
        return {"times_begun": torch.tensor(self._times_begun)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin all episodes anew at the next reset."""
        self._times_begun = int(tensors["times_begun"])
        self.observation = None

    def _context(self, info: Mapping[str, Any], mask: Tensor) -> ContextTensors:
        rows = mask.nonzero()[:, 0]
        if "context" in info:
            return ContextTensors(
                *(self._tensor(info["context"][name])[rows] for name in ("frames", "actions", "real"))
            )
        assert self.observation is not None
        frames = self.observation[rows, None]
        actions = torch.zeros(len(rows), 0, dtype=torch.int64, device=self._device)
        return ContextTensors(frames, actions, torch.ones(len(rows), 1, dtype=torch.bool, device=self._device))

    def _tensor(self, array: np.ndarray) -> Tensor:
        """A copy: environments may write into the arrays that they hand out."""
        return torch.tensor(array, device=self._device)
