"""Where a world model comes from: the recorded games and the training runs, read from their folders."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gym_dream.data.episode import episode_info
from gym_dream.files import read_header, read_json

_NETWORK_OF_LOSS = {"denoiser_loss": "denoiser", "reward_loss": "reward", "termination_loss": "reward"}


@dataclass(frozen=True)
class DataFacts:
    """What was recorded, from the headers of the episodes' files.

    Attributes:
        games: how many.
        steps: of all games together.
        seeds: the games' seeds, ascending.
        policies: of each policy (games, steps); games whose beginning was changed stand apart.
    """

    games: int
    steps: int
    seeds: tuple[int, ...]
    policies: dict[str, tuple[int, int]]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> DataFacts:
        """Read the facts of some episodes.

        Raises:
            ValueError: a file is no episode.
        """
        games: Counter[str] = Counter()
        steps: Counter[str] = Counter()
        seeds = set()
        for path in paths:
            header = read_header(path)
            info = episode_info(path, header.metadata)
            policy = f"{info.policy} ({info.start})" if info.start else info.policy
            games[policy] += 1
            steps[policy] += header.shapes["rewards"][0]
            seeds.add(info.seed)
        policies = {policy: (games[policy], steps[policy]) for policy in sorted(games)}
        return cls(len(paths), steps.total(), tuple(sorted(seeds)), policies)


@dataclass(frozen=True)
class RunFacts:
    """What a training run was, from its folder.

    Attributes:
        name: of the folder.
        steps: of the run; `updates` says what they were for each network.
        seconds: spent training.
        games: episodes of the store that it knew of.
        held_out_fraction: the share of them that was held out,
        seed: by this seed.
        training: its settings.
        losses: the last losses on held-out games, by name, of the networks that the run trained; empty where no log can
            be read.
    """

    name: str
    steps: int
    seconds: float
    games: int
    held_out_fraction: float
    seed: int
    training: dict[str, Any]
    losses: dict[str, float]

    def updates(self, network: str) -> int:
        """Updates of ``"denoiser"`` or ``"reward"`` (with termination): none where its interval is 0."""
        interval = int(self.training.get(f"{network}_interval", 1))
        return -(-self.steps // interval) if interval else 0

    @classmethod
    def read(cls, folder: Path) -> RunFacts:
        """Read the facts of a run.

        Raises:
            FileNotFoundError: there is no run in this folder.
            ValueError: its files are damaged.
        """
        config, checkpoint = read_json(folder / "config.json"), folder / "checkpoint.safetensors"
        try:
            progress = json.loads(read_header(checkpoint).metadata["progress"])
            training = dict(config["training"])
            trained = [loss for loss, network in _NETWORK_OF_LOSS.items() if training.get(f"{network}_interval", 1)]
            losses = _last_scalars(folder / "logs", "held_out/")
            return cls(
                name=folder.resolve().name,
                steps=int(progress["step"]),
                seconds=float(progress["seconds"]),
                games=int(config["games"]),
                held_out_fraction=float(config["held_out_fraction"]),
                seed=int(config["seed"]),
                training=training,
                losses={name: losses[name] for name in trained if name in losses},
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder} is no training run of this version: it lacks {error}.") from error


def hardware() -> str:
    """This machine's processor and, if there is one, its GPU."""
    cpus = os.cpu_count() or 1
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{cpus} CPU core{'s' if cpus != 1 else ''} ({name}){gpu}"


def _last_scalars(logs: Path, prefix: str) -> dict[str, float]:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return {}
    if not logs.is_dir():
        return {}
    # All points are kept: of a resumed run, the reader would drop what the earlier process wrote.
    events = EventAccumulator(str(logs), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(prefix)]
    return {tag.removeprefix(prefix): max(events.Scalars(tag), key=lambda event: event.step).value for tag in tags}
