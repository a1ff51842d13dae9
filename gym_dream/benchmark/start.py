"""The first frame of a fresh process: how long it takes, and how much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gym_dream.benchmark.timing import Clock, Timing
from gym_dream.world_model import WorldModel

# What a user's program does; timed from within, for starting Python is not ours. The memory is the whole process's.
PROGRAM = """
import json, sys, time
settings = json.loads(sys.argv[1])
clock = time.process_time if settings["clock"] == "cpu" else time.perf_counter
seconds = {}
def lap(name, since):
    seconds[name] = clock() - since
    return clock()
begin = now = clock()
import gymnasium as gym, gym_dream
make = {"device": settings["device"], "compile": settings["compile"], "model": settings["model"]}
import torch
torch.set_num_threads(settings["threads"])
now = lap("imports", now)
if settings["batch"] == 1:
    env = gym.make("DreamEnv-v0", **make)
else:
    env = gym.make_vec("DreamEnv-v0", num_envs=settings["batch"], **make)
now = lap("make", now)
env.reset(seed=0)
action = env.action_space.sample()
env.step(action)
lap("reset and step", now)
lap("until the first frame", begin)
env.step(action)
try:  # Linux's getrusage counts the parent's memory, too, from which a process is started
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    used = int(status["VmHWM"].split()[0]) * 1024
except OSError:
    try:
        import resource
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    except ImportError:  # Windows
        used = None
on_gpu = settings["device"].startswith("cuda")
device = torch.cuda.max_memory_allocated() if on_gpu else None
print(json.dumps({"seconds": seconds, "peak_bytes": used, "peak_device_bytes": device}))
"""


def measure_starts(
    world_models: Mapping[str, WorldModel],
    batch_sizes: Sequence[int],
    device: torch.device,
    clock: Clock,
    repeats: int,
    compile: bool,
) -> list[dict[str, Any]]:
    """Open each world model in fresh processes, step twice, and ask for times and memory.

    Args:
        world_models: by name.
        batch_sizes: numbers of dreams, each in a process of its own.
        device: where they dream.
        clock: of the processes; their threads are as many as this one's.
        repeats: processes of each kind.
        compile: start with compiled networks, too.
    """
    cases = [(name, batch, compiled) for name in world_models for batch in batch_sizes for compiled in {False, compile}]
    answers: dict[tuple[str, int, bool], list[dict[str, Any]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        for name, world_model in world_models.items():
            world_model.save(Path(folder) / name)
        for _ in range(repeats):
            for name, batch, compiled in cases:
                settings = {
                    "model": str(Path(folder) / name),
                    "batch": batch,
                    "device": str(device),
                    "compile": compiled,
                    "threads": torch.get_num_threads(),
                    "clock": clock,
                }
                answers[name, batch, compiled].append(_run(settings))
    return [
        {"network": name, "batch": batch, "compile": compiled, **_summary(answers[name, batch, compiled])}
        for name, batch, compiled in cases
    ]


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(settings)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"A fresh process could not dream (status {done.returncode}):\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _summary(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    laps = {name: Timing.of([answer["seconds"][name] for answer in answers]) for name in answers[0]["seconds"]}
    peaks = {
        key: max(answer[key] for answer in answers) if answers[0][key] is not None else None
        for key in ("peak_bytes", "peak_device_bytes")
    }
    return {"laps": {name: timing.figures() for name, timing in laps.items()}, **peaks}
