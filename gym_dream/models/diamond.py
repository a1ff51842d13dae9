"""DIAMOND as dynamics: the sampler draws the next frame, the reward and termination model judges the transition."""

from __future__ import annotations

import math
import weakref
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from gym_dream.dynamics import ContextTensors
from gym_dream.models.denoiser import Denoiser, to_uint8, to_unit
from gym_dream.models.graphs import Function, Recorded
from gym_dream.models.reward_termination import LSTMState, RewardTerminationModel
from gym_dream.models.sampler import SamplerConfig, sample
from gym_dream.noise import RowNoise

# What the denoiser's first feature map of a piece may take for each thread. Some such maps are at work at a time and so
# stay in a CPU's last cache, which 32 dreams' would not; docs/performance.md has the figures behind the number.
PIECE_BYTES = 2**22
LEAST_BEGUN = 16  # contexts that a recorded beginning is for; the sizes above are twice as large, and so on


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
        piece_bytes: int | None = PIECE_BYTES,
        record: bool = True,
    ) -> None:
        """Take over networks that are already on ``device``.

        Args:
            denoiser: draws frames.
            reward_termination: judges transitions.
            sampler: schedule and solver.
            device: where everything is.
            dtype: the type of the networks' arithmetic; what surrounds them stays float32.
            piece_bytes: on a CPU the denoiser works on pieces of a batch, whose maps at full size take about so much
                for each thread; None: on the whole batch, as on any other device.
            record: on an NVIDIA GPU, launch a whole step as one CUDA graph, recorded in the first step of so many
                dreams, and beginnings so, too, which keeps the memory that beginning them all takes.
        """
        self.denoiser = denoiser
        self.reward_termination = reward_termination
        self.sampler = sampler
        self.device = device
        self.dtype = dtype
        self.piece_bytes = piece_bytes
        self.record = record and device.type == "cuda"
        self._recorded: dict[SamplerConfig, Recorded] = {}
        self._recorded_begin: Recorded | None = None
        self.context_length = denoiser.config.context_length
        self.frame_shape = (*reward_termination.config.frame_size, denoiser.config.image_channels)
        self.action_space = gym.spaces.Discrete(denoiser.config.num_actions)

    @torch.no_grad()
    def begin(self, context: ContextTensors, noise: RowNoise) -> DiamondState:
        """Burn the reward and termination model in on the context's transitions, as DIAMOND does, padding included."""
        inputs, number = (context.frames, context.actions, context.real), len(context)
        if self.record:
            if self._recorded_begin is None:
                self._recorded_begin = Recorded(_weakly(self._begin))
            # Recorded for a few sizes; the last context, again and again, fills up what is missing.
            rows = torch.arange(max(LEAST_BEGUN, 1 << (number - 1).bit_length()), device=self.device)
            hidden, cell = self._recorded_begin(*(tensor[rows.clamp(max=number - 1)] for tensor in inputs))
        else:
            hidden, cell = self._begin(*inputs)
        return DiamondState(*inputs, hidden[:number], cell[:number])

    @torch.no_grad()
    def _begin(self, frames: Tensor, actions: Tensor, real: Tensor) -> tuple[Tensor, ...]:
        """The reward and termination model's memory after a context. It waits for no device, so it can be recorded."""
        seen = to_unit(frames, real)
        memory = self.reward_termination.initial_state(len(frames), self.device)
        if self.context_length > 1:
            with self._precision():
                memory = self.reward_termination(seen[:, :-1], actions, seen[:, 1:], memory).state
        return memory.hidden, memory.cell

    @torch.no_grad()
    def step(self, state: DiamondState, action: Tensor, noise: RowNoise) -> tuple[DiamondState, Tensor, Tensor, Tensor]:
        """See `gym_dream.dynamics.Dynamics.step`. Where it is recorded, nothing may have been drawn from the noise."""
        inputs = state.frames, state.actions, state.real, state.hidden, state.cell, action
        if self.record:
            outputs = self._recorded_step()(*inputs, noise.keys, noise.counters)
        else:
            outputs = self._step(*inputs, noise)
        *following, observation, reward, terminated = outputs
        return DiamondState(*following), observation, reward, terminated

    def _recorded_step(self) -> Recorded:
        """`_step` of tensors alone, recorded for the sampler as it is now."""
        if self.sampler not in self._recorded:
            itself = _weakly(self._step)

            def step(*inputs: Tensor) -> tuple[Tensor, ...]:
                *state_and_action, keys, counters = inputs
                return itself(*state_and_action, RowNoise(keys, counters))

            self._recorded[self.sampler] = Recorded(step)
        return self._recorded[self.sampler]

    @torch.no_grad()
    def _step(
        self,
        frames: Tensor,
        taken: Tensor,
        real: Tensor,
        hidden: Tensor,
        cell: Tensor,
        action: Tensor,
        noise: RowNoise,
    ) -> tuple[Tensor, ...]:
        """A step from the parts of a state to those of the next, observation, reward and ending.

        It waits for no device, so it can be recorded.
        """
        past = to_unit(frames, real)
        actions = torch.cat([taken, action[:, None]], dim=1)
        with self._precision():
            observation = to_uint8(self.sample(past, actions, noise))
            # The model judges the frame that is stored and shown, not the float behind it.
            shown = to_unit(observation[:, None], torch.ones_like(real[:, :1]))
            prediction = self.reward_termination(past[:, -1:], action[:, None], shown, LSTMState(hidden, cell))
        chance = noise.uniform((2,))
        reward = (_categorical(prediction.reward[:, 0], chance[:, 0]) - 1).float()
        terminated = _categorical(prediction.termination[:, 0], chance[:, 1]).bool()
        following = (
            torch.cat([frames[:, 1:], observation[:, None]], dim=1),
            actions[:, 1:],
            torch.cat([real[:, 1:], torch.ones_like(real[:, :1])], dim=1),
            prediction.state.hidden,
            prediction.state.cell,
        )
        return *following, observation, reward, terminated

    def sample(self, past: Tensor, actions: Tensor, noise: RowNoise) -> Tensor:
        """The next frame, float32 (B, C, H, W) in [-1, 1].

        Args:
            past: float32 (B, L, C, H, W) in [-1, 1], oldest first.
            actions: int64 (B, L); the last one leads to the frame.
            noise: each row's.
        """
        shape = past.shape[2:]
        return sample(
            lambda x, sigma: self.denoise(x, sigma, past, actions),
            noise.normal(shape),
            self.sampler,
            lambda: noise.normal(shape),
            self.denoiser.origin(past),
        )

    def denoise(self, noisy: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """As `Denoiser.forward`; on a CPU piece by piece of the batch, which changes a row by rounding at most."""
        rows = self._piece(len(noisy))
        pieces = zip(*(tensor.split(rows) for tensor in (noisy, sigma, past, actions)), strict=True)
        return torch.cat([self.denoiser(*piece) for piece in pieces])

    def _piece(self, batch: int) -> int:
        """Rows of the batch that the denoiser works on at a time: pieces as equal as can be."""
        if self.device.type != "cpu" or self.piece_bytes is None:
            return batch
        config, (height, width, _) = self.denoiser.config, self.frame_shape
        row = self.dtype.itemsize * config.channels[0] * height * width // config.patch_size**2
        most = max(1, self.piece_bytes * torch.get_num_threads() // row)
        return math.ceil(batch / math.ceil(batch / most))

    def _precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def _categorical(logits: Tensor, chance: Tensor) -> Tensor:
    """Sample classes from logits (B, K) by inverting the cumulative distribution at ``chance`` (B,) in [0, 1)."""
    cumulative = logits.softmax(dim=1).cumsum(dim=1)[:, :-1]
    return (chance[:, None] >= cumulative).sum(dim=1)


def _weakly(method: Function) -> Function:
    """A method that does not keep its object, which may keep it: else the GPU's memory outlived whoever needs it."""
    reference = weakref.WeakMethod(method)

    def call(*inputs: Any) -> tuple[Tensor, ...]:
        bound = reference()
        assert bound is not None  # it is its own object that calls
        return bound(*inputs)

    return call
