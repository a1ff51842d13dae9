"""Training a denoiser to draw a frame in a single pass, from its teacher's frames or from real ones.

Three steps of a sampler exist to choose one of several futures: a single step of a denoiser draws their average (EDM's
denoiser is a conditional mean). So the student gets its targets otherwise:

* The teacher's frame, sampled in some steps from the *same* noise. Its sampler is deterministic, so noise and past
  determine the frame and nothing is left to average: knowledge distillation of a sampler (Luhman & Luhman 2021, arXiv
  2101.02388), on which progressive distillation and consistency models build.
* The real frame. Where the game's past determines its future (Breakout without sticky actions), the average *is* the
  future, and the real frame also corrects what the teacher gets wrong.

Either way the past that the student sees from the second target on is its own work, drawn exactly as a dream draws it.
A denoiser's training can only come near to that (its past frames are estimates from some random noise level); here
training and dreaming are the same computation, so errors that add up in dreams add up in training, and are unlearnt
(Huang et al. 2025, arXiv 2506.08009, "Self Forcing", do so for video).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gym_dream.models.denoiser import Denoiser, change_weights, masked_mean, quantise

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
    teacher: Teacher | None = None,
    teacher_share: float = 0.0,
    context_noise: Tensor | None = None,
    change_weight: float = 0.0,
) -> Tensor:
    """The mean over autoregressive targets of the mean over unmasked samples of the squared errors of F.

    With x_T ~ N(0, I) and D as in `gym_dream.models.denoiser`, both errors are those of D(x_T; sigma) divided by c_out:

        (1 - s) |D(x_T; sigma) - x|^2 / c_out^2 + s |D(x_T; sigma) - teacher(x_T)|^2 / c_out^2

    Args:
        student: the denoiser being trained.
        frames: float32 (B, L + targets, C, H, W) in [-1, 1], 0 where masked.
        actions: int64 (B, L + targets - 1).
        mask: bool (B, L + targets), False for padding. Masked history is fed to the networks, only losses are masked.
        starts: what sampling starts from, standard normal (B, C, H, W); their number is the number of targets.
        sigma: the noise level that the single step is told: the sampler's sigma_max.
        teacher: draws the teacher's frames; needed where ``teacher_share`` is above 0.
        teacher_share: s, in [0, 1].
        context_noise: as for `gym_dream.models.denoiser.denoiser_loss`.
        change_weight: likewise; what counts as changed is what changes in the real frames.

    Returns:
        A scalar.

    Raises:
        ValueError: a share of the teacher, but no teacher.
    """
    if teacher_share and teacher is None:
        raise ValueError(f"teacher_share is {teacher_share}: expected a teacher, got none.")
    length, config = student.config.context_length, student.config
    context = frames[:, :length]
    if context_noise is not None:
        context = (context + context_noise).clamp(-1, 1)
    history = list(context.unbind(dim=1))
    c = student.preconditioners(frames.new_full((len(frames),), sigma))
    losses = []
    for i, start in enumerate(starts):
        x = frames[:, length + i]
        past, acted = torch.stack(history[-length:], dim=1), actions[:, i : i + length]
        drawn = student.base(start, past, c) + c.c_out * student.network(start, past, acted, c)
        error = (1 - teacher_share) * (drawn - x) ** 2
        if teacher_share and teacher is not None:
            with torch.no_grad():
                shown = teacher(start, past, acted)
            error = error + teacher_share * (drawn - shown) ** 2
        error = error / c.c_out**2
        if change_weight:
            known = mask[:, length + i - 1, None, None, None]  # after padding everything is new
            error = error * torch.where(known, change_weights(frames[:, length + i - 1], x, change_weight), 1.0)
        losses.append(masked_mean(error.flatten(1).mean(dim=1), mask[:, length + i]))
        history.append(quantise(drawn.detach(), config.quantisation))
    return torch.stack(losses).mean()
