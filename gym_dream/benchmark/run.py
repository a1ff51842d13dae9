"""The whole benchmark: what is measured, in which order and how long; bench.json grows with every part of it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from gym_dream.benchmark.agents import UpdateAgent, measure_agents
from gym_dream.benchmark.ceilings import measure_ceilings
from gym_dream.benchmark.dreams import ORIGINAL, Subject, measure_dreams, open_subjects
from gym_dream.benchmark.engines import REFERENCE, Engine, engines
from gym_dream.benchmark.parts import measure_operations, measure_parts
from gym_dream.benchmark.start import measure_starts
from gym_dream.benchmark.timing import Clock, Stopwatch, interleaved
from gym_dream.evaluation.provenance import hardware
from gym_dream.files import write_json
from gym_dream.world_model import DreamPrecision, WorldModel, WorldModelConfig, resolve_device, resolve_dtype

Part = Literal["ceilings", "start", "dreams", "parts", "training", "agents"]
PARTS: tuple[Part, ...] = get_args(Part)
FORMAT_VERSION = 1
# Shares of the time. Ceilings and cold starts take what they take, which is little.
SHARES = {"dreams": 0.5, "parts": 0.1, "training": 0.25, "agents": 0.15}
LOOKED_INTO = 32  # dreams at most, where the time of a step is taken apart and memory is measured
MOST_STARTS = 3

Updates = Callable[[dict[str, Any], Engine, torch.device], Mapping[str, Callable[[], object]]]
"""(environment's specification, engine, device) -> by name, what makes one update of a network."""


def bench(
    model: str,
    out: Path,
    *,
    original: Callable[[dict[str, Any]], WorldModelConfig],
    updates: Mapping[str, Updates],
    update_agent: UpdateAgent,
    batch_sizes: Sequence[int] = (1, 8, 32, 128),
    denoising_steps: Sequence[int] = (1, 3),
    measure: Sequence[Part] = PARTS,
    minutes: float = 5.0,
    repeats: int = 5,
    threads: int | None = None,
    device: str = "auto",
    compile: bool = False,
    precisions: Sequence[DreamPrecision] = (),
    clock: Clock = "wall",
) -> dict[str, Any]:
    """Measure, and write ``bench.json`` after every part, so that Ctrl-C keeps what is measured.

    Args:
        model: the world model: a name that ships, a folder, or "hub:org/name[@revision]".
        out: a folder, or a file that ends in .json.
        original: DIAMOND's architecture for an environment; the reference, with random weights.
        updates: by the preset's name, what makes its updates.
        update_agent: makes the update of an agent.
        batch_sizes: numbers of dreams; those that would take too long are left out, and named.
        denoising_steps: passes of the denoiser a frame; each network's own setting is added.
        measure: which parts.
        minutes: about how long.
        repeats: samples of each case, fewer where time is short.
        threads: of PyTorch; None leaves them as they are.
        device: where.
        compile: measure compiled networks, too.
        precisions: which to compare with the reference; none: all that this hardware has.
        clock: see `gym_dream.benchmark.timing.Clock`.

    Returns:
        What bench.json holds.

    Raises:
        ValueError: a setting that cannot be.
        FileNotFoundError: there is no such model.
    """
    _check(batch_sizes, denoising_steps, measure, minutes, repeats, threads)
    world_model, where = WorldModel.load(model), resolve_device(device)
    path = out if out.suffix == ".json" else out / "bench.json"
    with _threads(threads), _many_compiled(compile):
        watch = Stopwatch(where, clock)
        ways = _ways(where, compile, precisions)
        found: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "model": model,
            "machine": _machine(where),
            "settings": {
                "batch_sizes": list(batch_sizes),
                "denoising_steps": list(denoising_steps),
                "measure": list(measure),
                "minutes": minutes,
                "repeats": repeats,
                "threads": torch.get_num_threads(),
                "clock": clock,
                "compile": compile,
                "precisions": list(precisions),
                "reference": REFERENCE.name,
            },
        }
        write_json(path, found)
        world_models = {ORIGINAL: _random(original(world_model.config.env), world_model), "model": world_model}
        seconds = {name: 60 * minutes * share for name, share in SHARES.items()}
        largest = max([batch for batch in batch_sizes if batch <= LOOKED_INTO], default=min(batch_sizes))
        looked_into = sorted({min(batch_sizes), largest})
        subjects = open_subjects(world_models, ways, where) if {"dreams", "parts", "agents"} & set(measure) else {}
        floating = [way for way in ways if way.precision != "int8"]  # which neither trains nor multiplies matrices
        usual = resolve_dtype("auto", where)
        default = next((way for way in floating[1:] if getattr(torch, way.precision) == usual), floating[-1])
        for part in (part for part in PARTS if part in measure):
            if part == "ceilings":
                precisions = list(dict.fromkeys(way.precision for way in floating))
                found["ceilings"] = measure_ceilings(precisions, watch, repeats)
            elif part == "start":
                starts = min(repeats, MOST_STARTS)
                found["start"] = [
                    *measure_starts({ORIGINAL: world_models[ORIGINAL]}, looked_into[:1], where, clock, starts, False),
                    *measure_starts({"model": world_model}, looked_into, where, clock, starts, compile),
                ]
            elif part == "dreams":
                found["dreams"], found["left_out"] = measure_dreams(
                    subjects, batch_sizes, denoising_steps, watch, repeats, seconds[part]
                )
            elif part == "agents":
                chosen = {network: subjects[network, default] for network in world_models}
                batches = sorted({b for b in batch_sizes if b <= LOOKED_INTO} | {min(batch_sizes)})
                found["agents"] = measure_agents(
                    chosen, default.name, batches, update_agent, watch, repeats, seconds[part]
                )
            elif part == "parts":
                chosen = {network: subjects[network, default] for network in world_models}
                found["parts"] = _parts(chosen, default, looked_into, watch, repeats, seconds[part])
            else:
                found["training"] = _training(updates, world_model.config.env, floating, watch, repeats, seconds[part])
            _add_ceiling_shares(found)
            write_json(path, found)
    return found


def _ways(device: torch.device, compile: bool, precisions: Sequence[DreamPrecision]) -> Sequence[Engine]:
    """The reference, then the engines of these precisions."""
    reference, *others = engines(device, compile)
    there = list(dict.fromkeys(way.precision for way in others))
    if absent := [precision for precision in precisions if precision not in there]:
        raise ValueError(f"precisions: this machine's {device.type} has {there}, got {absent}.")
    return [reference, *(way for way in others if way.precision in (precisions or there))]


def _check(
    batch_sizes: Sequence[int],
    denoising_steps: Sequence[int],
    measure: Sequence[Part],
    minutes: float,
    repeats: int,
    threads: int | None,
) -> None:
    for name, values in (("batch_sizes", batch_sizes), ("denoising_steps", denoising_steps)):
        if not values or min(values) < 1:
            raise ValueError(f"{name}: expected one or several numbers of at least 1, got {list(values)}.")
    if not measure or (unknown := set(measure) - set(PARTS)):
        raise ValueError(f"measure: expected some of {list(PARTS)}, got {sorted(unknown) if measure else 'none'}.")
    if not minutes > 0:
        raise ValueError(f"minutes: expected more than 0, got {minutes}.")
    if repeats < 1:
        raise ValueError(f"repeats: expected at least 1, got {repeats}.")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}.")


@contextmanager
def _many_compiled(compile: bool) -> Iterator[None]:
    """Let PyTorch compile a network for every size and precision: by default it gives up after eight in a process."""
    if not compile:
        yield
        return
    import torch._dynamo as dynamo

    with dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=1000):
        yield


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "hardware": hardware(),
        "system": platform.system(),
        "device": str(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "precision_auto": str(resolve_dtype("auto", device)).removeprefix("torch."),
    }


def _random(config: WorldModelConfig, world_model: WorldModel) -> WorldModel:
    """Random weights, drawn without touching the process's random numbers: speed does not depend on them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WorldModel.create(config, world_model.starts)


def _parts(
    subjects: Mapping[str, Subject],
    engine: Engine,
    batch_sizes: Sequence[int],
    watch: Stopwatch,
    repeats: int,
    seconds: float,
) -> list[dict[str, Any]]:
    left = sum(batch_sizes) * len(subjects)
    return [
        {
            "network": network,
            "engine": engine.name,
            "batch": batch,
            "parts": measure_parts(subject, batch, watch, repeats, seconds * batch / left),
            "operations": measure_operations(subject, batch),
        }
        for network, subject in subjects.items()
        for batch in batch_sizes
    ]


def _training(
    updates: Mapping[str, Updates],
    env: dict[str, Any],
    ways: Sequence[Engine],
    watch: Stopwatch,
    repeats: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """The updates of every preset, the engines in turn."""
    figures = []
    for preset, make in updates.items():
        made = {way: make(env, way, watch.device) for way in ways}
        names = list(made[REFERENCE])
        for network in names:
            work = {way.name: made[way][network] for way in ways}
            records = watch.device.type == "cuda"
            uncounted = [way.name for way in ways if way.compile or (records and not way.plain)]
            timings = interleaved(work, watch, repeats, seconds / len(updates) / len(names), uncounted)
            figures += [
                {
                    "preset": preset,
                    "network": network,
                    "engine": engine,
                    "ratio": timings[REFERENCE.name].median / timing.median,
                    **timing.figures(),
                }
                for engine, timing in timings.items()
            ]
    return figures


def _add_ceiling_shares(found: dict[str, Any]) -> None:
    """Beside every FLOP/s, its share of what the large convolution reaches in the same precision."""
    most = {
        row["precision"]: row["flops_per_second"]
        for row in found.get("ceilings", [])
        if row["operation"] == "3x3 convolution"
    }
    for row in found.get("dreams", []):
        if row["flops_per_second"] is not None and row["precision"] in most:
            row["share_of_ceiling"] = row["flops_per_second"] / most[row["precision"]]
