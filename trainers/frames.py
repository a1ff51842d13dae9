"""Fitting a network that draws frames and nothing else: the short loop of the studies in examples/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm import trange

from gym_dream.data import SegmentSampler
from gym_dream.files import atomic_write, read_header
from gym_dream.models import ddpm
from gym_dream.models.denoiser import Denoiser, DenoiserConfig, InnerModel, TrainingNoise, denoiser_loss, to_unit
from gym_dream.models.one_step import Teacher, one_step_loss
from gym_dream.models.sampler import SamplerConfig

from .learner import Learner
from .presets import TrainingConfig
from .world_model_trainer import learning_rate_factor

Loss = Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]
"""frames float32 (B, L + targets, C, H, W), actions, mask, and where to draw noise from -> a scalar."""


def edm_loss(denoiser: Denoiser, training: TrainingConfig) -> Loss:
    """DIAMOND's loss, with its noise drawn."""

    def loss(frames: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        draws = []
        for _ in range(training.targets):
            level, offset, pixel = _normals(frames[:, 0], generator)
            sigma = (training.sigma_loc + training.sigma_scale * level).exp()
            draws.append(TrainingNoise(sigma.clamp(training.sigma_min, training.sigma_max), offset, pixel))
        return denoiser_loss(denoiser, frames, actions, mask, draws)

    return loss


def ddpm_loss(network: InnerModel, config: DenoiserConfig) -> Loss:
    """DDPM's loss, with its noise drawn."""

    def loss(frames: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        _, offset, pixel = _normals(frames[:, 0], generator)
        t = torch.randint(ddpm.T, (len(frames),), generator=generator, device=frames.device)
        return ddpm.ddpm_loss(
            network,
            frames,
            actions,
            mask,
            ddpm.TrainingNoise(t, offset, pixel),
            sigma_data=config.sigma_data,
            sigma_offset_noise=config.sigma_offset_noise,
        )

    return loss


def student_loss(student: Denoiser, targets: int, teacher: Teacher, tolerance: float) -> Loss:
    """The loss of a student that draws in one step (`gym_dream.models.one_step`), with its noise drawn."""
    sigma = SamplerConfig().sigma_max

    def loss(frames: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        starts = [_normals(frames[:, 0], generator)[2] for _ in range(targets)]
        return one_step_loss(student, frames, actions, mask, starts, sigma, teacher=teacher, tolerance=tolerance)

    return loss


def fit_frames(
    network: nn.Module,
    loss: Loss,
    segments: SegmentSampler,
    training: TrainingConfig,
    *,
    updates: int,
    seed: int,
    label: str,
    progress: bool = True,
) -> list[float]:
    """Update a network so many times and leave it with the moving average of its weights.

    All draws of update i come from a generator seeded with (seed, i): two networks fitted with one seed see the same
    segments in the same order.

    Args:
        network: what is fitted, in place.
        loss: computes its loss; uses ``network``.
        segments: where the frames come from.
        training: batch size and optimiser.
        updates: how many.
        seed: of the segments and the noise.
        label: what the progress bar calls it.
        progress: show a progress bar.

    Returns:
        The loss of every update.
    """
    device = next(network.parameters()).device
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = Learner(
        network,
        training.learning_rate,
        training.weight_decay,
        training.max_grad_norm,
        training.average_decay,
        training.muon_learning_rate,
    )
    losses: list[float] = []
    bar = trange(updates, desc=label, unit="update", disable=not progress, mininterval=1)
    for step in bar:
        rng = np.random.default_rng([seed, step])
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        batch = segments.sample(training.batch_size, rng)
        frames, actions, mask = (
            torch.from_numpy(array).to(device) for array in (batch.frames, batch.actions, batch.mask)
        )
        value = loss(to_unit(frames, mask), actions, mask, generator)
        learner.update(value, learning_rate_factor(step, step / updates, training))
        losses.append(value.item())
        bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}", refresh=False)
    network.load_state_dict(learner.average.module.state_dict())
    return losses


def save_frames(network: nn.Module, path: Path, settings: str) -> None:
    """Write a network's weights, with the settings that made it, atomically."""
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with atomic_write(path) as temporary:
        safetensors.torch.save_file(weights, temporary, metadata={"settings": settings})


def load_frames(network: nn.Module, path: Path, settings: str) -> bool:
    """Read a network's weights if the file is there.

    Returns:
        Whether it was.

    Raises:
        ValueError: it was made with other settings.
    """
    if not path.exists():
        return False
    made_with = read_header(path).metadata.get("settings")
    if made_with != settings:
        raise ValueError(
            f"{path} was trained with other settings than these: choose another --out, or remove it.\n"
            f"  there: {made_with}\n  asked: {settings}"
        )
    network.load_state_dict(safetensors.torch.load_file(path))
    return True


def _normals(frame: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Standard normals: one a sample (B,), one a channel (B, C, 1, 1), one a pixel (B, C, H, W)."""
    batch, channels = frame.shape[:2]
    shapes = (batch,), (batch, channels, 1, 1), frame.shape
    level, offset, pixel = (torch.randn(shape, generator=generator, device=frame.device) for shape in shapes)
    return level, offset, pixel
