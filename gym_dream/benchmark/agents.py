"""An agent's update in dreams, beside the dream steps that are in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from gym_dream.benchmark.dreams import Subject
from gym_dream.benchmark.engines import Endless
from gym_dream.benchmark.timing import Stopwatch, Timing
from gym_dream.dream import Dream, DreamReset, DreamStep

UpdateAgent = Callable[[dict[str, Any], "TimedDream"], Callable[[], object]]
"""(environment's specification, dreams) -> what makes one update of an agent that acts in them."""


class TimedDream:
    """Dreams that keep the time of their steps. They never end, so that no reset falls into a measurement.

    Attributes:
        seconds: of all steps since it was last set to 0.
        steps: their number.
    """

    def __init__(self, subject: Subject, batch: int, watch: Stopwatch) -> None:
        self._dream = Dream(Endless(subject.dynamics), batch, subject.world_model.starts, horizon=-1, seed=0)
        self._watch = watch
        self.device = watch.device
        self.seconds, self.steps = 0.0, 0

    @property
    def observation(self) -> Tensor | None:
        """See `gym_dream.dream.Dream`."""
        return self._dream.observation

    def reset(self, mask: Tensor | None = None) -> DreamReset:
        """See `gym_dream.dream.Dream`."""
        return self._dream.reset(mask)

    def step(self, actions: Tensor) -> DreamStep:
        """See `gym_dream.dream.Dream`."""
        taken: list[DreamStep] = []
        self.seconds += self._watch(lambda: taken.append(self._dream.step(actions)))
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
        # As if each dream took as long as in the smallest batch; twice, for the first update only warms up.
        fits = [b for b in larger if 2 * done["seconds"] * b / smallest < end - watch.now()]
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
    update()
    whole: list[float] = []
    dreamt: list[float] = []
    while not whole or (len(whole) < repeats and watch.now() < end):
        world.seconds, world.steps = 0.0, 0
        whole.append(watch(update))
        dreamt.append(world.seconds)
    timing = Timing.of(whole)
    return {
        "batch": batch,
        "denoising_steps": subject.dynamics.sampler.num_denoising_steps,
        "dream_steps": world.steps,
        "dream_seconds": Timing.of(dreamt).median,
        "ratio_to_dreams": Timing.of([w / d for w, d in zip(whole, dreamt, strict=True)]).median,
        **timing.figures(),
    }
