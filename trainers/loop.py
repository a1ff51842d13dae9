"""What every training loop has: how long it is to be, losses, a bar, and logs for TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

LOG_INTERVAL = 20  # updates between two looks at the losses, each of which waits for the device
BAR = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"


@dataclass(frozen=True)
class Budget:
    """How long a run is to be, all of it, the part before a resume included.

    Attributes:
        amount: updates, or seconds.
        unit: "step" or "s".
    """

    amount: float
    unit: str

    @classmethod
    def of(cls, steps: int | None, minutes: float | None) -> Budget:
        """Either a number of updates or a time.

        Raises:
            ValueError: both, neither, or not above zero.
        """
        if (steps is None) == (minutes is None):
            raise ValueError("Say how long to train: either steps or minutes.")
        budget = cls(steps, "step") if steps is not None else cls(60 * (minutes or 0), "s")
        if budget.amount <= 0:
            raise ValueError(f"Expected to train for more than nothing, got steps={steps}, minutes={minutes}.")
        return budget

    def used(self, steps: int, seconds: float) -> float:
        """How much of the amount is used up, at most all of it."""
        return min(self.amount, steps if self.unit == "step" else seconds)


class Losses:
    """The losses of a run, left on the device until somebody looks.

    Attributes:
        values: by name, as last looked at.
    """

    def __init__(self, out: Path) -> None:
        """Of the run in a folder."""
        self.out = out
        self.values: dict[str, float] = {}
        self._latest: dict[str, Tensor] = {}

    def note(self, report: Mapping[str, Tensor]) -> None:
        """Keep what an update reports, scalars on the device."""
        self._latest |= report

    def look(self, where: str) -> None:
        """Wait for what was noted.

        Args:
            where: the run is, in words that follow "no longer numbers".

        Raises:
            FloatingPointError: a loss is no longer a number.
        """
        self.values.update({name: float(value) for name, value in self._latest.items()})
        if not all(map(math.isfinite, self.values.values())):
            raise FloatingPointError(
                f"The losses are no longer numbers {where}: {self.values}. {self.out} keeps the last good checkpoint; "
                "a smaller learning rate may help, and so may precision='float32' where there is a choice."
            )

    def shown(self) -> dict[str, str]:
        """For a bar."""
        return {name.removesuffix("/loss"): f"{value:.4f}" for name, value in self.values.items() if "/loss" in name}


@contextmanager
def scalar_log(folder: Path, step: int) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """A function that writes scalars for TensorBoard, if that is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        tqdm.write("No TensorBoard logs: pip install 'gym-dream[train]' for them.")
        yield no_log
        return
    with SummaryWriter(str(folder), purge_step=step + 1) as writer:

        def write(values: Mapping[str, float], at: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, at)

        yield write


def no_log(values: Mapping[str, float], step: int) -> None:
    """Write nothing."""
