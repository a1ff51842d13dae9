"""DIAMOND's denoiser: an EDM-preconditioned U-Net that sees the past frames and the actions taken at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gym_dream.models.layers import CHANGE_SCALE, FourierFeatures, GroupNorm, check_levels, conv3x3, silu_, zero_
from gym_dream.models.unet import UNet


@dataclass(frozen=True)
class DenoiserConfig:
    """Architecture of a denoiser. The defaults are DIAMOND's for Atari: 4,405,955 parameters with 4 actions."""

    num_actions: int
    image_channels: int = 3
    context_length: int = 4
    """Past frames and actions that the network sees (L in the paper)."""
    cond_channels: int = 256
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of each encoder level."""
    channels: tuple[int, ...] = (64, 64, 64, 64)
    """Width of each level."""
    attention: tuple[bool, ...] = (False, False, False, False)
    """Levels with attention. The middle always has it."""
    sigma_data: float = 0.5
    sigma_offset_noise: float = 0.3
    quantisation: Literal["truncate", "round"] = "truncate"
    """How a denoised estimate is brought to 256 levels: released checkpoints truncate, rounding drifts less."""
    patch_size: int = 1
    """Side of the pixel squares folded into channels before the network (and out of them after it)."""
    predict_change: bool = False
    """Let the network predict the change from the last frame, rather than the whole frame, where noise hides it:
    D = last + c_skip (x - last) + c_out F instead of D = c_skip x + c_out F."""
    sigma_change: float = 0.0
    """With predict_change, the standard deviation of the changes, which EDM's scalings then use in sigma_data's place.
    0: sigma_data, which is many times as much; the scalings then let noise through that the network has to undo."""
    noisy_change: bool = False
    """With predict_change, show the network c_in (x - last), not c_in x, and sample from noise around the last frame:
    all of EDM on the change. So the network learns far sooner what the noise tells of where a thing went."""
    change_input: bool = False
    """Show the network, in place of all past frames but the last, the changes from each to the next (in units of
    CHANGE_SCALE): what moves stands out, and so does how."""

    def __post_init__(self) -> None:
        check_levels(self.depths, self.channels, self.attention)
        if self.noisy_change and not self.predict_change:
            raise ValueError("noisy_change: expected False without predict_change, got True. Set both, or neither.")
        if not self.sigma_change >= 0 or (self.sigma_change and not self.predict_change):
            raise ValueError(
                f"sigma_change: expected at least 0, and 0 without predict_change, got {self.sigma_change} and "
                f"predict_change={self.predict_change}."
            )


class Preconditioners(NamedTuple):
    """EDM's scalings (Karras et al. 2022, table 1) with offset noise in sigma; (B, 1, 1, 1), c_noise (B,)."""

    c_in: Tensor
    c_out: Tensor
    c_skip: Tensor
    c_noise: Tensor


def preconditioners(sigma: Tensor, sigma_data: float, sigma_offset_noise: float) -> Preconditioners:
    """Scalings for noise levels ``sigma`` (B,)."""
    sigma = (sigma**2 + sigma_offset_noise**2).sqrt()
    c_in = 1 / (sigma**2 + sigma_data**2).sqrt()
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * c_skip.sqrt()
    c_in, c_out, c_skip = (c[:, None, None, None] for c in (c_in, c_out, c_skip))
    return Preconditioners(c_in, c_out, c_skip, c_noise=sigma.log() / 4)


def quantise(x: Tensor, mode: Literal["truncate", "round"]) -> Tensor:
    """Clamp to [-1, 1] and bring to the 256 levels of a stored frame."""
    levels = (x.clamp(-1, 1) + 1) * 127.5
    levels = levels.floor() if mode == "truncate" else levels.round()
    return levels / 127.5 - 1


def to_unit(frames: Tensor, real: Tensor) -> Tensor:
    """uint8 frames (B, T, H, W, C) to float32 (B, T, C, H, W) in [-1, 1]; where not ``real`` (B, T), mid-grey 0."""
    x = frames.movedim(-1, -3).float() / 127.5 - 1
    return x * real[..., None, None, None]


def to_uint8(x: Tensor) -> Tensor:
    """Float frames (..., C, H, W) in [-1, 1] to uint8 (..., H, W, C), rounded to the nearest level."""
    # In memory as the axes say: else sums over these frames are ordered otherwise than after a checkpoint.
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(-3, -1).contiguous()


class InnerModel(nn.Module):
    """F in EDM's notation: a U-Net over past frames and noisy frame, conditioned on noise level and actions."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        c, folded = config, config.image_channels * config.patch_size**2
        if c.cond_channels % c.context_length:
            raise ValueError(
                f"cond_channels is shared out over the context's actions: expected a multiple of "
                f"context_length={c.context_length}, got {c.cond_channels}."
            )
        self.patch_size = c.patch_size
        self.noise_emb = FourierFeatures(c.cond_channels)
        self.act_emb = nn.Sequential(nn.Embedding(c.num_actions, c.cond_channels // c.context_length), nn.Flatten())
        self.cond_proj = nn.Sequential(
            nn.Linear(c.cond_channels, c.cond_channels), nn.SiLU(), nn.Linear(c.cond_channels, c.cond_channels)
        )
        self.conv_in = conv3x3((c.context_length + 1) * folded, c.channels[0])
        self.unet = UNet(c.cond_channels, c.depths, c.channels, c.attention)
        self.norm_out = GroupNorm(c.channels[0])
        self.conv_out = zero_(conv3x3(c.channels[0], folded))

    def forward(self, noisy: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """Predict the target.

        Args:
            noisy: float (B, C, H, W), scaled by c_in.
            c_noise: float (B,).
            past: float (B, L * C, H, W), oldest first, divided by sigma_data (or changes, as configured).
            actions: int64 (B, L); the last one leads to the next frame.

        Returns:
            float (B, C, H, W).
        """
        cond = self.cond_proj(self.noise_emb(c_noise) + self.act_emb(actions))
        x = F.pixel_unshuffle(torch.cat([past, noisy], dim=1), self.patch_size)
        x = self.unet(self.conv_in(x), cond)
        x = self.conv_out(silu_(self.norm_out(x)))
        return F.pixel_shuffle(x, self.patch_size)


class Denoiser(nn.Module):
    """D(x; sigma) = c_skip x + c_out F(c_in x, c_noise, past / sigma_data, actions), arXiv 2405.12399, equation 4."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.inner_model = InnerModel(config)

    def preconditioners(self, sigma: Tensor) -> Preconditioners:
        """Scalings for noise levels ``sigma`` (B,)."""
        c = self.config
        return preconditioners(sigma, c.sigma_change or c.sigma_data, c.sigma_offset_noise)

    def base(self, noisy: Tensor, past: Tensor, c: Preconditioners) -> Tensor:
        """What the scaled network output is added to: the part of the estimate that needs no network."""
        base = c.c_skip * noisy
        return base + (1 - c.c_skip) * past[:, -1] if self.config.predict_change else base

    def origin(self, past: Tensor) -> Tensor | float:
        """The frame that sampling's noise is around and that is taken off what the network sees, (B, C, H, W), or 0."""
        return past[:, -1] if self.config.noisy_change else 0.0

    def network(self, noisy: Tensor, past: Tensor, actions: Tensor, c: Preconditioners) -> Tensor:
        """F of ``noisy`` (B, C, H, W), ``past`` (B, L, C, H, W) and ``actions`` (B, L): float32 (B, C, H, W)."""
        seen = past / self.config.sigma_data
        if self.config.change_input:
            seen = torch.cat([past.diff(dim=1) / CHANGE_SCALE, seen[:, -1:]], dim=1)
        difference = noisy - self.origin(past)
        return self.inner_model(difference * c.c_in, c.c_noise, seen.flatten(1, 2), actions).float()

    def forward(self, noisy: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The denoised frame, quantised: float32 (B, C, H, W) in [-1, 1].

        Args:
            noisy: float32 (B, C, H, W).
            sigma: noise levels, float32 (B,).
            past: float32 (B, L, C, H, W) in [-1, 1], oldest first.
            actions: int64 (B, L).
        """
        c = self.preconditioners(sigma)
        denoised = self.base(noisy, past, c) + c.c_out * self.network(noisy, past, actions, c)
        return quantise(denoised, self.config.quantisation)


class TrainingNoise(NamedTuple):
    """The random draws for one target of the loss."""

    sigma: Tensor  # (B,) noise levels
    offset: Tensor  # (B, C, 1, 1) standard normal, one for a whole channel
    pixel: Tensor  # (B, C, H, W) standard normal


def denoiser_loss(
    denoiser: Denoiser,
    frames: Tensor,
    actions: Tensor,
    mask: Tensor,
    noise: Sequence[TrainingNoise],
    *,
    context_noise: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """The denoising loss, mean over autoregressive targets of the mean over samples learnt of (F - target)^2.

    From the second target on, the denoised estimate of the target before (one pass, quantised, no gradient) stands in
    for the real frame in the history, save where that frame was not learnt: the network learns to go on from its own
    errors.

    Args:
        denoiser: the model.
        frames: float32 (B, L + targets, C, H, W) in [-1, 1], 0 where masked.
        actions: int64 (B, L + targets - 1).
        mask: bool (B, L + targets), False for padding. Masked history is fed to the network, only losses are masked
            (see `learnt`).
        noise: the draws of each target; their number is the number of targets.
        context_noise: float32 (B, L, C, H, W), added to the past frames that the network sees (None is DIAMOND's loss):
            it learns to go on from frames that are a little off, as its own are.
        counts: float32 (targets,), at least 1: of each target, what its sum over samples is divided by; None: the
            number of its samples that are learnt. With those of a whole batch, its parts' losses add up to its own.

    Returns:
        A scalar.
    """
    length, config = denoiser.config.context_length, denoiser.config
    context = frames[:, :length]
    if context_noise is not None:
        context = (context + context_noise).clamp(-1, 1)
    history = list(context.unbind(dim=1))
    losses = []
    for i, draw in enumerate(noise):
        x = frames[:, length + i]
        past = torch.stack(history[-length:], dim=1)
        noisy = x + config.sigma_offset_noise * draw.offset + draw.sigma[:, None, None, None] * draw.pixel
        c = denoiser.preconditioners(draw.sigma)
        base = denoiser.base(noisy, past, c)
        output = denoiser.network(noisy, past, actions[:, i : i + length], c)
        error = (output - (x - base) / c.c_out) ** 2
        count = None if counts is None else counts[i]
        counted = learnt(mask, length + i, config)
        losses.append(masked_mean(error.flatten(1).mean(dim=1), counted, count))
        estimate = quantise(base + c.c_out * output.detach(), config.quantisation)
        if config.predict_change:
            # As a dream begins: with a real frame, and grey before it.
            estimate = torch.where(counted[:, None, None, None], estimate, x)
        history.append(estimate)
    return torch.stack(losses).mean()


def learnt(mask: Tensor, at: int, config: DenoiserConfig) -> Tensor:
    """Which samples' frame ``at`` is learnt, bool (B,), given which frames are real, bool (B, T).

    With predict_change, not the first frame after padding: there is no last frame that it could be a change from, no
    dream begins so, and a whole frame in units of sigma_change would outweigh hundreds of ordinary changes.
    """
    return mask[:, at] & mask[:, at - 1] if config.predict_change else mask[:, at]


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    """The mean of ``values`` (B,) over samples with ``mask`` (B,); 0, not 0 / 0, where all are padding.

    With a ``count``, the sum is divided by that instead: the share of these samples in the mean over so many.
    """
    return (values * mask).sum() / (mask.sum().clamp(min=1) if count is None else count)
