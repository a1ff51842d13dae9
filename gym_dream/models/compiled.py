"""Compiling networks, where this machine can."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import nn


def compile_networks(*networks: nn.Module, device: torch.device) -> bool:
    """Compile networks in place; they compile at their first call, for about a minute each.

    Where PyTorch cannot compile, they stay as they are, with a warning that says why and what to do.

    Args:
        networks: what to compile.
        device: where they run.

    Returns:
        Whether they are compiled.
    """
    if (obstacle := why_not(device.type)) is not None:
        warnings.warn(
            f"compile=True: PyTorch cannot compile for {device.type!r} here, so the networks run uncompiled, which is "
            f"slower and otherwise the same. PyTorch says: {obstacle!r}. On a CPU it needs a C++ compiler (Debian, "
            "Ubuntu: apt install g++; macOS: xcode-select --install; Windows: the Visual Studio build tools), which "
            "the environment variable CXX may name; on a GPU Triton, too. Or leave compile=False.",
            stacklevel=3,
        )
        return False
    for network in networks:
        network.compile()
    return True


@functools.cache
def why_not(device_type: str) -> str | None:
    """What stops PyTorch from compiling, or None: found by compiling an addition, which takes seconds once."""
    x = torch.zeros(8, device=device_type)
    try:
        with warnings.catch_warnings():  # PyTorch's compiler, when imported, warns of PyTorch itself
            warnings.simplefilter("ignore")
            torch.compile(lambda x: x + 1)(x)
    except Exception as error:  # a compiler, headers, Triton, an unknown Python: whatever is missing, dreams go on
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None
