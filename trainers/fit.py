"""A world model being fitted to recorded play: the trainer, the data, and what a run is."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gym_dream.configuration import to_json
from gym_dream.data import ContextSampler, Episode, split_held_out, start_contexts
from gym_dream.world_model import WorldModel, WorldModelConfig

from .checkpoint import NAME, load_checkpoint, save_checkpoint
from .presets import TrainingConfig
from .processes import Processes
from .world_model_trainer import LossFunction, Play, Rows, WorldModelTrainer

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
    teacher_digest: str = ""
    """Of its files, so that a resumed run has the same teacher."""


class Fit(WorldModelTrainer):
    """A run in memory: the trainer and its data. One call of `update` is one step."""

    def __init__(
        self,
        config: FitConfig,
        episodes: list[Episode],
        device: torch.device,
        dtype: torch.dtype,
        compile: bool,
        teacher: WorldModel | None = None,
        accumulate: int = 1,
        processes: Processes = Processes(),  # noqa: B008  (frozen)
        record: bool = True,
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
            accumulate: pieces that this process computes its part of a batch in.
            processes: those that share out a batch.
            record: on an NVIDIA GPU, launch what gives a gradient as one CUDA graph.

        Raises:
            ValueError: a batch has fewer rows than pieces.
        """
        self.config = config
        self.num_steps = sum(map(len, episodes))
        train, self.held_out = split_held_out(episodes, config.held_out_fraction, config.seed)
        training = config.training
        play = Play.of(train, config.world_model, training, emphasis=True)
        self.held_out_play = Play.of(self.held_out, config.world_model, training)
        # Dreams begin from games that training never saw.
        length = config.world_model.denoiser.context_length
        starts = start_contexts(self.held_out, length)
        replay = ContextSampler(self.held_out, length, ending=config.world_model.env["ending"]).sample(
            REPLAY_CONTEXTS, np.random.default_rng(config.seed)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            fresh = WorldModel.create(config.world_model, starts, replay)
        super().__init__(
            fresh, play, training, config.seed, device, dtype, compile, teacher, accumulate, processes, record
        )

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Losses of the averaged networks on held-out games, always on the same segments and noise."""
        training = self.training
        rng = np.random.default_rng([self.seed, 0])
        generator = torch.Generator(self.device).manual_seed(self.seed)
        averaged = self.averaged()
        batches = []
        for _ in range(HELD_OUT_BATCHES):
            rows = self._denoiser_rows(self.held_out_play.frames, rng, generator)
            losses = [self._whole(self._denoiser_losses, averaged.denoiser, rows, training.batch_size)]
            rows, judge = self._reward_termination_rows(self.held_out_play.rewards, rng), averaged.reward_termination
            losses.append(self._whole(self._reward_termination_losses, judge, rows, training.reward_batch_size))
            batches.append(torch.cat(losses).tolist())
        names = ("denoiser", "reward", "termination")
        means = np.mean(batches, axis=0).tolist()
        return {f"held_out/{name}_loss": mean for name, mean in zip(names, means, strict=True)}

    def _whole(self, losses: LossFunction, network: nn.Module, rows: Rows, batch_size: int) -> Tensor:
        """A whole batch's losses (K,), by this process alone."""
        pieces = Processes().rows(batch_size, self.accumulate)
        return torch.stack([losses(network, *rows(piece)) for piece in pieces]).sum(dim=0)

    def agree(self) -> None:
        """Make sure that all processes are about to do the same, with the same weights.

        Raises:
            ValueError: they see another run or other data.
        """
        # The folders may lie elsewhere; what is in them is compared by steps and by the teacher's digest.
        configuration = json.dumps(to_json(replace(self.config, data="", teacher="")), sort_keys=True)
        checksum = zlib.crc32(configuration.encode())
        self.processes.check_same(
            f"update {self.step}, {self.num_steps} steps of play, a configuration with checksum {checksum:08x}"
        )
        self.take_over()

    def save(self, run: Path, seconds: float) -> None:
        """Write the checkpoint, then the world model folder."""
        self.save_checkpoint(run, seconds)
        self.averaged().save(run / "world_model")

    def save_checkpoint(self, run: Path, seconds: float) -> None:
        """Write all that `load` goes on from."""
        save_checkpoint(run, self.tensors(), {"step": self.step, "seconds": seconds})

    def load(self, run: Path) -> float:
        """Go on from the run folder's checkpoint; returns the seconds trained so far."""
        tensors, progress = load_checkpoint(run)
        try:
            self.load_tensors(tensors, int(progress["step"]))
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"{run / NAME} is not a checkpoint of the run in {run / 'config.json'}: {error}"
            ) from error
        return float(progress["seconds"])
