"""Frames and environment steps a second, by batch size, denoising steps and engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gym_dream.benchmark.engines import (
    REFERENCE,
    Engine,
    Inputs,
    env_step,
    frame_flops,
    open_dynamics,
    sample_frame,
    with_steps,
    without_rewards,
)
from gym_dream.benchmark.timing import Stopwatch, Timing, interleaved
from gym_dream.models.diamond import DiamondDynamics
from gym_dream.world_model import WorldModel

ORIGINAL = "original"
KINDS = {
    "frame": "the sampler alone, from noise to a frame",
    "step without rewards": "a step of DreamVectorEnv, without the reward and termination model",
    "step": "a whole step of DreamVectorEnv",
}


@dataclass(frozen=True)
class Case:
    """One thing to be timed."""

    network: str
    engine: Engine
    kind: str
    batch: int
    denoising_steps: int

    @property
    def group(self) -> tuple[str, int, int]:
        """Cases that are timed in turn, since they are compared."""
        return self.kind, self.batch, self.denoising_steps


@dataclass(frozen=True)
class Subject:
    """A world model in one engine."""

    world_model: WorldModel
    dynamics: DiamondDynamics

    def work(self, case: Case) -> Callable[[], object]:
        """What is timed."""
        dynamics = with_steps(self.dynamics, case.denoising_steps)
        if case.kind == "step":
            return env_step(self.world_model, dynamics, case.batch)
        if case.kind == "step without rewards":
            return env_step(self.world_model, without_rewards(dynamics), case.batch)
        inputs = Inputs.draw(dynamics, case.batch)
        return torch.no_grad()(lambda: sample_frame(dynamics, inputs.past, inputs.actions, inputs.noise))


def open_subjects(
    world_models: Mapping[str, WorldModel], engines: Sequence[Engine], device: torch.device
) -> dict[tuple[str, Engine], Subject]:
    """Every network in every engine."""
    return {
        (name, engine): Subject(world_model, open_dynamics(world_model, engine, device))
        for name, world_model in world_models.items()
        for engine in engines
    }


def measure_dreams(
    subjects: Mapping[tuple[str, Engine], Subject],
    batch_sizes: Sequence[int],
    denoising_steps: Sequence[int],
    watch: Stopwatch,
    repeats: int,
    seconds: float,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Time every case, the smallest batch first; then leave out what would take longest until the rest fits.

    Args:
        subjects: by network and engine.
        batch_sizes: numbers of dreams.
        denoising_steps: passes of the denoiser a frame; each network's own setting is added.
        watch: measures.
        repeats: samples of each case; fewer where time is short.
        seconds: for all. The smallest batch is measured whatever it takes.

    Returns:
        The figures of each case measured, and the cases left out.
    """
    end = watch.now() + seconds
    cases = [
        Case(network, engine, kind, batch, steps)
        for batch in sorted(set(batch_sizes))
        for kind in KINDS
        for (network, engine), subject in subjects.items()
        for steps in sorted({*denoising_steps, subject.dynamics.sampler.num_denoising_steps})
    ]
    cases.sort(key=lambda case: (case.batch, list(KINDS).index(case.kind), case.denoising_steps))
    smallest, larger = [c for c in cases if c.batch == cases[0].batch], [c for c in cases if c.batch > cases[0].batch]
    timings: dict[Case, Timing] = {}
    _measure(smallest, subjects, watch, repeats, seconds / 4, timings)
    expected = {case: _expected(case, timings, cases[0].batch) for case in larger}
    kept = list(larger)
    while kept and sum(expected[case] for case in kept) > end - watch.now():
        kept.remove(max(kept, key=expected.__getitem__))
    _measure(kept, subjects, watch, repeats, end - watch.now(), timings)
    # Of the reference, whose operations PyTorch's counter all knows.
    networks = dict.fromkeys(network for network, _ in subjects)
    flops = {network: frame_flops(with_steps(subjects[network, REFERENCE].dynamics, 1)) for network in networks}
    figures = [_figures(case, timing, timings, subjects, flops[case.network]) for case, timing in timings.items()]
    return figures, [_names(case) for case in larger if case not in timings]


def _measure(
    cases: Sequence[Case],
    subjects: Mapping[tuple[str, Engine], Subject],
    watch: Stopwatch,
    repeats: int,
    seconds: float,
    timings: dict[Case, Timing],
) -> None:
    """Group by group; each gets its share of the time, by the passes of the denoiser that it makes."""
    left = float(sum(case.batch * case.denoising_steps for case in cases))
    end = watch.now() + seconds
    for _, members in itertools.groupby(cases, key=lambda case: case.group):
        group = list(members)
        weight = sum(case.batch * case.denoising_steps for case in group)
        share = (end - watch.now()) * weight / left
        work = {str(i): subjects[case.network, case.engine].work(case) for i, case in enumerate(group)}
        uncounted = [str(i) for i, case in enumerate(group) if case.engine.compile or _dynamics(case, subjects).record]
        timed = interleaved(work, watch, repeats, share, uncounted)
        timings.update({case: timed[str(i)] for i, case in enumerate(group)})
        left -= weight


def _dynamics(case: Case, subjects: Mapping[tuple[str, Engine], Subject]) -> DiamondDynamics:
    return subjects[case.network, case.engine].dynamics


def _expected(case: Case, timings: Mapping[Case, Timing], batch: int) -> float:
    """Seconds of a single call, as if each dream took as long as in the smallest batch."""
    small = Case(case.network, case.engine, case.kind, batch, case.denoising_steps)
    return timings[small].median * case.batch / batch


def _figures(
    case: Case,
    timing: Timing,
    timings: Mapping[Case, Timing],
    subjects: Mapping[tuple[str, Engine], Subject],
    pass_flops: int,
) -> dict[str, Any]:
    """One case for bench.json."""
    own = Case(case.network, REFERENCE, case.kind, case.batch, case.denoising_steps)
    original_steps = subjects[ORIGINAL, REFERENCE].dynamics.sampler.num_denoising_steps
    original = Case(ORIGINAL, REFERENCE, case.kind, case.batch, original_steps)
    flops = pass_flops * case.denoising_steps * case.batch if case.kind == "frame" else None
    return {
        **_names(case),
        "per_second": case.batch / timing.median,
        "ratio": _ratio(timings.get(own), timing),
        "ratio_to_original": _ratio(timings.get(original), timing),
        "flops": flops,
        "flops_per_second": None if flops is None else flops / timing.median,
        **timing.figures(),
    }


def _names(case: Case) -> dict[str, Any]:
    return {
        "network": case.network,
        "engine": case.engine.name,
        "precision": case.engine.precision,
        "kind": case.kind,
        "batch": case.batch,
        "denoising_steps": case.denoising_steps,
    }


def _ratio(slower: Timing | None, faster: Timing) -> float | None:
    return None if slower is None else slower.median / faster.median
