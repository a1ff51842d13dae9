"""A world model being fitted to recorded play: networks, optimisers, data, and the number of updates so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gym_dream.data import (
    ContextSampler,
    Emphasis,
    Episode,
    Segments,
    SegmentSampler,
    eventful,
    split_held_out,
    start_contexts,
)
from gym_dream.models.denoiser import Denoiser, TrainingNoise, denoiser_loss, to_unit
from gym_dream.models.one_step import Teacher, one_step_loss
from gym_dream.models.reward_termination import (
    RewardTerminationLoss,
    RewardTerminationModel,
    reward_termination_loss,
)
from gym_dream.models.sampler import sample
from gym_dream.world_model import WorldModel, WorldModelConfig

from .checkpoint import NAME, load_checkpoint, save_checkpoint
from .learner import Learner
from .presets import TrainingConfig

HELD_OUT_BATCHES = 8
REPLAY_CONTEXTS = 64  # moments of play that a model brings along


@dataclass(frozen=True)
class FitConfig:
    """What a run is, written to its ``config.json`` and read again by ``--resume``."""

    world_model: WorldModelConfig
    training: TrainingConfig
    data: str
    games: int
    """Episodes of the store that the run uses, so that a store that grows does not change a resumed run."""
    held_out_fraction: float
    seed: int
    teacher: str = ""
    """The world model (name, folder or hub) whose denoiser is distilled to a single step; "" for none."""


class Fit:
    """A run in memory: networks, data and the number of updates so far. One call of `update` is one step.

    Every random draw of step i comes from a generator seeded with (seed, i), so the step number alone is the position
    in the data and in the noise.
    """

    def __init__(
        self,
        config: FitConfig,
        episodes: list[Episode],
        device: torch.device,
        dtype: torch.dtype,
        compile: bool,
        teacher: WorldModel | None = None,
    ) -> None:
        """Draw fresh networks from the seed and cut the data.

        Args:
            config: what the run is.
            episodes: the recorded play, held-out games included.
            device: where everything is.
            dtype: of the networks' arithmetic.
            compile: compile the networks.
            teacher: distil this world model's denoiser, sampled as its configuration says. Where to start from is told
                by `start_from`.
        """
        self.config, self.device, self.dtype = config, device, dtype
        self.step = 0
        training = config.training
        train, self.held_out = split_held_out(episodes, config.held_out_fraction, config.seed)
        denoiser_config = config.world_model.denoiser
        ending = config.world_model.env["ending"]
        frames = denoiser_config.context_length + training.targets
        emphasis = None
        if training.event_share:
            emphasis = Emphasis([eventful(e) for e in train], training.event_share, window=training.targets)
        self.frame_sampler = SegmentSampler(train, frames, beyond_end=False, ending=ending, emphasis=emphasis)
        self.held_out_frame_sampler = SegmentSampler(self.held_out, frames, beyond_end=False, ending=ending)
        self.reward_sampler = SegmentSampler(train, training.reward_steps + 1, beyond_end=True, ending=ending)
        self.held_out_reward_sampler = SegmentSampler(
            self.held_out, training.reward_steps + 1, beyond_end=True, ending=ending
        )
        # Dreams begin from games that training never saw.
        length = denoiser_config.context_length
        starts = start_contexts(self.held_out, length)
        replay = ContextSampler(self.held_out, length, ending=ending).sample(
            REPLAY_CONTEXTS, np.random.default_rng(config.seed)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.world_model = WorldModel.create(config.world_model, starts, replay)
        self.teacher = None if teacher is None else _teacher(teacher, device)
        self.denoiser = self._learner(self.world_model.denoiser, training.max_grad_norm)
        self.reward_termination = self._learner(self.world_model.reward_termination, training.reward_max_grad_norm)
        if compile:
            self.world_model.denoiser.inner_model.compile()
            self.world_model.reward_termination.encoder.compile()

    def _learner(self, network: torch.nn.Module, max_grad_norm: float) -> Learner:
        training = self.config.training
        network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Learner(network, training.learning_rate, training.weight_decay, max_grad_norm, training.average_decay)

    def update(self, progress: float) -> dict[str, Tensor]:
        """One step: an update of each network that is due.

        Args:
            progress: share of the run that is done, in [0, 1]; only the learning rate depends on it.

        Returns:
            Losses and gradient norms, as scalars on the device.
        """
        training = self.config.training
        rng = np.random.default_rng([self.config.seed, self.step])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        rate = learning_rate_factor(self.step, progress, training)
        report = {}
        if _due(self.step, training.denoiser_interval):
            segments = self.frame_sampler.sample(training.batch_size, rng)
            loss = self._denoiser_loss(self.world_model.denoiser, segments, generator)
            report["denoiser/grad_norm"] = self.denoiser.update(loss, rate)
            report["denoiser/loss"] = loss.detach()
        if _due(self.step, training.reward_interval):
            segments = self.reward_sampler.sample(training.reward_batch_size, rng)
            losses = self._reward_termination_loss(self.world_model.reward_termination, segments)
            total = losses.reward + losses.termination
            report["reward_termination/grad_norm"] = self.reward_termination.update(total, rate)
            report["reward/loss"] = losses.reward.detach()
            report["termination/loss"] = losses.termination.detach()
        self.step += 1
        return report

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Losses of the averaged networks on held-out games, always on the same segments and noise."""
        training = self.config.training
        rng = np.random.default_rng([self.config.seed, 0])
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        averaged = self.averaged()
        sums: dict[str, list[float]] = {"denoiser": [], "reward": [], "termination": []}
        for _ in range(HELD_OUT_BATCHES):
            segments = self.held_out_frame_sampler.sample(training.batch_size, rng)
            sums["denoiser"].append(self._denoiser_loss(averaged.denoiser, segments, generator).item())
            segments = self.held_out_reward_sampler.sample(training.reward_batch_size, rng)
            losses = self._reward_termination_loss(averaged.reward_termination, segments)
            sums["reward"].append(losses.reward.item())
            sums["termination"].append(losses.termination.item())
        return {f"held_out/{name}_loss": float(np.mean(values)) for name, values in sums.items()}

    def start_from(self, model: WorldModel) -> None:
        """Take over another model's weights, which must be of the same architecture."""
        pairs = (self.denoiser, model.denoiser), (self.reward_termination, model.reward_termination)
        for learner, network in pairs:
            learner.network.load_state_dict(network.state_dict())
            learner.average.module.load_state_dict(network.state_dict())

    def averaged(self) -> WorldModel:
        """The world model with the averaged weights: what the run delivers."""
        return replace(
            self.world_model,
            denoiser=self.denoiser.average.module,  # type: ignore[arg-type]
            reward_termination=self.reward_termination.average.module,  # type: ignore[arg-type]
        )

    def save(self, run: Path, seconds: float) -> None:
        """Write the checkpoint, then the world model folder."""
        self.save_checkpoint(run, seconds)
        self.averaged().save(run / "world_model")

    def save_checkpoint(self, run: Path, seconds: float) -> None:
        """Write all that `load` goes on from."""
        tensors = {f"denoiser.{name}": tensor for name, tensor in self.denoiser.tensors().items()}
        tensors |= {f"reward_termination.{name}": t for name, t in self.reward_termination.tensors().items()}
        save_checkpoint(run, tensors, {"step": self.step, "seconds": seconds})

    def load(self, run: Path) -> float:
        """Go on from the run folder's checkpoint; returns the seconds trained so far."""
        tensors, progress = load_checkpoint(run)
        try:
            for name, learner in (("denoiser.", self.denoiser), ("reward_termination.", self.reward_termination)):
                learner.load_tensors({k.removeprefix(name): t for k, t in tensors.items() if k.startswith(name)})
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"{run / NAME} is not a checkpoint of the run in {run / 'config.json'}: {error}"
            ) from error
        self.step = int(progress["step"])
        return float(progress["seconds"])

    def _denoiser_loss(self, denoiser: Denoiser, segments: Segments, generator: torch.Generator) -> Tensor:
        training = self.config.training
        frames, actions, mask = self._tensors(segments)
        if self.teacher is not None:
            return self._one_step_loss(denoiser, self.teacher, frames, actions, mask, generator)
        noise = [self._training_noise(frames[:, 0], generator) for _ in range(training.targets)]
        context_noise = self._context_noise(frames[:, : denoiser.config.context_length], generator)
        with self._autocast():
            return denoiser_loss(
                denoiser,
                frames,
                actions,
                mask,
                noise,
                context_noise=context_noise,
                change_weight=training.change_weight,
            )

    def _one_step_loss(
        self,
        student: Denoiser,
        teacher: Teacher,
        frames: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        training = self.config.training
        starts = [self._normal(frames[:, 0].shape, generator) for _ in range(training.targets)]
        context_noise = self._context_noise(frames[:, : student.config.context_length], generator)
        with self._autocast():
            return one_step_loss(
                student,
                frames,
                actions,
                mask,
                starts,
                self.config.world_model.sampler.sigma_max,
                teacher=teacher,
                tolerance=training.tolerance,
                context_noise=context_noise,
                change_weight=training.change_weight,
            )

    def _training_noise(self, frame: Tensor, generator: torch.Generator) -> TrainingNoise:
        t, (batch, channels) = self.config.training, frame.shape[:2]
        sigma = (t.sigma_loc + t.sigma_scale * self._normal((batch,), generator)).exp()
        return TrainingNoise(
            sigma=sigma.clamp(t.sigma_min, t.sigma_max),
            offset=self._normal((batch, channels, 1, 1), generator),
            pixel=self._normal(frame.shape, generator),
        )

    def _context_noise(self, context: Tensor, generator: torch.Generator) -> Tensor | None:
        largest, (batch, _, channels) = self.config.training.context_noise, context.shape[:3]
        if not largest:
            return None
        scale = largest * torch.rand((batch, 1, 1, 1, 1), generator=generator, device=self.device)
        shift = self._normal((batch, 1, channels, 1, 1), generator)
        return scale * (shift + self._normal(context.shape, generator))

    def _normal(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, device=self.device)

    def _reward_termination_loss(self, model: RewardTerminationModel, segments: Segments) -> RewardTerminationLoss:
        frames, actions, mask = self._tensors(segments)
        with self._autocast():
            prediction = model(frames[:, :-1], actions, frames[:, 1:])
        mask = mask[:, :-1] & mask[:, 1:]
        rewards, terminated = (torch.from_numpy(a).to(self.device) for a in (segments.rewards, segments.terminated))
        return reward_termination_loss(prediction, rewards, terminated, mask)

    def _tensors(self, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
        """Frames travel to the device as bytes and are scaled there."""
        frames, actions, mask = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in (segments.frames, segments.actions, segments.mask)
        )
        return to_unit(frames, mask), actions, mask

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def _teacher(world_model: WorldModel, device: torch.device) -> Teacher:
    """Draws frames as the world model's own dreams do."""
    dynamics = world_model.dynamics(str(device))  # a frozen copy of the networks

    def draw(start: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        return sample(
            lambda x, sigma: dynamics.denoiser(x, sigma, past, actions), start, dynamics.sampler, lambda: start
        )

    return draw


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def learning_rate_factor(step: int, progress: float, training: TrainingConfig) -> float:
    """Linear warm-up over the first steps, linear fall to zero over the last share of the run."""
    warmup = min(1.0, (step + 1) / max(1, training.warmup_steps))
    cooldown = min(1.0, (1 - progress) / training.cooldown) if training.cooldown else 1.0
    return warmup * max(0.0, cooldown)
