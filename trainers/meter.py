"""What a run in phases spends its time on, its latest losses, and a bar that shows both."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor
from tqdm import tqdm

BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Meter:
    """Clock, losses and bar of a run.

    Attributes:
        seconds: spent on each phase so far.
        losses: by name, as last looked at.
    """

    def __init__(self, phases: Sequence[str]) -> None:
        self.seconds = dict.fromkeys(phases, 0.0)
        self.losses: dict[str, float] = {}
        self._latest: dict[str, Tensor] = {}
        self._phase, self._began = phases[0], time.monotonic()
        self._bar = tqdm(total=1.0, disable=True)

    @contextmanager
    def bar(self, done: float, progress: bool) -> Iterator[None]:
        """Show the bar, if there is to be one, from a share that is done."""
        with tqdm(total=1.0, initial=done, disable=not progress, bar_format=BAR) as self._bar:
            yield

    @contextmanager
    def phase(self, name: str, title: str) -> Iterator[None]:
        """Count what follows as this phase."""
        self._bar.set_description_str(f"{title} {name:7}", refresh=True)
        self._phase, self._began = name, time.monotonic()
        yield
        self.count()

    def count(self) -> None:
        """Add the time since the last count to the phase at hand."""
        now = time.monotonic()
        self.seconds[self._phase] += now - self._began
        self._began = now

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Count what follows as no phase."""
        self.count()
        yield
        self._began = time.monotonic()

    def note(self, report: Mapping[str, Tensor]) -> None:
        """Keep losses, scalars on the device, without waiting for it."""
        self._latest |= report

    def look(self) -> bool:
        """Wait for the losses noted; returns whether all are numbers."""
        self.losses.update({name: float(value) for name, value in self._latest.items()})
        return all(map(math.isfinite, self.losses.values()))

    def show(self, done: float, real_steps: int) -> None:
        """Bring the bar up to date."""
        self._bar.update(done - self._bar.n)
        shown = {name.removesuffix("/loss"): f"{value:.4f}" for name, value in self.losses.items() if "/loss" in name}
        self._bar.set_postfix(real=real_steps, **shown, refresh=True)

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.write(text)
