"""The sizes and schedules that come with a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gym_dream.models.denoiser import DenoiserConfig
from gym_dream.models.reward_termination import RewardTerminationConfig
from gym_dream.models.sampler import SamplerConfig
from gym_dream.world_model import WorldModelConfig


@dataclass(frozen=True)
class TrainingConfig:
    """How the networks are fitted. The defaults are DIAMOND's for Atari."""

    batch_size: int = 32
    targets: int = 2
    """Autoregressive targets of the denoiser's loss: how many frames in a row each sample predicts."""
    learning_rate: float = 1e-4
    """AdamW's."""
    muon_learning_rate: float = 0.0
    """Of the weights of convolutions, which Muon then updates (see `gym_dream.trainers.learner.Learner`); 0: AdamW, as
    all others."""
    warmup_steps: int = 100
    cooldown: float = 0.0
    """Share of the run, at its end, over which the learning rate falls linearly to zero."""
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    """For the denoiser."""
    reward_max_grad_norm: float = 100.0
    """For the reward and termination model."""
    average_decay: float = 0.999
    """Of the moving average of the weights, which is what a run delivers."""
    sigma_loc: float = -0.4
    """ln sigma ~ N(sigma_loc, sigma_scale^2), clipped to [sigma_min, sigma_max]."""
    sigma_scale: float = 1.2
    sigma_min: float = 2e-3
    sigma_max: float = 20.0
    context_noise: float = 0.0
    """Noise on the past frames: each sample draws a standard deviation from [0, context_noise], for a shift of each
    channel common to its frames and for every pixel. Teaches a dream to wash errors out instead of adding them up."""
    event_share: float = 0.0
    """Share of the denoiser's segments (of those that first_share and scene_share leave) that are drawn around a step
    at which something happens (`gym_dream.data.eventful`), which is then among their targets. The others are drawn by
    chance."""
    first_share: float = 0.0
    """Share of the denoiser's segments (of those that scene_share leaves) that have a life's first step among their
    targets: where a dream of a whole life begins, and rare among all steps. It tells nothing of where things go next;
    but where a beginning looks like the moments before an ending, as in Breakout without a ball in sight, endings come
    to seem rarer than they are."""
    scene_share: float = 0.0
    """Share of the denoiser's segments that have a step among their targets at which much of the picture changes
    (`gym_dream.data.scene_changes`): a new level, or another wall, which all that was recorded may hold a few times.
    Where there is no such step it does nothing."""
    tolerance: float = 0.3
    """With a teacher: how far (of frames in [-1, 1]) a student's own past may be from the real one for the real frame
    to be what it learns; else it learns the teacher's. Negative: always the teacher's, for games that cannot be
    foreseen."""
    reward_batch_size: int = 32
    reward_steps: int = 18
    """Transitions of a training sequence of the reward and termination model."""
    denoiser_interval: int = 1
    """Steps from one update of the denoiser to the next; 0 leaves it as it is."""
    reward_interval: int = 1
    """Steps from one update of the reward and termination model to the next; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "targets", "reward_batch_size", "reward_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        if min(self.denoiser_interval, self.reward_interval) < 0 or not self.denoiser_interval | self.reward_interval:
            raise ValueError(
                "denoiser_interval and reward_interval: expected at least 0, and not both 0, got "
                f"{self.denoiser_interval} and {self.reward_interval}."
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected more than 0, got {self.learning_rate}.")
        if not self.muon_learning_rate >= 0:
            raise ValueError(f"muon_learning_rate: expected at least 0, got {self.muon_learning_rate}.")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"cooldown: expected a share of the run, from 0 to 1, got {self.cooldown}.")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay: expected from 0 to below 1, got {self.average_decay}.")
        for name in ("event_share", "first_share", "scene_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share of the segments, from 0 to 1, got {getattr(self, name)}.")
        if not 0 < self.sigma_min <= self.sigma_max:
            raise ValueError(f"Expected 0 < sigma_min <= sigma_max, got {self.sigma_min} and {self.sigma_max}.")


@dataclass(frozen=True)
class Preset:
    """A world model's architecture, given the environment, and how to train it."""

    world_model: Callable[[dict[str, Any]], WorldModelConfig]
    training: TrainingConfig


def _diamond_atari(env: dict[str, Any]) -> WorldModelConfig:
    num_actions, (height, width, channels) = len(env["action_meanings"]), env["frame_shape"]
    return WorldModelConfig(
        env=env,
        denoiser=DenoiserConfig(num_actions, image_channels=channels, quantisation="round"),
        reward_termination=RewardTerminationConfig(num_actions, (height, width), image_channels=channels),
    )


def _small(env: dict[str, Any]) -> WorldModelConfig:
    num_actions, (height, width, channels) = len(env["action_meanings"]), env["frame_shape"]
    return WorldModelConfig(
        env=env,
        denoiser=DenoiserConfig(
            num_actions,
            image_channels=channels,
            cond_channels=128,
            depths=(1, 1, 1),
            channels=(64, 64, 96),
            attention=(False, False, False),
            sigma_offset_noise=0.1,
            quantisation="round",
            patch_size=2,
            predict_change=True,
            noisy_change=True,
            sigma_change=0.05,  # of Breakout 0.037; a game whose whole screen changes may want more
            change_input=True,
        ),
        # Two passes can choose between futures, given all the noise, and a second level at which it tells them apart.
        sampler=SamplerConfig(num_denoising_steps=2, sigma_start=5.0, sigma_min=0.25),
        reward_termination=RewardTerminationConfig(
            num_actions,
            (height, width),
            image_channels=channels,
            cond_channels=64,
            depths=(1, 1, 1),
            channels=(64, 64, 64),
            attention=(False, False, False),
            lstm_size=128,
            patch_size=4,
            change_input=True,
        ),
    )


PRESETS = {
    # The paper's networks (4.4M + 5.9M parameters) and schedule; for a GPU.
    "diamond-atari": Preset(_diamond_atari, TrainingConfig()),
    # 2.3M + 1.2M parameters, a fifth of the arithmetic; hours on two CPU cores.
    "small": Preset(
        _small,
        TrainingConfig(
            batch_size=9,
            targets=4,
            learning_rate=2e-3,
            muon_learning_rate=2e-3,
            cooldown=0.5,
            sigma_loc=0.3,
            sigma_scale=1.5,
            sigma_min=0.25,
            sigma_max=5.0,  # at which sampling begins; clipped, so much of the training is of that level
            average_decay=0.995,
            context_noise=0.08,
            # Else most go to balls that fly straight and slowly, which it soon knows. But what is shown more often than
            # it happens is dreamt more often, too.
            event_share=0.3,
            first_share=0.3,  # else a serve, of which only the odds can be learnt, takes many hours
            reward_batch_size=16,
            reward_interval=4,
        ),
    ),
}
