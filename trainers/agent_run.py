"""The training loop of an agent alone, in dreams or a real environment, and its run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gym_dream.configuration import from_json, to_json
from gym_dream.files import read_json, write_json
from gym_dream.interrupt import polite_interrupt

from .checkpoint import NAME, load_checkpoint, remove_torn, save_checkpoint
from .imagination import Agent, Imagination, ImaginationConfig, World
from .loop import BAR, LOG_INTERVAL, Budget, Losses, scalar_log

Evaluate = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class AgentRunConfig:
    """What a run is, written to its ``config.json`` and compared by ``resume``."""

    setup: dict[str, Any]
    """What the agent and its world are, in the words of who made them."""
    imagination: ImaginationConfig
    seed: int


def train_agent(
    agent: Agent,
    world: World,
    out: Path,
    *,
    save: Callable[[Path], None],
    setup: Mapping[str, Any],
    settings: ImaginationConfig,
    updates: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    resume: bool = False,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 1000,
    checkpoint_minutes: float = 5.0,
    progress: bool = True,
) -> Path:
    """Train an agent and save it to ``out / "agent"``.

    Ctrl-C ends the run after the current update, with a checkpoint; a killed run loses at most what came after its last
    one. A resumed run goes on as if never stopped: in dreams on a CPU, to the bit. (A real environment begins its
    episodes anew.)

    Args:
        agent: what learns, a module that is updated in place.
        world: what it acts in, not begun yet.
        out: the run folder: ``config.json``, ``checkpoint.safetensors``, ``curve.json``, ``logs`` (TensorBoard),
            ``agent``.
        save: writes the agent, as it is when called, to a folder.
        setup: JSON-able; what agent and world are. A run is resumed only with the same.
        settings: how it is trained.
        updates: in all, those before a resume included.
        minutes: or the time to train for, likewise.
        seed: of the actions.
        resume: go on with the run in ``out``.
        evaluate: measures the agent as it is when called, e.g. by playing the real game. Its figures and those of the
            episodes in the world go into the learning curve.
        evaluate_every: updates from one point of the learning curve to the next; there is one at the beginning and one
            at the end, too.
        checkpoint_minutes: time between checkpoints, the most that an interruption can cost.
        progress: show a progress bar.

    Returns:
        The agent's folder.

    Raises:
        FileExistsError: ``out`` already holds a run, and ``resume`` is not set.
        FileNotFoundError: there is no run to resume.
        ValueError: settings that cannot be, or that are not those of the run to resume.
        FloatingPointError: a loss is no longer a number; the last checkpoint is kept.
    """
    budget = Budget.of(updates, minutes)
    if evaluate_every < 1:
        raise ValueError(f"evaluate_every: expected at least 1, got {evaluate_every}.")
    config = AgentRunConfig(dict(setup), settings, seed)
    training = Imagination(agent, world, settings, seed)
    run = _Run(training, out, save, evaluate, evaluate_every)
    if resume:
        _check_same(out / "config.json", config)
        run.load()
    elif (out / "config.json").exists():
        raise FileExistsError(f"{out} already holds a run. Go on with it by --resume, or choose another --out.")
    else:
        # In this order, so that wherever there is a run to resume there is a checkpoint to resume from.
        run.save_checkpoint()
        write_json(out / "config.json", to_json(config))
    with scalar_log(out / "logs", training.step) as log:
        run.train(budget, checkpoint_minutes, log, progress)
    return out / "agent"


class _Run:
    """A run at work: the trainer, its clock, and its learning curve so far."""

    def __init__(
        self,
        training: Imagination,
        out: Path,
        save: Callable[[Path], None],
        evaluate: Evaluate | None,
        evaluate_every: int,
    ) -> None:
        self.training, self.out, self.save_agent = training, out, save
        self.evaluate, self.evaluate_every = evaluate, evaluate_every
        self.began = time.monotonic()  # moved back by the time that was trained before a resume
        self.curve: list[dict[str, float]] = []
        self.losses = Losses(out)

    def train(
        self,
        budget: Budget,
        checkpoint_minutes: float,
        log: Callable[[Mapping[str, float], int], None],
        progress: bool,
    ) -> None:
        training = self.training
        saved = first_second = time.monotonic()
        first_step = training.steps_taken

        def used() -> float:
            return budget.used(training.step, self._seconds())

        bar = tqdm(total=budget.amount, initial=used(), unit=budget.unit, disable=not progress, bar_format=BAR)
        with bar, polite_interrupt() as interrupted:
            if not self.curve:
                self._point(log)
            while used() < budget.amount and not interrupted():
                self.losses.note(training.update())
                if training.step % LOG_INTERVAL == 0 or used() >= budget.amount:
                    self._look()
                    log(self.losses.values, training.step)
                    speed = (training.steps_taken - first_step) / (time.monotonic() - first_second)
                    shown = {"return": f"{self.curve[-1].get('world/return', math.nan):.2f}"}
                    shown |= {name.removeprefix("agent/"): f"{value:.3f}" for name, value in self.losses.values.items()}
                    bar.set_postfix(**shown, speed=f"{speed:.0f} steps/s", refresh=False)
                if training.step % self.evaluate_every == 0 or used() >= budget.amount:
                    self._point(log)
                bar.update(used() - bar.n)
                if time.monotonic() - saved >= 60 * checkpoint_minutes:
                    self._save()
                    saved = time.monotonic()
            if not interrupted():
                self._point(log)  # by the clock, the end may have come after the look above
            self._save()

    def save_checkpoint(self) -> None:
        """Write all that `load` goes on from."""
        counters = {"step": self.training.step, "seconds": self._seconds(), "curve": self.curve}
        save_checkpoint(self.out, self.training.tensors(), counters)

    def load(self) -> None:
        """Go on from the run folder's checkpoint."""
        tensors, counters = load_checkpoint(self.out)
        try:
            self.training.load_tensors(tensors, int(counters["step"]))
            self.curve = list(counters["curve"])
            self.began = time.monotonic() - float(counters["seconds"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{self.out / NAME} is not a checkpoint of the run in {self.out / 'config.json'}: {error}"
            ) from error
        remove_torn(self.out, "agent")

    def _save(self) -> None:
        self._look()
        self.save_checkpoint()
        self.save_agent(self.out / "agent")
        write_json(self.out / "curve.json", self.curve)

    def _look(self) -> None:
        self.losses.look(f"at update {self.training.step}")

    def _point(self, log: Callable[[Mapping[str, float], int], None]) -> None:
        """Add to the learning curve, unless a point at this update is there."""
        step = self.training.step
        if self.curve and self.curve[-1]["update"] == step:
            return
        self._look()
        figures = {f"world/{name}": value for name, value in self.training.finished_episodes().items()}
        figures |= {} if self.evaluate is None else dict(self.evaluate())
        log(figures, step)
        counters = {"update": step, "steps": self.training.steps_taken, "seconds": self._seconds()}
        self.curve.append(counters | figures)

    def _seconds(self) -> float:
        return time.monotonic() - self.began


def _check_same(path: Path, config: AgentRunConfig) -> None:
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: no run to resume. Start one without --resume.")
    there = from_json(AgentRunConfig, read_json(path), str(path))
    ours, theirs = _flat(to_json(config)), _flat(to_json(there))
    different = [
        f"{name} {theirs.get(name)!r}, now {ours.get(name)!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if different:
        raise ValueError(
            f"{path.parent} was begun with other settings ({'; '.join(different)}). Start a new run instead."
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by names such as ``"imagination.gamma"``; tuples as lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}
