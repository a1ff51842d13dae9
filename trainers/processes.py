"""The processes that fit a world model together, as ``torchrun`` starts them, and each one's share of a batch.

Every process holds the same weights, draws the same batch, computes the gradient of its own rows, and adds it to those
of the others: the run is that of one process with the whole batch. The sum goes through one buffer after the backward
pass; `torch.nn.parallel.DistributedDataParallel` would send it earlier, in pieces, but takes the mean over processes,
which is another loss where padding is shared out unevenly.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gym_dream.world_model import resolve_device


@dataclass(frozen=True)
class Processes:
    """This process and how many there are; one alone unless `joined` says otherwise."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and shows progress."""
        return self.rank == 0

    def rows(self, batch_size: int, pieces: int) -> list[slice]:
        """This process's rows of a batch, in so many pieces, which differ by one row at the most.

        Raises:
            ValueError: there are more pieces, over all processes, than rows.
        """
        total = self.count * pieces
        if batch_size < total:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared out among {self.count} process(es) in {pieces} piece(s) "
                f"each: every piece needs a row. Expected a batch of {total} or more, or fewer processes or pieces."
            )
        bounds = [batch_size * i // total for i in range(total + 1)]
        mine = range(self.rank * pieces, (self.rank + 1) * pieces)
        return [slice(bounds[i], bounds[i + 1]) for i in mine]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over all processes, the same to the bit in all."""
        self._in_one_buffer(tensors, dist.all_reduce)

    def take_over(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by those of the first process."""
        self._in_one_buffer(tensors, lambda buffer: dist.broadcast(buffer, src=0))

    def largest(self, *values: float) -> list[float]:
        """The largest of each value over all processes. Waits for them, but not for the device."""
        if self.count == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return numbers.tolist()

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.largest(0.0)

    def check_same(self, text: str) -> None:
        """Make sure that all processes have the same text.

        Raises:
            ValueError: they have not; in all of them.
        """
        checksum = zlib.crc32(text.encode())
        high, low = self.largest(checksum, -checksum)
        if high != -low:
            raise ValueError(
                "The processes do not see the same run and data. On several machines, OUT must lie in a folder that "
                f"they share, and DATA too, or be the same everywhere. Process {self.rank} sees: {text}."
            )

    @torch.no_grad()
    def _in_one_buffer(self, tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
        if self.count == 1:
            return
        buffer = torch.cat([tensor.flatten() for tensor in tensors])
        exchange(buffer)
        parts = buffer.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])


@contextmanager
def joined(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Meet the other processes that ``torchrun`` has started, if it has, and leave them at the end.

    Args:
        device: as for `resolve_device`; of several processes, each takes a GPU of its own.

    Yields:
        The processes, and this one's device.

    Raises:
        ValueError: there is no such device here, or it cannot be shared out.
    """
    if (count := _variable("WORLD_SIZE", 1)) == 1:
        yield Processes(), resolve_device(device)
        return
    where = _own_device(device, _variable("LOCAL_RANK", 0))
    # On a GPU both: what is decided on the host must not wait for the device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo")
    try:
        processes = Processes(dist.get_rank(), count)
        yield processes, where
        processes.wait()  # until the first has written everything
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the first of those that ``torchrun`` started, or the only one."""
    return _variable("RANK", 0) == 0


def _own_device(device: str, place: int) -> torch.device:
    """That of the process at a place among those of its machine."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device not in ("auto", "cuda"):
        raise ValueError(f"device: several processes train on 'cpu', 'cuda' or 'auto', not on {device!r}.")
    if place >= torch.cuda.device_count():
        raise ValueError(
            f"Each process takes a GPU of its own, but this machine has {torch.cuda.device_count()}: expected no more "
            "processes than that (torchrun --nproc-per-node), or the device 'cpu'."
        )
    where = torch.device("cuda", place)
    torch.cuda.set_device(where)
    return where


def _variable(name: str, alone: int) -> int:
    """A number that ``torchrun`` tells its processes."""
    return int(os.environ.get(name, alone))
