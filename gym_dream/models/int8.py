"""Convolutions in 8-bit integers, for CPUs whose vector units multiply them (VNNI).

For much work at a time they are faster than bfloat16, and a little less exact. Post-training static quantisation
(Krishnamoorthi 2018, arXiv 1806.08342): weights symmetric with a scale for each output channel, inputs with one scale
and zero point, fixed by what a rehearsal showed, so that a dream does not depend on those beside it.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from gym_dream.models.unet import UNet

LEVELS = 255  # of an input: unsigned bytes
MOST = 127  # of a weight: signed bytes, as far as they are symmetric


class Int8Conv2d(nn.Module):
    """A convolution whose inputs and weights are rounded to bytes; sums and results are not.

    It stays on the CPU, and its weights are no part of a ``state_dict``: it is made from those of a model.
    """

    def __init__(self, conv: nn.Conv2d, low: float, high: float, dtype: torch.dtype) -> None:
        """Take over a convolution.

        Args:
            conv: with a bias, zero padding, one group and no dilation.
            low: the least value of the inputs; what is less counts as this.
            high: the greatest, likewise.
            dtype: the type of the results.
        """
        super().__init__()
        low, high = min(low, 0.0), max(high, 0.0)  # 0, which pads the borders, is then a level itself
        self.scale = max(high - low, 1e-6) / LEVELS
        self.zero = round(-low / self.scale)
        self.dtype = dtype
        self.stride, self.padding, self.dilation = list(conv.stride), [int(p) for p in conv.padding], [1, 1]
        weight = conv.weight.detach().float()
        self.weight_scale = weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / MOST
        self.weight_zero = torch.zeros(len(weight), dtype=torch.int64)
        self.rounded = (weight / self.weight_scale[:, None, None, None]).round().to(torch.int8)
        assert conv.bias is not None
        self.bias = conv.bias.detach().float()
        self._pack()

    def _pack(self) -> None:
        """Lay the weights out as oneDNN wants them, in a tensor that can be neither copied nor pickled."""
        window = self.stride, self.padding, self.dilation, 1
        scales = self.weight_scale, self.scale, self.zero
        self.packed = torch.ops.onednn.qconv_prepack(self.rounded, *scales, *window, None)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles."""
        return {name: value for name, value in self.__dict__.items() if name != "packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy."""
        super().__setstate__(state)
        self._pack()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H', W')."""
        levels = (x * (1 / self.scale)).add_(self.zero).round_().clamp_(0, LEVELS).to(torch.uint8)
        inputs = levels, self.scale, self.zero
        weights = self.packed, self.weight_scale, self.weight_zero, self.bias
        window = self.stride, self.padding, self.dilation, 1
        output: Any = 1.0, 0, self.dtype, "none", [], ""  # neither rounded nor followed by anything
        y: Tensor = torch.ops.onednn.qconv2d_pointwise(*inputs, *weights, *window, *output)
        return y


def convert(unet: UNet, rehearse: Callable[[], object], dtype: torch.dtype) -> None:
    """Turn a U-Net's 3x3 convolutions to 8-bit integers, in place, but for those of its last block.

    What the last block rounds goes into the frame as it is: of the Breakout model that ships, one step was 56 dB from
    float32 without it and 42 dB with it (bfloat16: 59 dB).

    Args:
        unet: on a CPU.
        rehearse: runs it, for the ranges of the inputs to be seen.
        dtype: the type of the results.

    Raises:
        FloatingPointError: a convolution was given NaN or infinity, which no byte could show.
    """
    kept = set(unet.u_blocks[-1].resblocks[-1].modules())  # type: ignore[union-attr, index]
    found = {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module not in kept
    }
    ranges = {name: (0.0, 0.0) for name in found}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = (float(extreme) for extreme in inputs[0].aminmax())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise FloatingPointError(
                    f"The denoiser's {name} is given NaN or infinity, which 8-bit integers would hide: its weights are "
                    "broken, or sampler settings are extreme. Look into it with precision='float32'."
                )
            ranges[name] = min(ranges[name][0], low), max(ranges[name][1], high)

        return hook

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in found.items()]
    rehearse()
    for hook in hooks:
        hook.remove()
    for name, module in found.items():
        parent, _, child = name.rpartition(".")
        setattr(unet.get_submodule(parent), child, Int8Conv2d(module, *ranges[name], dtype))


def available(device: torch.device) -> bool:
    """Whether 8-bit integers can be had on a device, else with a warning that says why not."""
    if (obstacle := why_not(device.type)) is None:
        return True
    warnings.warn(
        f"precision='int8': {obstacle}, so the dream runs at precision='auto'. Ask for that to be rid of this warning.",
        stacklevel=3,
    )
    return False


@functools.cache
def why_not(device_type: str) -> str | None:
    """What stops us from computing in 8-bit integers, or None; found by doing it."""
    if device_type != "cpu":
        return f"8-bit integers are for CPUs, not for {device_type!r}"
    conv = skip_init(nn.Conv2d, 64, 1, 3, padding=1)  # without drawing from the user's random numbers
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    try:
        if not torch.cpu._is_vnni_supported():
            return "this CPU has no AVX-512 VNNI instructions"
        with torch.no_grad():
            found = Int8Conv2d(conv, 0.0, 1.0, torch.float32)(torch.ones(1, 64, 3, 3))[0, 0, 1, 1]
    except (AttributeError, RuntimeError) as error:  # PyTorch's own; it keeps these functions for its compiler
        return f"this PyTorch cannot ({str(error).splitlines()[0]})"
    # Pairs of products overflow 16 bits where there is nothing wider.
    return None if abs(float(found) - 64 * 9) < 1 else "this CPU's 8-bit convolutions are wrong"
