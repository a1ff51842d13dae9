"""Training a denoiser to draw a frame in a single pass.

Several steps of a sampler exist to choose one of several futures: a single step of a denoiser draws their average
(EDM's denoiser is a conditional mean). So the student gets its targets otherwise. What it draws in one step from noise
and a past is compared with

* the real frame, as long as the past that it sees is still what really happened. Where a game's past determines its
  future, as in Breakout without sticky actions but for its serves, the average *is* the future.
* the teacher's frame, sampled in some steps from the *same* noise and past, as soon as the student's own past has
  strayed from reality, for reality does not go on from there: its average over all that might have happened is a smear.
  The teacher's sampler is deterministic, so noise and past determine its frame and nothing is left to average. This is
  knowledge distillation of a sampler (Luhman & Luhman 2021, arXiv 2101.02388), on which progressive distillation and
  consistency models build. For games that cannot be foreseen it can be the only target.

From the second target on the past is the student's own work, drawn exactly as a dream draws it. A denoiser's training
can only come near to that (its past frames are estimates from some random noise level); here training and dreaming are
the same computation, so errors that add up in dreams add up in training, and are unlearnt (Huang et al. 2025, arXiv
2506.08009, "Self Forcing", do so for video).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gym_dream.models.denoiser import Denoiser, learnt, masked_mean, quantise

Teacher = Callable[[Tensor, Tensor, Tensor], Tensor]
"""start (B, C, H, W), past (B, L, C, H, W), actions (B, L) -> the frame it draws from this noise, (B, C, H, W)."""


def one_step_loss(
    student: Denoiser,
    frames: Tensor,
    actions: Tensor,
    mask: Tensor,
    starts: Sequence[Tensor],
    sigma: float,
    *,
    teacher: Teacher,
    tolerance: float,
    context_noise: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """The mean over autoregressive targets of the mean over samples learnt of |D(x_T; sigma) - target|^2 / c_out^2.

    x_T ~ N(origin, I) and D are as in `gym_dream.models.denoiser`, so this is the squared error of F.

    Args:
        student: the denoiser being trained.
        frames: float32 (B, L + targets, C, H, W) in [-1, 1], 0 where masked.
        actions: int64 (B, L + targets - 1).
        mask: bool (B, L + targets), False for padding. Masked history is fed to the networks, only losses are masked.
        starts: what sampling starts from, standard normal (B, C, H, W); their number is the number of targets.
        sigma: the noise level that the single step is told: the sampler's sigma_max.
        teacher: draws the teacher's frames.
        tolerance: the target is the real frame while no value of the student's own frames in the past is further than
            this from the real one, else the teacher's. Frames span [-1, 1]: from 2 on it is always the real frame,
            below 0 always the teacher's.
        context_noise: as for `gym_dream.models.denoiser.denoiser_loss`.
        counts: likewise.

    Returns:
        A scalar.
    """
    length, config = student.config.context_length, student.config
    context = frames[:, :length]
    if context_noise is not None:
        context = (context + context_noise).clamp(-1, 1)
    history = list(context.unbind(dim=1))
    astray = [torch.zeros_like(mask[:, 0])] * length  # by frame of the history: how far the student's are off
    c = student.preconditioners(frames.new_full((len(frames),), sigma))
    losses = []
    for i, start in enumerate(starts):
        x = frames[:, length + i]
        past, acted = torch.stack(history[-length:], dim=1), actions[:, i : i + length]
        noisy = student.origin(past) + start
        drawn = student.base(noisy, past, c) + c.c_out * student.network(noisy, past, acted, c)
        target = x
        if tolerance < 2 and (i > 0 or tolerance < 0):  # the first past is real
            # In all rows, for to pick those that need it would wait for the device; soon most do.
            with torch.no_grad():
                taught = torch.stack(astray[-length:]).any(dim=0) if tolerance >= 0 else torch.ones_like(mask[:, 0])
                target = torch.where(taught[:, None, None, None], teacher(start, past, acted).to(x.dtype), x)
        error = ((drawn - target) / c.c_out) ** 2
        count = None if counts is None else counts[i]
        counted = learnt(mask, length + i, config)
        losses.append(masked_mean(error.flatten(1).mean(dim=1), counted, count))
        # As a dream begins: with a real frame, and grey before it.
        history.append(torch.where(counted[:, None, None, None], quantise(drawn.detach(), config.quantisation), x))
        astray.append((history[-1] - x).abs().flatten(1).amax(dim=1) > tolerance)
    return torch.stack(losses).mean()
