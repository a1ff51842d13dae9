"""DIAMOND as dynamics: the sampler draws the next frame, the reward and termination model judges the transition."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor

from gym_dream.dynamics import ContextTensors
from gym_dream.models.denoiser import Denoiser, to_uint8, to_unit
from gym_dream.models.reward_termination import LSTMState, RewardTerminationModel
from gym_dream.models.sampler import SamplerConfig, sample
from gym_dream.noise import RowNoise


@dataclass(frozen=True)
class DiamondState:
    """What B dreams remember."""

    frames: Tensor
    """uint8 (B, L, H, W, C), oldest first."""
    actions: Tensor
    """int64 (B, L - 1), taken between these frames."""
    real: Tensor
    """bool (B, L), False where the context was padded."""
    hidden: Tensor
    """float32 (B, lstm_size): the reward and termination model's memory."""
    cell: Tensor
    """float32 (B, lstm_size)."""


class DiamondDynamics:
    """One dream step: sample the frame, then sample reward sign and termination from their logits."""

    def __init__(
        self,
        denoiser: Denoiser,
        reward_termination: RewardTerminationModel,
        sampler: SamplerConfig,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Take over networks that are already on ``device``.

        Args:
            denoiser: draws frames.
            reward_termination: judges transitions.
            sampler: schedule and solver.
            device: where everything is.
            dtype: the type of the networks' arithmetic; what surrounds them stays float32.
        """
        self.denoiser = denoiser
        self.reward_termination = reward_termination
        self.sampler = sampler
        self.device = device
        self.dtype = dtype
        self.context_length = denoiser.config.context_length
        self.frame_shape = (*reward_termination.config.frame_size, denoiser.config.image_channels)
        self.action_space = gym.spaces.Discrete(denoiser.config.num_actions)

    @torch.no_grad()
    def begin(self, context: ContextTensors, noise: RowNoise) -> DiamondState:
        """Burn the reward and termination model in on the context's transitions, as DIAMOND does, padding included."""
        frames = to_unit(context.frames, context.real)
        memory = self.reward_termination.initial_state(len(context), self.device)
        if self.context_length > 1:
            with self._precision():
                memory = self.reward_termination(frames[:, :-1], context.actions, frames[:, 1:], memory).state
        return DiamondState(context.frames, context.actions, context.real, memory.hidden, memory.cell)

    @torch.no_grad()
    def step(self, state: DiamondState, action: Tensor, noise: RowNoise) -> tuple[DiamondState, Tensor, Tensor, Tensor]:
        """See `gym_dream.dynamics.Dynamics.step`."""
        past = to_unit(state.frames, state.real)
        actions = torch.cat([state.actions, action[:, None]], dim=1)
        shape = past.shape[2:]
        with self._precision():
            frame = sample(
                lambda x, sigma: self.denoiser(x, sigma, past, actions),
                noise.normal(shape),
                self.sampler,
                lambda: noise.normal(shape),
            )
            observation = to_uint8(frame)
            # The model judges the frame that is stored and shown, not the float behind it.
            shown = to_unit(observation[:, None], torch.ones_like(state.real[:, :1]))
            prediction = self.reward_termination(
                past[:, -1:], action[:, None], shown, LSTMState(state.hidden, state.cell)
            )
        chance = noise.uniform((2,))
        reward = (_categorical(prediction.reward[:, 0], chance[:, 0]) - 1).float()
        terminated = _categorical(prediction.termination[:, 0], chance[:, 1]).bool()
        following = DiamondState(
            frames=torch.cat([state.frames[:, 1:], observation[:, None]], dim=1),
            actions=actions[:, 1:],
            real=torch.cat([state.real[:, 1:], torch.ones_like(state.real[:, :1])], dim=1),
            hidden=prediction.state.hidden,
            cell=prediction.state.cell,
        )
        return following, observation, reward, terminated

    def _precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def _categorical(logits: Tensor, chance: Tensor) -> Tensor:
    """Sample classes from logits (B, K) by inverting the cumulative distribution at ``chance`` (B,) in [0, 1)."""
    cumulative = logits.softmax(dim=1).cumsum(dim=1)[:, :-1]
    return (chance[:, None] >= cumulative).sum(dim=1)
