"""DDPM around the denoiser's inner network, to compare EDM with (arXiv 2006.11239; the DIAMOND paper's section 5.1).

The network is the same, sees the same past and actions, and learns to predict the noise. In DDPM's letters:
x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon, for t in 0..999.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gym_dream.models.denoiser import InnerModel, masked_mean

T = 1000  # noise levels in training
BETA_FIRST, BETA_LAST = 1e-4, 0.02


@functools.cache
def alpha_bar() -> Tensor:
    """The share of the frame's variance that is left at each t: float32 (T,), falling from almost 1 to almost 0."""
    beta = torch.linspace(BETA_FIRST, BETA_LAST, T, dtype=torch.float64)
    return (1 - beta).cumprod(dim=0).float()


def timesteps(num_steps: int) -> list[int]:
    """The t that sampling visits, falling: the middles of ``num_steps`` equal parts of 0..T; a single step has 500."""
    if not 1 <= num_steps <= T:
        raise ValueError(f"num_steps: expected from 1 to {T}, got {num_steps}.")
    return [int(T * (i + 0.5) / num_steps) for i in reversed(range(num_steps))]


def predict_noise(
    network: InnerModel, x_t: Tensor, t: Tensor, past: Tensor, actions: Tensor, sigma_data: float
) -> Tensor:
    """epsilon_theta(x_t, t | past, actions): float32 (B, C, H, W).

    Args:
        network: the inner network.
        x_t: float32 (B, C, H, W).
        t: int64 (B,), in 0..T-1.
        past: float32 (B, L, C, H, W) in [-1, 1], oldest first.
        actions: int64 (B, L).
        sigma_data: what the network sees the past divided by, as with EDM.
    """
    return network(x_t, (t + 1) / T, (past / sigma_data).flatten(1, 2), actions).float()


class TrainingNoise(NamedTuple):
    """The random draws of the loss."""

    t: Tensor  # int64 (B,), uniform in 0..T-1
    offset: Tensor  # (B, C, 1, 1) standard normal, one for a whole channel
    pixel: Tensor  # (B, C, H, W) standard normal


def ddpm_loss(
    network: InnerModel,
    frames: Tensor,
    actions: Tensor,
    mask: Tensor,
    noise: TrainingNoise,
    *,
    sigma_data: float,
    sigma_offset_noise: float,
) -> Tensor:
    """The mean over unmasked samples of (epsilon_theta - epsilon)^2, for the last frame of each.

    Args:
        network: the inner network.
        frames: float32 (B, L + 1, C, H, W) in [-1, 1], 0 where masked.
        actions: int64 (B, L).
        mask: bool (B, L + 1), False for padding.
        noise: the draws.
        sigma_data: see `predict_noise`.
        sigma_offset_noise: standard deviation of the part of epsilon that a channel's pixels share.

    Returns:
        A scalar.
    """
    x_0, past = frames[:, -1], frames[:, :-1]
    epsilon = noise.pixel + sigma_offset_noise * noise.offset
    left = alpha_bar().to(x_0.device)[noise.t][:, None, None, None]
    x_t = left.sqrt() * x_0 + (1 - left).sqrt() * epsilon
    error = (predict_noise(network, x_t, noise.t, past, actions, sigma_data) - epsilon) ** 2
    return masked_mean(error.flatten(1).mean(dim=1), mask[:, -1])


def sample(
    predict: Callable[[Tensor, Tensor], Tensor], start: Tensor, num_steps: int, draw_noise: Callable[[], Tensor]
) -> Tensor:
    """Ancestral sampling (DDPM, algorithm 2) over a part of the t, with the betas that lead from each to the next.

    Args:
        predict: epsilon_theta(x_t, t), x_t (B, C, H, W) and t int64 (B,).
        start: float32 (B, C, H, W), standard normal.
        num_steps: calls of ``predict``.
        draw_noise: gives fresh standard normal noise of the shape of ``start``; called between two steps.

    Returns:
        The frame, float32 (B, C, H, W) in [-1, 1]; nothing is quantised on the way, nor here.
    """
    x, ts = start, timesteps(num_steps)
    lefts = alpha_bar()[ts].tolist()
    for t, left, next_left in zip(ts, lefts, [*lefts[1:], 1.0], strict=True):
        epsilon = predict(x, torch.full((len(x),), t, device=x.device))
        # As in DDPM's code the estimate is kept in the range of pixels: where t is high, it divides by almost 0.
        x_0 = ((x - (1 - left) ** 0.5 * epsilon) / left**0.5).clamp(-1, 1)
        if next_left < 1:
            alpha = left / next_left
            mean = (next_left**0.5 * (1 - alpha) * x_0 + alpha**0.5 * (1 - next_left) * x) / (1 - left)
            variance = (1 - alpha) * (1 - next_left) / (1 - left)
            x = mean + variance**0.5 * draw_noise()
    return x_0
