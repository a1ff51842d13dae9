"""What the machine can do at most, measured: a large matrix product and a large 3x3 convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from gym_dream.benchmark.timing import Stopwatch, interleaved

# (side of the square matrices; batch, channels and side of the feature maps), enough to keep each kind of device busy
SIZES = {"cpu": (2048, (8, 128, 64)), "cuda": (8192, (256, 256, 64))}


def measure_ceilings(
    precisions: Sequence[str],
    watch: Stopwatch,
    repeats: int,
    sizes: tuple[int, tuple[int, int, int]] | None = None,
) -> list[dict[str, Any]]:
    """FLOP/s of both, in every precision.

    Args:
        precisions: names of PyTorch's types, e.g. "float32".
        watch: measures, and says where.
        repeats: samples of each.
        sizes: others than the device's own, as in `SIZES`.
    """
    side, feature_map = sizes or SIZES.get(watch.device.type, SIZES["cpu"])
    cases, flops = {}, {}
    for precision in precisions:
        dtype = getattr(torch, precision)
        cases[precision, "matrix product"] = _matrix_product(side, dtype, watch.device)
        cases[precision, "3x3 convolution"] = _convolution(feature_map, dtype, watch.device)
        batch, channels, height = feature_map
        flops[precision, "matrix product"] = 2 * side**3
        flops[precision, "3x3 convolution"] = 2 * 9 * channels**2 * batch * height**2
    with torch.no_grad():
        timings = interleaved({"/".join(key): work for key, work in cases.items()}, watch, repeats)
    return [
        {
            "precision": precision,
            "operation": operation,
            "flops": flops[precision, operation],
            "flops_per_second": flops[precision, operation] / timings[f"{precision}/{operation}"].median,
            **timings[f"{precision}/{operation}"].figures(),
        }
        for precision, operation in cases
    ]


def _matrix_product(side: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    a, b = torch.randn(2, side, side, device=device).to(dtype).unbind()
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _convolution(size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    batch, channels, side = size
    layout: dict[str, Any] = {"memory_format": torch.channels_last, "dtype": dtype}
    x = torch.randn(batch, channels, side, side, device=device).to(**layout)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(**layout)
    return lambda: F.conv2d(x, weight, padding=1)
