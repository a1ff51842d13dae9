"""An agent's update in dreams, beside the dream steps that are in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gym_dream.benchmark.dreams import Subject
from gym_dream.benchmark.engines import Endless
from gym_dream.benchmark.timing import LONG_SECONDS, Stopwatch, Timing
from gym_dream.dream import Dream, DreamStep

UpdateAgent = Callable[[dict[str, Any], "TimedDream"], Callable[[], object]]
"""(environment's specification, dreams) -> what makes one update of an agent that acts in them."""


class TimedDream(Dream):
    """Dreams that keep the time of their steps. They never end, so that no reset falls into a measurement.

    Attributes:
        seconds: of all steps since it was last set to 0.
        steps: their number.
    """

    def __init__(self, subject: Subject, batch: int, watch: Stopwatch) -> None:
        """Dreams from the model's starts, not begun yet."""
        super().__init__(Endless(subject.dynamics), batch, subject.world_model.starts, horizon=-1, seed=0)
        self.watch = watch
        self.seconds, self.steps = 0.0, 0

    def step(self, actions: Tensor | np.ndarray) -> DreamStep:
        """See `gym_dream.dream.Dream`."""
        taken: list[DreamStep] = []
        self.seconds += self.watch(lambda: taken.append(super(TimedDream, self).step(actions)))
        self.steps += 1
        return taken[0]


def measure_agents(
    subjects: Mapping[str, Subject],
    engine: str,
    batch_sizes: Sequence[int],
    update_agent: UpdateAgent,
    watch: Stopwatch,
    repeats: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """Updates in the dreams of each network: of the smallest batch, and of the largest that fits into the time.

    Both times are of the same updates, so whatever else the machine does falls on both.

    Args:
        subjects: by network.
        engine: in which they dream.
        batch_sizes: numbers of dreams.
        update_agent: makes the update.
        watch: measures.
        repeats: updates of each; fewer where time is short.
        seconds: for all. The smallest batch is measured whatever it takes.
    """
    figures = []
    for network, subject in subjects.items():
        end = watch.now() + seconds / len(subjects)
        env = subject.world_model.config.env
        smallest, *larger = sorted(set(batch_sizes))
        done = _measure(subject, smallest, env, update_agent, watch, repeats, watch.now() + (end - watch.now()) / 4)
        figures.append({"network": network, "engine": engine, **done})
        # As if each dream took as long as in the smallest batch.
        fits = [b for b in larger if done["seconds"] * b / smallest < end - watch.now()]
        if fits:
            done = _measure(subject, max(fits), env, update_agent, watch, repeats, end)
            figures.append({"network": network, "engine": engine, **done})
    return figures


def _measure(
    subject: Subject,
    batch: int,
    env: dict[str, Any],
    update_agent: UpdateAgent,
    watch: Stopwatch,
    repeats: int,
    end: float,
) -> dict[str, Any]:
    world = TimedDream(subject, batch, watch)
    update = update_agent(env, world)
    whole: list[float] = []
    dreamt: list[float] = []
    warm = False
    while not whole or (len(whole) < repeats and watch.now() < end):
        world.seconds, world.steps = 0.0, 0
        seconds = watch(update)
        if warm or seconds > LONG_SECONDS:  # as in `interleaved`
            whole.append(seconds)
            dreamt.append(world.seconds)
        warm = True
    timing = Timing.of(whole)
    return {
        "batch": batch,
        "denoising_steps": subject.dynamics.sampler.num_denoising_steps,
        "dream_steps": world.steps,
        "dream_seconds": Timing.of(dreamt).median,
        "ratio_to_dreams": Timing.of([w / d for w, d in zip(whole, dreamt, strict=True)]).median,
        **timing.figures(),
    }
