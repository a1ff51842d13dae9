"""Timing some cases in turn, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

Clock = Literal["wall", "cpu"]
"""``wall``: seconds that passed. ``cpu``: processor time of this process, which other programs on a shared core do not
add to; it means the same with one thread only, and no accelerator."""

SAMPLE_SECONDS = 0.1  # a sample is as many calls as last so long: a single short one is noise
LONG_SECONDS = 1.0  # what is slow from the first call on spends little of it on starting up
MOST_CALLS = 100


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, lower and upper quartile of some samples."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Summarise samples; of one, all three are the same."""
        low, median, high = np.percentile(seconds, [25, 50, 75]).tolist()
        return cls(median, low, high, len(seconds))

    def figures(self) -> dict[str, Any]:
        """As it stands in bench.json."""
        return {"seconds": self.median, "seconds_low": self.low, "seconds_high": self.high, "samples": self.samples}


@dataclass(frozen=True)
class Stopwatch:
    """A clock that waits for the device before it is read.

    Attributes:
        device: what is waited for.
        clock: what is read.
    """

    device: torch.device
    clock: Clock = "wall"

    def __post_init__(self) -> None:
        if self.clock not in ("wall", "cpu"):
            raise ValueError(f"clock: expected 'wall' or 'cpu', got {self.clock!r}.")
        if self.clock == "cpu" and (self.device.type != "cpu" or torch.get_num_threads() != 1):
            raise ValueError(
                "clock: processor time says how long something takes on the CPU with one thread only; got device "
                f"{self.device} and {torch.get_num_threads()} threads. Add --threads 1 --device cpu, or use the "
                "wall clock."
            )

    def __call__(self, work: Callable[[], object], calls: int = 1) -> float:
        """Seconds of one call of ``work``, the mean of some in a row."""
        self.wait()
        begin = self.now()
        for _ in range(calls):
            work()
        self.wait()
        return (self.now() - begin) / calls

    def now(self) -> float:
        """The clock's seconds; what is left of a time limit is told by the same clock as the cases."""
        return time.perf_counter() if self.clock == "wall" else time.process_time()

    def wait(self) -> None:
        """Let the device finish what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def interleaved(
    cases: Mapping[str, Callable[[], object]],
    watch: Stopwatch,
    repeats: int,
    seconds: float = math.inf,
    uncounted: Collection[str] = (),
) -> dict[str, Timing]:
    """Time some cases in turn (A, B, A, B, …), after a first call of each to warm up.

    Args:
        cases: what to call, by name.
        watch: measures.
        repeats: samples of each case.
        seconds: start no further round after this much time; every case gets at least one sample. A first call that
            lasted long is itself the first sample.
        uncounted: cases whose first call is never a sample, for it may compile or record.
    """
    end = watch.now() + seconds
    for name in uncounted:
        cases[name]()
    first = {name: watch(work) for name, work in cases.items()}
    samples = {name: [once] if once > LONG_SECONDS else [] for name, once in first.items()}
    while min(map(len, samples.values())) < repeats:
        if watch.now() > end and all(samples.values()):
            break
        for name, work in cases.items():
            if len(samples[name]) < repeats:
                calls = min(MOST_CALLS, math.ceil(SAMPLE_SECONDS / max(first[name], 1e-9)))
                samples[name].append(watch(work, calls))
    return {name: Timing.of(values) for name, values in samples.items()}
