"""Dynamics of frames alone: what draws the next frame from the past becomes a dream without rewards or endings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor

from gym_dream.dynamics import ContextTensors
from gym_dream.models.denoiser import to_uint8, to_unit
from gym_dream.noise import RowNoise

NextFrame = Callable[[Tensor, Tensor, RowNoise], Tensor]
"""past float32 (B, L, C, H, W) in [-1, 1], actions int64 (B, L), noise -> next frame float32 (B, C, H, W)."""


@dataclass(frozen=True)
class FrameState:
    """What B dreams remember."""

    frames: Tensor
    """uint8 (B, L, H, W, C), oldest first."""
    actions: Tensor
    """int64 (B, L - 1), taken between these frames."""
    real: Tensor
    """bool (B, L), False where the context was padded."""


class FrameDynamics:
    """One dream step: draw the frame. The reward is 0 and nothing terminates."""

    def __init__(
        self,
        next_frame: NextFrame,
        *,
        context_length: int,
        frame_shape: tuple[int, int, int],
        num_actions: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Dream with a function.

        Args:
            next_frame: draws the frame; rows must not mix. What it returns is rounded to 256 levels.
            context_length: frames that it sees, L.
            frame_shape: (H, W, C).
            num_actions: how many actions there are.
            device: where its tensors are.
        """
        self.next_frame = next_frame
        self.context_length = context_length
        self.frame_shape = frame_shape
        self.action_space = gym.spaces.Discrete(num_actions)
        self.device = torch.device(device)

    def begin(self, context: ContextTensors, noise: RowNoise) -> FrameState:
        """See `gym_dream.dynamics.Dynamics.begin`."""
        return FrameState(context.frames, context.actions, context.real)

    @torch.no_grad()
    def step(self, state: FrameState, action: Tensor, noise: RowNoise) -> tuple[FrameState, Tensor, Tensor, Tensor]:
        """See `gym_dream.dynamics.Dynamics.step`."""
        actions = torch.cat([state.actions, action[:, None]], dim=1)
        observation = to_uint8(self.next_frame(to_unit(state.frames, state.real), actions, noise))
        following = FrameState(
            frames=torch.cat([state.frames[:, 1:], observation[:, None]], dim=1),
            actions=actions[:, 1:],
            real=torch.cat([state.real[:, 1:], torch.ones_like(state.real[:, :1])], dim=1),
        )
        reward = torch.zeros(len(observation), device=self.device)
        return following, observation, reward, torch.zeros_like(reward, dtype=torch.bool)
