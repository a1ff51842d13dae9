"""A world model without networks, quick and easy to predict, to test what is built on top of one.

A dream's frame fades to black by a tenth a step, and its first pixel shows the step's random number. Action 1 pays +1,
action 2 pays -1, action 3 ends the dream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from gym_dream.data.contexts import Contexts
from gym_dream.dynamics import ContextTensors
from gym_dream.noise import RowNoise

FRAME_SHAPE = (40, 48, 3)
LENGTH = 3
END = 3


@dataclass(frozen=True)
class Memory:
    steps: Tensor  # int64 (B,), transitions seen, the context's included
    noise: Tensor  # float32 (B,), a running mix of all random numbers


@dataclass(frozen=True)
class FakeState:
    frame: Tensor  # uint8 (B, H, W, C)
    memory: Memory


@dataclass
class FakeDynamics:
    context_length: int = LENGTH
    frame_shape: tuple[int, int, int] = FRAME_SHAPE
    action_space: gym.Space[Any] = field(default_factory=lambda: gym.spaces.Discrete(4))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    calls: list[tuple[str, int]] = field(default_factory=list)

    def begin(self, context: ContextTensors, noise: RowNoise) -> FakeState:
        self.calls.append(("begin", len(context)))
        return FakeState(context.frames[:, -1], Memory(context.real.sum(dim=1) - 1, noise.uniform(())))

    def step(self, state: FakeState, action: Tensor, noise: RowNoise) -> tuple[FakeState, Tensor, Tensor, Tensor]:
        self.calls.append(("step", len(action)))
        mixed = (state.memory.noise + noise.uniform(())) % 1.0
        frame = (state.frame * 0.9).to(torch.uint8)
        frame[:, 0, 0] = (mixed[:, None] * 256).to(torch.uint8)
        reward = (action == 1).float() - (action == 2).float()
        following = FakeState(frame, Memory(state.memory.steps + 1, mixed))
        return following, frame, reward, action == END


def contexts(count: int, padded: int = 0) -> Contexts:
    """Contexts that can be told apart: context i is of brightness 10 i + 5, and its first frames may be padding."""
    frames = np.full((count, LENGTH, *FRAME_SHAPE), 5, np.uint8)
    frames += (10 * np.arange(count, dtype=np.uint8))[:, None, None, None, None]
    actions = np.tile(np.array([0, 1]), (count, 1))
    real = np.ones((count, LENGTH), np.bool_)
    frames[:, :padded], actions[:, :padded], real[:, :padded] = 0, 0, False
    return Contexts(frames, actions, real)


@dataclass
class FakeWorldModel:
    starts: Contexts = field(default_factory=lambda: contexts(20))
    replay: Contexts | None = field(default_factory=lambda: contexts(20, padded=1))
    config: Any = field(
        default_factory=lambda: SimpleNamespace(
            env={
                "game": "Fake",
                "action_meanings": ["NOOP", "FIRE", "RIGHT", "LEFTFIRE"],
                "keys_to_action": {"e": 0, " ": 1, "d": 2, "a ": 3},
            }
        )
    )

    def dynamics(
        self, device: str = "auto", precision: str = "auto", compile: bool = False, num_denoising_steps: int = 3
    ) -> FakeDynamics:
        return FakeDynamics()
