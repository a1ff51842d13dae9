"""From noise to a frame: EDM's deterministic and stochastic samplers (arXiv 2206.00364, algorithms 1 and 2)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class SamplerConfig:
    """How a frame is sampled. The defaults are DIAMOND's for Atari."""

    num_denoising_steps: int = 3
    sigma_min: float = 2e-3
    sigma_max: float = 5.0
    rho: float = 7.0
    sigma_start: float = 1.0
    """Standard deviation of the noise at the start; it does not follow sigma_max. 1, as released (against drift, as
    the authors say), is a fifth of the sigma_max that the network is told, and stays so at every level: samples hardly
    vary, and of several futures the same one is nearly always drawn. As much as sigma_max, as EDM derives it: each is
    drawn about as often as the network thinks it likely."""
    order: Literal[1, 2] = 1
    """1: Euler. 2: Heun."""
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = 1e6  # no limit; infinity is no JSON
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.num_denoising_steps < 1:
            raise ValueError(f"num_denoising_steps: expected at least 1, got {self.num_denoising_steps}.")
        if not 0 < self.sigma_min <= self.sigma_max:
            raise ValueError(f"Expected 0 < sigma_min <= sigma_max, got {self.sigma_min} and {self.sigma_max}.")
        if not 0 <= self.sigma_start < float("inf"):
            raise ValueError(f"sigma_start: expected a number of at least 0, got {self.sigma_start}.")
        if self.order not in (1, 2):
            raise ValueError(f"order: expected 1 (Euler) or 2 (Heun), got {self.order!r}.")


def noise_levels(config: SamplerConfig) -> list[float]:
    """The schedule sigma_0 > sigma_1 > … > 0, EDM equation 5; a single step starts at sigma_max."""
    n, inverse = config.num_denoising_steps, 1 / config.rho
    high, low = config.sigma_max**inverse, config.sigma_min**inverse
    return [(high + i / max(n - 1, 1) * (low - high)) ** config.rho for i in range(n)] + [0.0]


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    config: SamplerConfig,
    draw_noise: Callable[[], Tensor],
    origin: Tensor | float = 0.0,
) -> Tensor:
    """Solve the probability flow from ``start`` to a frame.

    Args:
        denoise: D(x, sigma), x (B, C, H, W) and sigma (B,).
        start: float32 (B, C, H, W), standard normal.
        config: schedule and solver.
        draw_noise: gives fresh standard normal noise of the shape of ``start``; called only where churn adds noise.
        origin: what the noise at the start is around: (B, C, H, W), or 0 for mid-grey.

    Returns:
        float32 (B, C, H, W).
    """
    x, sigmas = origin + config.sigma_start * start, noise_levels(config)
    churn = min(config.s_churn / config.num_denoising_steps, 2**0.5 - 1)
    for sigma, next_sigma in itertools.pairwise(sigmas):
        gamma = churn if config.s_tmin <= sigma <= config.s_tmax else 0.0
        sigma_hat = sigma * (1 + gamma)
        if gamma > 0:
            x = x + draw_noise() * config.s_noise * (sigma_hat**2 - sigma**2) ** 0.5
        # As released: the network is told sigma, the step is taken from sigma_hat.
        denoised = denoise(x, x.new_full((len(x),), sigma))
        slope = (x - denoised) / sigma_hat
        step = next_sigma - sigma_hat
        if config.order == 1 or next_sigma == 0:
            x = x + slope * step
        else:
            x_euler = x + slope * step
            denoised = denoise(x_euler, x.new_full((len(x),), next_sigma))
            x = x + (slope + (x_euler - denoised) / next_sigma) / 2 * step
    return x
