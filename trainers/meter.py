"""What a run in phases spends its time on, and a bar that shows how far it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Meter:
    """Clock and bar of a run.

    Attributes:
        seconds: spent on each phase so far.
    """

    def __init__(self, phases: Sequence[str]) -> None:
        self.seconds = dict.fromkeys(phases, 0.0)
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
        self._count()

    def _count(self) -> None:
        """Add the time since the last count to the phase at hand."""
        now = time.monotonic()
        self.seconds[self._phase] += now - self._began
        self._began = now

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Count what follows as no phase."""
        self._count()
        yield
        self._began = time.monotonic()

    def show(self, done: float, **figures: object) -> None:
        """Bring the bar up to date: the share that is done, and what is to stand behind it."""
        self._bar.update(done - self._bar.n)
        self._bar.set_postfix(**figures, refresh=True)

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.write(text)
