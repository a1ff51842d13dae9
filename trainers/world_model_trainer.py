"""The networks of a world model in training: one update after the other, on play that it is handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from gym_dream.data import Emphasis, Episode, Segments, SegmentSampler, eventful, first_steps, scene_changes
from gym_dream.models.compiled import compile_networks
from gym_dream.models.denoiser import Denoiser, TrainingNoise, denoiser_loss, learnt, to_unit
from gym_dream.models.graphs import Function, Recorded
from gym_dream.models.one_step import Teacher, one_step_loss
from gym_dream.models.reward_termination import RewardTerminationModel, reward_termination_loss
from gym_dream.models.sampler import sample
from gym_dream.state import under
from gym_dream.world_model import Precision, WorldModel, WorldModelConfig

from .learner import Learner
from .presets import TrainingConfig
from .processes import Processes

LossFunction = Callable[..., Tensor]
"""A network and the tensors of some rows of a batch -> their share of the batch's losses, float32 (K,).

The shares of all rows add up to the losses. It waits for no device, so on a GPU it can be recorded."""

Rows = Callable[[slice], tuple[Tensor, ...]]
"""Rows of a batch that was drawn -> their tensors, on the device."""


@dataclass(frozen=True)
class Play:
    """Recorded play to draw batches from."""

    frames: SegmentSampler
    """For the denoiser."""
    rewards: SegmentSampler
    """For the reward and termination model."""

    @classmethod
    def of(
        cls,
        episodes: Sequence[Episode],
        config: WorldModelConfig,
        training: TrainingConfig,
        *,
        emphasis: bool = False,
        recency: Sequence[float] | None = None,
    ) -> Play:
        """Cut games into what a world model is trained on.

        Args:
            episodes: whole games, oldest first.
            config: of the world model.
            training: how it is trained.
            emphasis: draw some of the denoiser's segments more often, as ``training`` says; else all by chance.
            recency: which games to draw from how often, see `gym_dream.data.SegmentSampler`.
        """
        ending = config.env["ending"]
        # A later kind takes its share from the earlier ones'.
        kinds: dict[Callable[[Episode], np.ndarray], float] = {
            eventful: training.event_share,
            lambda episode: first_steps(episode, ending): training.first_share,
            scene_changes: training.scene_share,
        }
        emphases = [
            Emphasis([steps(episode) for episode in episodes], share, training.targets)
            for steps, share in kinds.items()
            if emphasis and share
        ]
        length = config.denoiser.context_length + training.targets
        frames = SegmentSampler(episodes, length, beyond_end=False, ending=ending, recency=recency, emphasis=emphases)
        rewards = SegmentSampler(episodes, training.reward_steps + 1, beyond_end=True, ending=ending, recency=recency)
        return cls(frames, rewards)


class WorldModelTrainer:
    """A world model's networks, their optimisers and averages, and the number of updates so far.

    Every random draw of step i comes from a generator seeded with (seed, i), so the step number alone is the position
    in the data and in the noise. They are drawn for the whole batch, by every process, however it is then cut into
    pieces: so neither the number of processes nor that of pieces changes what a run learns, but for rounding.

    Attributes:
        step: updates done.
        play: what updates draw from.
    """

    def __init__(
        self,
        world_model: WorldModel,
        play: Play | None,
        training: TrainingConfig,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        compile: bool,
        teacher: WorldModel | None = None,
        accumulate: int = 1,
        processes: Processes = Processes(),  # noqa: B008  (frozen)
        record: bool = True,
    ) -> None:
        """Take a world model over; its weights are updated in place.

        Args:
            world_model: its networks, fresh or trained.
            play: what updates draw from; may be set later.
            training: how they are trained.
            seed: of all draws.
            device: where everything is.
            dtype: of the networks' arithmetic.
            compile: compile the networks.
            teacher: distil this world model's denoiser, sampled as its configuration says. Where to start from is told
                by `start_from`.
            accumulate: pieces that this process computes its part of a batch in.
            processes: those that share out a batch.
            record: on an NVIDIA GPU, launch what gives a gradient as one CUDA graph, recorded at the first update.

        Raises:
            ValueError: a batch has fewer rows than pieces.
        """
        self.world_model, self.play, self.training, self.seed = world_model, play, training, seed
        self.device, self.dtype = device, dtype
        self.accumulate, self.processes = accumulate, processes
        self.step = 0
        if accumulate < 1:
            raise ValueError(f"accumulate: expected at least 1 piece, got {accumulate}.")
        for name in ("batch_size", "reward_batch_size"):
            try:
                processes.rows(getattr(training, name), accumulate)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        self.teacher = None if teacher is None else _teacher(teacher, device, dtype)
        self.denoiser = self._learner(world_model.denoiser, training.max_grad_norm)
        self.reward_termination = self._learner(world_model.reward_termination, training.reward_max_grad_norm)
        if compile:
            networks = world_model.denoiser.inner_model, world_model.reward_termination.encoder
            compile_networks(*networks, device=device)
        record = record and device.type == "cuda"
        self._denoiser_gradient = self._gradient(self.denoiser, self._denoiser_losses, record)
        self._reward_termination_gradient = self._gradient(
            self.reward_termination, self._reward_termination_losses, record
        )

    def _learner(self, network: torch.nn.Module, max_grad_norm: float) -> Learner:
        training = self.training
        network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Learner(
            network,
            training.learning_rate,
            training.weight_decay,
            max_grad_norm,
            training.average_decay,
            training.muon_learning_rate,
        )

    def update(self, progress: float) -> dict[str, Tensor]:
        """One step: an update of each network that is due.

        Args:
            progress: share of the run that is done, in [0, 1]; only the learning rate depends on it.

        Returns:
            Losses and gradient norms, as scalars on the device.
        """
        training = self.training
        assert self.play is not None  # there is play to learn from
        rng = np.random.default_rng([self.seed, self.step])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        rate = learning_rate_factor(self.step, progress, training)
        report: dict[str, Tensor] = {}
        if _due(self.step, training.denoiser_interval):
            rows = self._denoiser_rows(self.play.frames, rng, generator)
            norm, losses = self._descend(self.denoiser, self._denoiser_gradient, rows, training.batch_size, rate)
            report |= {"denoiser/grad_norm": norm, "denoiser/loss": losses[0]}
        if _due(self.step, training.reward_interval):
            rows, gradient = self._reward_termination_rows(self.play.rewards, rng), self._reward_termination_gradient
            norm, losses = self._descend(self.reward_termination, gradient, rows, training.reward_batch_size, rate)
            report |= {
                "reward_termination/grad_norm": norm,
                "reward/loss": losses[0],
                "termination/loss": losses[1],
            }
        self.step += 1
        return report

    def _gradient(self, learner: Learner, losses: LossFunction, record: bool) -> Function:
        """What gives the losses (K,) of some rows and the gradient of their sum, one tensor a weight."""

        def gradient(*inputs: Tensor) -> tuple[Tensor, ...]:
            learner.forget()
            found = losses(learner.network, *inputs)
            found.sum().backward()
            return found.detach(), *learner.gradient()

        # The gradients of several pieces are needed at once; of one, each takes the place of the last.
        return Recorded(gradient, fresh=self.accumulate > 1) if record else gradient

    def _descend(
        self, learner: Learner, gradient: Function, rows: Rows, batch_size: int, rate: float
    ) -> tuple[Tensor, Tensor]:
        """Update a network by the gradient of the sum of a batch's losses.

        Only one piece's frames at a time are on the device, with all that their gradient needs; the noise is whole.

        Returns:
            The gradient's norm, and the losses (K,).
        """
        pieces = (gradient(*rows(piece)) for piece in self.processes.rows(batch_size, self.accumulate))
        total = next(pieces)
        for piece in pieces:
            torch._foreach_add_(total, piece)
        self.processes.add(total)
        losses, *whole = total
        return learner.descend(rate, whole), losses.clone()

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

    def tensors(self) -> dict[str, Tensor]:
        """Everything an uninterrupted run would go on with, beside the number of updates."""
        tensors = {f"denoiser.{name}": tensor for name, tensor in self.denoiser.tensors().items()}
        return tensors | {f"reward_termination.{name}": t for name, t in self.reward_termination.tensors().items()}

    def load_tensors(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on from what `tensors` gave after so many updates.

        Raises:
            KeyError, RuntimeError: they are those of other networks.
        """
        for name, learner in (("denoiser.", self.denoiser), ("reward_termination.", self.reward_termination)):
            learner.load_tensors(under(name, tensors))
        self.step = step

    def take_over(self) -> None:
        """Go on with the weights of the first process.

        Drawn alike from the seed, but another kind of CPU may round the draws differently.
        """
        for learner in (self.denoiser, self.reward_termination):
            for network in (learner.network, learner.average.module):
                self.processes.take_over([*network.parameters(), *network.buffers()])

    def _denoiser_rows(self, sampler: SegmentSampler, rng: np.random.Generator, generator: torch.Generator) -> Rows:
        """Draw a batch for `_denoiser_losses`.

        The noise is that of the whole batch, whoever's rows it is for: some frames a row, little beside the network's
        activations.
        """
        training, length = self.training, self.world_model.config.denoiser.context_length
        places = sampler.draw(training.batch_size, rng)
        height, width, channels = self.world_model.config.env["frame_shape"]
        shape = (training.batch_size, channels, height, width)
        noise = [self._training_noise(shape, generator) for _ in range(training.targets)]
        if training.context_noise:
            context = self._context_noise(shape, length, generator)
        mask, config = torch.from_numpy(places.mask), self.world_model.config.denoiser
        samples = [learnt(mask, length + i, config).sum() for i in range(training.targets)]
        counts = self._on_device(torch.stack(samples).clamp(min=1).float().numpy())

        def rows(piece: slice) -> tuple[Tensor, ...]:
            segment = self._segment(sampler.gather(places, piece))
            drawn = (torch.stack([draw[piece] for draw in draws]) for draws in zip(*noise, strict=True))
            noised = (context[piece],) if training.context_noise else ()
            return *segment, counts, *drawn, *noised

        return rows

    def _denoiser_losses(
        self,
        denoiser: Denoiser,
        frames: Tensor,
        actions: Tensor,
        mask: Tensor,
        counts: Tensor,
        sigma: Tensor,
        offset: Tensor,
        pixel: Tensor,
        context_noise: Tensor | None = None,
    ) -> Tensor:
        """The loss, (1,), of frames uint8 (B, T, H, W, C); the noise has the targets first, then B rows."""
        training = self.training
        x = to_unit(frames, mask)
        with self._autocast():
            if self.teacher is None:
                loss = denoiser_loss(
                    denoiser,
                    x,
                    actions,
                    mask,
                    [TrainingNoise(*draw) for draw in zip(sigma, offset, pixel, strict=True)],
                    context_noise=context_noise,
                    counts=counts,
                )
            else:
                loss = one_step_loss(
                    denoiser,
                    x,
                    actions,
                    mask,
                    list(pixel),
                    self.world_model.config.sampler.sigma_max,
                    teacher=self.teacher,
                    tolerance=training.tolerance,
                    context_noise=context_noise,
                    counts=counts,
                )
        return loss[None]

    def _training_noise(self, shape: tuple[int, int, int, int], generator: torch.Generator) -> TrainingNoise:
        t, (batch, channels) = self.training, shape[:2]
        sigma = (t.sigma_loc + t.sigma_scale * self._normal((batch,), generator)).exp()
        return TrainingNoise(
            sigma=sigma.clamp(t.sigma_min, t.sigma_max),
            offset=self._normal((batch, channels, 1, 1), generator),
            pixel=self._normal(shape, generator),
        )

    def _context_noise(self, shape: tuple[int, int, int, int], length: int, generator: torch.Generator) -> Tensor:
        batch, channels = shape[:2]
        drawn = torch.rand((batch, 1, 1, 1, 1), generator=generator, device=self.device)
        shift = self._normal((batch, 1, channels, 1, 1), generator)
        return self.training.context_noise * drawn * (shift + self._normal((batch, length, *shape[1:]), generator))

    def _normal(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, device=self.device)

    def _reward_termination_rows(self, sampler: SegmentSampler, rng: np.random.Generator) -> Rows:
        """Draw a batch for `_reward_termination_losses`."""
        places = sampler.draw(self.training.reward_batch_size, rng)
        count = (places.mask[:, :-1] & places.mask[:, 1:]).sum().clip(1).astype(np.float32)

        def rows(piece: slice) -> tuple[Tensor, ...]:
            segments = sampler.gather(places, piece)
            events = (self._on_device(array) for array in (segments.rewards, segments.terminated, np.asarray(count)))
            return *self._segment(segments), *events

        return rows

    def _reward_termination_losses(
        self,
        model: RewardTerminationModel,
        frames: Tensor,
        actions: Tensor,
        mask: Tensor,
        rewards: Tensor,
        terminated: Tensor,
        count: Tensor,
    ) -> Tensor:
        """The losses of rewards and of endings, (2,), of frames uint8 (B, T, H, W, C)."""
        x = to_unit(frames, mask)
        with self._autocast():
            prediction = model(x[:, :-1], actions, x[:, 1:])
        mask = mask[:, :-1] & mask[:, 1:]
        return torch.stack(reward_termination_loss(prediction, rewards, terminated, mask, count))

    def _segment(self, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
        """Frames travel to the device as bytes; they are scaled there."""
        frames, actions, mask = (self._on_device(a) for a in (segments.frames, segments.actions, segments.mask))
        return frames, actions, mask

    def _on_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        # Only from pinned memory does a GPU copy while the host goes on; PyTorch keeps that memory until it has.
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def _teacher(world_model: WorldModel, device: torch.device, dtype: torch.dtype) -> Teacher:
    """Draws frames as the world model's own dreams do, under autocast to the type."""
    precision = str(dtype).removeprefix("torch.")
    dynamics = world_model.dynamics(str(device), cast(Precision, precision))  # a frozen copy of the networks

    def draw(start: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        network = dynamics.denoiser
        return sample(
            lambda x, sigma: network(x, sigma, past, actions),
            start,
            dynamics.sampler,
            lambda: start,
            network.origin(past),
        )

    return draw


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def learning_rate_factor(step: int, progress: float, training: TrainingConfig) -> float:
    """Linear warm-up over the first steps, linear fall to zero over the last share of the run."""
    warmup = min(1.0, (step + 1) / max(1, training.warmup_steps))
    cooldown = min(1.0, (1 - progress) / training.cooldown) if training.cooldown else 1.0
    return warmup * max(0.0, cooldown)
