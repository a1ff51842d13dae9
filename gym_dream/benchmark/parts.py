"""Where the time of one step goes: by part of the step, and by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from gym_dream.benchmark.dreams import Subject
from gym_dream.benchmark.engines import Inputs, env_step, with_steps
from gym_dream.benchmark.timing import Stopwatch, interleaved
from gym_dream.models.denoiser import to_uint8, to_unit
from gym_dream.models.diamond import DiamondDynamics
from gym_dream.noise import RowNoise

OPERATIONS_SHOWN = 10


def measure_parts(subject: Subject, batch: int, watch: Stopwatch, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Seconds of each part of a step of `DreamVectorEnv`, and their share of the whole, with the model's own setting.

    The whole and the parts are timed in turn, each part by itself; what is left is the environment's own doing, the
    copies to NumPy, and what timing apart misses.
    """
    dynamics = with_steps(subject.dynamics, record=False)  # parts are timed in Python, so the whole is, too
    cases: dict[str, Callable[[], object]] = {"whole step": env_step(subject.world_model, dynamics, batch)}
    cases |= {name: torch.no_grad()(work) for name, work in _parts(dynamics, batch).items()}
    timings = interleaved(cases, watch, repeats, seconds)
    whole = timings["whole step"].median
    parts = [{"part": name, "share": t.median / whole, **t.figures()} for name, t in timings.items()]
    rest = 1 - sum(part["share"] for part in parts[1:])
    # Timed apart the parts may add up to a little more than the whole.
    return [*parts, {"part": "environment, copies, and what the parts miss", "share": rest, "seconds": rest * whole}]


def _parts(dynamics: DiamondDynamics, batch: int) -> dict[str, Callable[[], object]]:
    inputs, device = Inputs.draw(dynamics, batch), dynamics.device
    past, actions = inputs.past, inputs.actions
    length, shape = dynamics.context_length, past.shape[2:]
    frames = to_uint8(past)
    real = torch.ones(batch, length, dtype=torch.bool, device=device)
    rows, frame = torch.arange(batch, device=device), past[:, -1]
    memory = dynamics.reward_termination.initial_state(batch, device)
    steps, sigma = dynamics.sampler.num_denoising_steps, torch.ones(batch, device=device)

    def passes() -> None:
        with torch.autocast(device.type, dynamics.dtype, enabled=dynamics.dtype != torch.float32):
            for _ in range(steps):
                dynamics.denoise(frame, sigma, past, actions)

    def judge() -> None:
        with torch.autocast(device.type, dynamics.dtype, enabled=dynamics.dtype != torch.float32):
            dynamics.reward_termination(past[:, -1:], actions[:, -1:], frame[:, None], memory)

    return {
        "noise of the frame": lambda: RowNoise(rows, rows).normal(shape),
        f"denoiser, passes: {steps}": passes,
        "frames to floats and back": lambda: (to_unit(frames, real), to_uint8(frame), torch.cat([frames], dim=1)),
        "reward and termination model": judge,
        "sampling of reward and termination": lambda: RowNoise(rows, rows).uniform((2,)),
    }


def measure_operations(subject: Subject, batch: int) -> list[dict[str, Any]]:
    """The operations on which one step spends most time, by PyTorch's profiler, and their share of it.

    The profiler itself slows small operations down: at a batch of one their share is overstated.
    """
    dynamics = with_steps(subject.dynamics, record=False)
    step = env_step(subject.world_model, dynamics, batch)
    step()
    on_gpu = dynamics.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as profiler:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    spent = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    calls = {event.key: event.count for event in profiler.key_averages()}
    total = sum(spent.values()) or 1
    most = sorted(spent, key=spent.__getitem__, reverse=True)[:OPERATIONS_SHOWN]
    return [{"operation": key, "share": spent[key] / total, "calls": calls[key]} for key in most]
