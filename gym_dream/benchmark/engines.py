"""How networks are run: precision, memory layout, compiled or not; and dreams run in each of these ways."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gym_dream.data.contexts import Contexts
from gym_dream.dynamics import Dynamics
from gym_dream.models.diamond import DiamondDynamics
from gym_dream.models.frame_dynamics import FrameDynamics
from gym_dream.models.int8 import why_not
from gym_dream.noise import RowNoise
from gym_dream.vector_env import DreamVectorEnv
from gym_dream.world_model import DreamPrecision, WorldModel, WorldModelConfig, resolve_dtype


@dataclass(frozen=True)
class Engine:
    """One way of running a network."""

    precision: DreamPrecision = "float32"
    compile: bool = False
    plain: bool = False
    """As PyTorch comes: its default layout, the whole batch at once, nothing prepared, compiled or recorded."""

    def __post_init__(self) -> None:
        if self.plain and self.compile:
            raise ValueError("Expected plain or compile, not both: what is plain is not compiled.")

    @property
    def name(self) -> str:
        """For people."""
        layout = "contiguous" if self.plain else "channels-last"
        return f"{self.precision} {layout}{' compiled' if self.compile else ''}"


REFERENCE = Engine("float32", plain=True)
"""How DIAMOND's released code runs: what every ratio is against."""


def engines(device: torch.device, compile: bool) -> tuple[Engine, ...]:
    """The reference first, then every way that this hardware has instructions for."""
    precisions: list[DreamPrecision] = ["float32"]
    if resolve_dtype("auto", device) == torch.bfloat16:
        precisions.append("bfloat16")
    if device.type == "cuda" or (device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_fp16_supported()):
        precisions.append("float16")
    if why_not(device.type) is None:
        precisions.append("int8")
    compiled = [Engine(precision, compile=True) for precision in precisions] if compile else []
    return (REFERENCE, *(Engine(precision) for precision in precisions), *compiled)


def open_dynamics(world_model: WorldModel, engine: Engine, device: torch.device) -> DiamondDynamics:
    """A world model's dynamics, run this way."""
    if not engine.plain:
        return world_model.dynamics(str(device), engine.precision, engine.compile)
    denoiser, judge = copy.deepcopy(world_model.denoiser), copy.deepcopy(world_model.reward_termination)
    for network in (denoiser, judge):
        network.requires_grad_(False).eval().to(device=device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    dtype, sampler = resolve_dtype(engine.precision, device), world_model.config.sampler
    return DiamondDynamics(denoiser, judge, sampler, device, dtype, piece_bytes=None, record=False)


def with_steps(
    dynamics: DiamondDynamics, num_denoising_steps: int | None = None, record: bool | None = None
) -> DiamondDynamics:
    """The same networks, with this many passes of the denoiser a frame, recorded or not; None: as they are."""
    num_denoising_steps = num_denoising_steps or dynamics.sampler.num_denoising_steps
    record = dynamics.record if record is None else record
    sampler = dataclasses.replace(dynamics.sampler, num_denoising_steps=num_denoising_steps)
    networks = dynamics.denoiser, dynamics.reward_termination
    return DiamondDynamics(*networks, sampler, dynamics.device, dynamics.dtype, dynamics.piece_bytes, record)


def sample_frame(dynamics: DiamondDynamics, past: Tensor, actions: Tensor, noise: RowNoise) -> Tensor:
    """The next frame and nothing else, as `DiamondDynamics.step` draws it: float32 (B, C, H, W)."""
    with torch.autocast(dynamics.device.type, dynamics.dtype, enabled=dynamics.dtype != torch.float32):
        return dynamics.sample(past, actions, noise)


def without_rewards(dynamics: DiamondDynamics) -> FrameDynamics:
    """The same dream without the reward and termination model."""
    return FrameDynamics(
        lambda past, actions, noise: sample_frame(dynamics, past, actions, noise),
        context_length=dynamics.context_length,
        frame_shape=dynamics.frame_shape,
        num_actions=dynamics.denoiser.config.num_actions,
        device=dynamics.device,
    )


class Endless:
    """Dynamics whose dreams never end, so that no reset falls into a measurement (random weights end every other)."""

    def __init__(self, dynamics: Dynamics[Any]) -> None:
        self.begin, self._step = dynamics.begin, dynamics.step
        self.context_length, self.frame_shape = dynamics.context_length, dynamics.frame_shape
        self.action_space, self.device = dynamics.action_space, dynamics.device

    def step(self, state: Any, action: Tensor, noise: RowNoise) -> tuple[Any, Tensor, Tensor, Tensor]:
        """See `gym_dream.dynamics.Dynamics.step`."""
        state, observation, reward, terminated = self._step(state, action, noise)
        return state, observation, reward, torch.zeros_like(terminated)


@dataclass(frozen=True)
class _Opened:
    """A world model whose dynamics are made already."""

    made: Dynamics[Any]
    config: WorldModelConfig
    starts: Contexts
    replay: Contexts | None = None

    def dynamics(self, device: str = "auto", precision: Any = "auto", compile: bool = False, **_: Any) -> Dynamics[Any]:
        return self.made


def env_step(world_model: WorldModel, dynamics: Dynamics[Any], batch: int) -> Callable[[], object]:
    """One step of a `DreamVectorEnv` of ``batch`` dreams, begun and endless."""
    model = _Opened(Endless(dynamics), world_model.config, world_model.starts)
    env = DreamVectorEnv(model, batch, max_episode_steps=-1)
    env.reset(seed=0)
    actions = np.arange(batch) % world_model.config.denoiser.num_actions
    return lambda: env.step(actions)


@dataclass(frozen=True)
class Inputs:
    """What the networks see in one step of ``batch`` dreams; random, for speed does not depend on it."""

    past: Tensor
    actions: Tensor
    noise: RowNoise = field(repr=False)

    @classmethod
    def draw(cls, dynamics: DiamondDynamics, batch: int) -> Inputs:
        """Noise for a past, the first action for each frame."""
        height, width, channels = dynamics.frame_shape
        device, length = dynamics.device, dynamics.context_length
        past = torch.rand(batch, length, channels, height, width, device=device) * 2 - 1
        actions = torch.zeros(batch, length, dtype=torch.int64, device=device)
        rows = torch.arange(batch, device=device)
        return cls(past, actions, RowNoise(rows, rows))


@torch.no_grad()
def frame_flops(dynamics: DiamondDynamics) -> int:
    """Floating-point operations of one frame's convolutions and matrix products, by PyTorch's counter."""
    inputs = Inputs.draw(dynamics, 1)
    with FlopCounterMode(display=False) as counter:
        sample_frame(dynamics, inputs.past, inputs.actions, inputs.noise)
    return int(counter.get_total_flops())
