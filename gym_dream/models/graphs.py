"""CUDA graphs: all that a function launches on a GPU, recorded once and from then on launched as one.

A kernel of a small network is done sooner than Python can launch the next: a dream's step is some hundreds of them, an
update of the denoiser some thousands. A recording takes Python out of it and computes the same. It keeps the memory
that its function needs on the way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]
WARM_UP = 3  # calls before recording, in which libraries choose their algorithms and make room to work in
MOST = 8  # recordings kept, each with all that its function computes on the way


class Recording:
    """A function of tensors on a GPU, recorded for inputs of these shapes.

    Attributes:
        outputs: where each `replay` leaves the results, until the next.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        """Call the function some times and record the last call.

        Args:
            function: what to record. It may neither wait for the GPU nor bring anything there, and all that it goes by,
                beside the values of its inputs, stays as it is now.
            inputs: an example.
        """
        self._inputs = [tensor.clone() for tensor in inputs]
        device = inputs[0].device  # which need not be the current one
        before, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        aside.wait_stream(before)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                function(*self._inputs)
        before.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=aside):
            self.outputs = function(*self._inputs)

    def replay(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The results for these inputs, in memory that the next call writes over."""
        for ours, given in zip(self._inputs, inputs, strict=True):
            ours.copy_(given)
        self._graph.replay()
        return self.outputs


class Recorded:
    """A function of tensors that is recorded for each combination of input shapes; called like the function.

    Where PyTorch cannot record it, a warning says so, and it is called as it is. PyTorch before 2.13 may then refuse to
    draw from its own generator on that GPU: https://github.com/pytorch/pytorch/issues/171263
    """

    def __init__(self, function: Function, *, fresh: bool = True) -> None:
        """Record at the first call.

        Args:
            function: see `Recording`.
            fresh: give results in memory of their own; else the next call writes over them.
        """
        self._function, self._fresh = function, fresh
        self._recordings: dict[object, Recording | None] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Call the function."""
        kind = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        with torch.inference_mode(False):  # what is kept from one call to the next must be written to in any mode
            if kind not in self._recordings:
                if len(self._recordings) == MOST:
                    del self._recordings[next(iter(self._recordings))]
                self._recordings[kind] = _record(self._function, inputs)
            recording = self._recordings[kind]
            if recording is not None:
                outputs = recording.replay(inputs)
                return tuple(tensor.clone() for tensor in outputs) if self._fresh else outputs
        return self._function(*inputs)


def _record(function: Function, inputs: Sequence[Tensor]) -> Recording | None:
    device = inputs[0].device
    before = torch.cuda.current_stream(device) if device.type == "cuda" else None
    try:
        return Recording(function, inputs)
    except RuntimeError as error:
        if before is not None:
            torch.cuda.set_stream(before)  # a recording that breaks off leaves its own
        warnings.warn(
            "PyTorch cannot record this computation as a CUDA graph, so it runs unrecorded, which is slower and "
            f"otherwise the same. PyTorch says: {str(error).splitlines()[0]!r}.",
            stacklevel=3,
        )
        return None
