"""Fit a world model to recorded play: `gym-dream fit`."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gym_dream.configuration import from_json, to_json
from gym_dream.data import Episode, EpisodeStore, Segments, SegmentSampler, split_held_out, start_contexts
from gym_dream.files import read_json, write_json
from gym_dream.models.denoiser import Denoiser, TrainingNoise, denoiser_loss, to_unit
from gym_dream.models.reward_termination import (
    RewardTerminationLoss,
    RewardTerminationModel,
    reward_termination_loss,
)
from gym_dream.world_model import Precision, WorldModel, WorldModelConfig, resolve_dtype

from .checkpoint import load_checkpoint, save_checkpoint
from .learner import Learner
from .presets import PRESETS, TrainingConfig

HELD_OUT_BATCHES = 8


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


class Fit:
    """A run in memory: networks, data and the number of updates so far. One call of `update` is one step.

    Every random draw of step i comes from a generator seeded with (seed, i), so the step number alone is the position
    in the data and in the noise.
    """

    def __init__(
        self, config: FitConfig, episodes: list[Episode], device: torch.device, dtype: torch.dtype, compile: bool
    ) -> None:
        """Draw fresh networks from the seed and cut the data."""
        self.config, self.device, self.dtype = config, device, dtype
        self.step = 0
        training = config.training
        train, self.held_out = split_held_out(episodes, config.held_out_fraction, config.seed)
        denoiser_config = config.world_model.denoiser
        ending = config.world_model.env["ending"]
        frames = denoiser_config.context_length + training.targets
        self.frame_sampler = SegmentSampler(train, frames, beyond_end=False, ending=ending)
        self.held_out_frame_sampler = SegmentSampler(self.held_out, frames, beyond_end=False, ending=ending)
        self.reward_sampler = SegmentSampler(train, training.reward_steps + 1, beyond_end=True, ending=ending)
        self.held_out_reward_sampler = SegmentSampler(
            self.held_out, training.reward_steps + 1, beyond_end=True, ending=ending
        )
        # Start contexts of a shipped model come from games that training never saw.
        starts = start_contexts(self.held_out, denoiser_config.context_length)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.world_model = WorldModel.create(config.world_model, starts)
        self.denoiser = self._learner(self.world_model.denoiser, training.max_grad_norm)
        self.reward_termination = self._learner(self.world_model.reward_termination, training.reward_max_grad_norm)
        if compile:
            self.world_model.denoiser.inner_model.compile()
            self.world_model.reward_termination.encoder.compile()

    def _learner(self, network: torch.nn.Module, max_grad_norm: float) -> Learner:
        training = self.config.training
        network.to(device=self.device, memory_format=torch.channels_last)
        return Learner(network, training.learning_rate, training.weight_decay, max_grad_norm, training.average_decay)

    def update(self, progress: float) -> dict[str, Tensor]:
        """One update of the denoiser, and of the reward and termination model when it is due.

        Args:
            progress: share of the run that is done, in [0, 1]; only the learning rate depends on it.

        Returns:
            Losses and gradient norms, as scalars on the device.
        """
        training = self.config.training
        rng = np.random.default_rng([self.config.seed, self.step])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        rate = learning_rate_factor(self.step, progress, training)
        loss = self._denoiser_loss(
            self.world_model.denoiser, self.frame_sampler.sample(training.batch_size, rng), generator
        )
        norm = self.denoiser.update(loss, rate)
        report = {"denoiser/loss": loss.detach(), "denoiser/grad_norm": norm}
        if self.step % training.reward_interval == 0:
            segments = self.reward_sampler.sample(training.reward_batch_size, rng)
            losses, _ = self._reward_termination_loss(self.world_model.reward_termination, segments)
            norm = self.reward_termination.update(losses.reward + losses.termination, rate)
            report["reward/loss"] = losses.reward.detach()
            report["termination/loss"] = losses.termination.detach()
            report["reward_termination/grad_norm"] = norm
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
            losses, _ = self._reward_termination_loss(averaged.reward_termination, segments)
            sums["reward"].append(losses.reward.item())
            sums["termination"].append(losses.termination.item())
        return {f"held_out/{name}_loss": float(np.mean(values)) for name, values in sums.items()}

    def averaged(self) -> WorldModel:
        """The world model with the averaged weights: what the run delivers."""
        return replace(
            self.world_model,
            denoiser=self.denoiser.average.module,
            reward_termination=self.reward_termination.average.module,
        )

    def save(self, run: Path, seconds: float) -> None:
        """Write the checkpoint, then the world model folder."""
        tensors = {f"denoiser.{name}": tensor for name, tensor in self.denoiser.tensors().items()}
        tensors |= {f"reward_termination.{name}": t for name, t in self.reward_termination.tensors().items()}
        save_checkpoint(run, tensors, {"step": self.step, "seconds": seconds})
        self.averaged().save(run / "world_model")

    def load(self, run: Path) -> float:
        """Go on from the run folder's checkpoint; returns the seconds trained so far."""
        tensors, progress = load_checkpoint(run)
        for name, learner in (("denoiser.", self.denoiser), ("reward_termination.", self.reward_termination)):
            learner.load_tensors({k.removeprefix(name): t for k, t in tensors.items() if k.startswith(name)})
        self.step = int(progress["step"])
        return float(progress["seconds"])

    def _denoiser_loss(self, denoiser: Denoiser, segments: Segments, generator: torch.Generator) -> Tensor:
        frames, actions, mask = self._tensors(segments)
        noise = [self._training_noise(frames[:, 0], generator) for _ in range(self.config.training.targets)]
        with self._autocast():
            return denoiser_loss(denoiser, frames, actions, mask, noise, self.config.training.change_weight)

    def _training_noise(self, frame: Tensor, generator: torch.Generator) -> TrainingNoise:
        t, (batch, channels) = self.config.training, frame.shape[:2]

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=self.device)

        sigma = (t.sigma_loc + t.sigma_scale * normal(batch)).exp().clamp(t.sigma_min, t.sigma_max)
        return TrainingNoise(sigma, normal(batch, channels, 1, 1), normal(*frame.shape))

    def _reward_termination_loss(
        self, model: RewardTerminationModel, segments: Segments
    ) -> tuple[RewardTerminationLoss, Tensor]:
        frames, actions, mask = self._tensors(segments)
        with self._autocast():
            prediction = model(frames[:, :-1], actions, frames[:, 1:])
        mask = mask[:, :-1] & mask[:, 1:]
        rewards, terminated = (torch.from_numpy(a).to(self.device) for a in (segments.rewards, segments.terminated))
        return reward_termination_loss(prediction, rewards, terminated, mask), mask

    def _tensors(self, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
        """Frames travel to the device as bytes and are scaled there."""
        frames, actions, mask = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in (segments.frames, segments.actions, segments.mask)
        )
        return to_unit(frames, mask), actions, mask

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def learning_rate_factor(step: int, progress: float, training: TrainingConfig) -> float:
    """Linear warm-up over the first steps, linear fall to zero over the last share of the run."""
    warmup = min(1.0, (step + 1) / max(1, training.warmup_steps))
    cooldown = min(1.0, (1 - progress) / training.cooldown) if training.cooldown else 1.0
    return warmup * max(0.0, cooldown)


def fit(
    data: Path,
    out: Path,
    *,
    preset: str = "small",
    steps: int | None = None,
    minutes: float | None = None,
    init: str | None = None,
    resume: bool = False,
    seed: int = 0,
    held_out_fraction: float = 0.06,
    device: str = "auto",
    precision: Precision = "auto",
    compile: bool = False,
    checkpoint_minutes: float = 5.0,
    training: dict[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Fit a world model and write it to ``out / "world_model"``.

    Args:
        data: the folder of an `EpisodeStore`.
        out: the run folder: ``config.json``, ``checkpoint.safetensors``, ``logs`` (TensorBoard), ``world_model``.
        preset: a name of `PRESETS`.
        steps: updates of the denoiser in all, those before a resume included.
        minutes: or the time to train for, likewise.
        init: start from the weights of this world model (name, folder or hub) instead of fresh ones.
        resume: go on with the run in ``out``, with its own configuration.
        seed: of networks, held-out games, batches and noise.
        held_out_fraction: share of the games that training never sees.
        device: a PyTorch device or "auto".
        precision: of the networks' arithmetic, or "auto".
        compile: compile the networks: slower to begin, faster from the second minute on.
        checkpoint_minutes: time between checkpoints, the most that an interruption can cost.
        training: settings of `TrainingConfig` that differ from the preset's.
        progress: show a progress bar.

    Returns:
        The world model folder.

    Raises:
        FileExistsError: ``out`` already holds a run, and ``resume`` is not set.
        FileNotFoundError: no data, no such preset's run to resume, or no model to start from.
        ValueError: settings that do not fit together, or a loss that is no longer a number.
    """
    if (steps is None) == (minutes is None):
        raise ValueError("Say how long to train: either steps or minutes.")
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    dtype = resolve_dtype(precision, where)
    if resume:
        config = from_json(FitConfig, read_json(out / "config.json"), str(out / "config.json"))
    else:
        if (out / "config.json").exists():
            raise FileExistsError(f"{out} already holds a run. Go on with it by --resume, or choose another --out.")
        config = _new_config(data, preset, init, training or {}, held_out_fraction, seed)
    episodes = EpisodeStore(config.data).load_all()[: config.games]
    run = Fit(config, episodes, where, dtype, compile)
    seconds = 0.0
    if resume:
        seconds = run.load(out)
    else:
        if init is not None:
            _load_into(run, WorldModel.load(init))
        write_json(out / "config.json", to_json(config))
    _train(run, out, seconds, steps, minutes, checkpoint_minutes, progress)
    return out / "world_model"


def _new_config(
    data: Path, preset: str, init: str | None, training: dict[str, Any], held_out_fraction: float, seed: int
) -> FitConfig:
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}.")
    store = EpisodeStore(data)
    env = store.env
    if env is None:
        raise FileNotFoundError(f"No episodes in {data}: record some with `gym-dream collect --out {data}`.")
    world_model = PRESETS[preset].world_model({**env, "ending": "life"})
    if init is not None:
        world_model = WorldModel.load(init).config
    settings = {**to_json(PRESETS[preset].training), **training}
    return FitConfig(
        world_model=world_model,
        training=from_json(TrainingConfig, settings, "training"),
        data=str(Path(data).resolve()),
        games=len(store),
        held_out_fraction=held_out_fraction,
        seed=seed,
    )


def _load_into(run: Fit, model: WorldModel) -> None:
    for learner, network in (
        (run.denoiser, model.denoiser),
        (run.reward_termination, model.reward_termination),
    ):
        learner.network.load_state_dict(network.state_dict())
        learner.average.module.load_state_dict(network.state_dict())


def _train(
    run: Fit,
    out: Path,
    seconds: float,
    steps: int | None,
    minutes: float | None,
    checkpoint_minutes: float,
    progress: bool,
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    total = steps if steps is not None else 60 * (minutes or 0)
    began = saved = time.monotonic() - seconds
    with (
        SummaryWriter(out / "logs", purge_step=run.step) as log,
        _stop_signal() as stopped,
        tqdm(total=total, unit="step" if steps else "s", disable=not progress) as bar,
    ):
        saved = time.monotonic()
        shown = 0.0
        while True:
            done = run.step if steps is not None else time.monotonic() - began
            if done >= total or stopped():
                break
            report = run.update(done / total)
            if run.step % 20 == 0 or run.step == 1:
                values = {name: float(value) for name, value in report.items()}
                if not math.isfinite(values["denoiser/loss"]):
                    raise ValueError(f"The loss is {values['denoiser/loss']} at step {run.step}; see {out}.")
                for name, value in values.items():
                    log.add_scalar(name, value, run.step)
                shown = values["denoiser/loss"]
            now = run.step if steps is not None else time.monotonic() - began
            bar.update(round(min(now, total) - bar.n, 1))
            bar.set_postfix(step=run.step, loss=f"{shown:.4f}", refresh=False)
            if time.monotonic() - saved > 60 * checkpoint_minutes:
                _checkpoint(run, out, time.monotonic() - began, log)
                saved = time.monotonic()
        _checkpoint(run, out, time.monotonic() - began, log)


def _checkpoint(run: Fit, out: Path, seconds: float, log: Any) -> None:
    run.save(out, seconds)
    for name, value in run.evaluate().items():
        log.add_scalar(name, value, run.step)
        tqdm.write(f"step {run.step}: {name} {value:.4f}")


@contextmanager
def _stop_signal() -> Iterator[Any]:
    """Turn the first Ctrl-C into a polite request; the second one interrupts as usual."""
    caught = False

    def request(signum: int, frame: FrameType | None) -> None:
        nonlocal caught
        caught = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, request)
    try:
        yield lambda: caught
    finally:
        signal.signal(signal.SIGINT, before)
