"""Building blocks of the networks, with the attribute names of DIAMOND's checkpoints, which so load without a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import Tensor, nn

GROUP_SIZE = 32  # channels a normalisation group
HEAD_SIZE = 8  # channels an attention head
EPSILON = 1e-5  # of a normalisation
CHANGE_SCALE = 0.1  # the size of typical changes between frames, which lie in [-1, 1]; not DIAMOND's


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (or halves it at stride 2)."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(in_channels, out_channels, 1)


def silu_(x: Tensor) -> Tensor:
    """SiLU of a feature map that nobody else holds: written over it where no gradient will ask for it.

    A dream makes and drops hundreds of large maps a frame; on a CPU the system hands out each as fresh, zeroed pages,
    which takes longer than the arithmetic.
    """
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add_(x: Tensor, other: Tensor) -> Tensor:
    """The sum, written over ``x``, which nobody else holds, where no gradient asks for it and the type allows it."""
    if torch.is_grad_enabled() or torch.promote_types(x.dtype, other.dtype) != x.dtype:
        return x + other
    return x.add_(other)


def zero_(module: nn.Conv2d) -> nn.Conv2d:
    """Set the weight (not the bias) to zero, so that a residual branch starts near the identity."""
    nn.init.zeros_(module.weight)
    return module


def num_groups(channels: int) -> int:
    """Groups of 32 channels, at least one; of a few more channels where the width is no multiple of 32."""
    return next(groups for groups in range(max(1, channels // GROUP_SIZE), 0, -1) if channels % groups == 0)


def check_levels(depths: Sequence[int], channels: Sequence[int], attention: Sequence[bool]) -> None:
    """Raise ValueError unless each level of a network is given all three, and there is a level."""
    if not len(depths) == len(channels) == len(attention) > 0:
        raise ValueError(
            "depths, channels and attention name the levels of one network: expected as many of each, at least one, "
            f"got {len(depths)}, {len(channels)} and {len(attention)}."
        )


class GroupNorm(nn.Module):
    """Group normalisation with learnt scale and shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups(channels), channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (B, C, H, W)."""
        return self.norm(x)


class AdaptiveGroupNorm(nn.Module):
    """Group normalisation whose scale and shift are computed from a conditioning vector."""

    def __init__(self, channels: int, cond_channels: int) -> None:
        super().__init__()
        self.groups = num_groups(channels)
        self.linear: nn.Module = nn.Linear(cond_channels, 2 * channels)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Normalise ``x`` (B, C, H, W) under ``cond`` (B, cond_channels)."""
        scale, shift = self.linear(cond)[:, :, None, None].chunk(2, dim=1)
        if torch.compiler.is_compiling() and not torch.is_grad_enabled():
            return self._folded(x, scale, shift)
        x = F.group_norm(x, self.groups, eps=EPSILON)
        if torch.is_grad_enabled():
            return x * (1 + scale) + shift
        return x.mul_(1 + scale).add_(shift)  # x is our own: no need of two more maps of its size

    def _folded(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """The same as one factor and one addend for each channel, from sums: what a compiler makes fast.

        What is stacked it computes once a channel; else it would take a root for every few pixels.
        """
        by_group = len(x), self.groups, x.shape[1] // self.groups
        values = x.float()
        sums = torch.stack([values.sum(dim=(2, 3)), values.square().sum(dim=(2, 3))]).view(2, *by_group)
        mean, square = sums.sum(dim=3, keepdim=True) / (x[0].numel() // self.groups)
        deviation = (square - mean.square()).clamp(min=0).add(EPSILON).sqrt()
        factor = (1 + scale.float()).view(by_group) / deviation
        addend = shift.float().view(by_group) - mean * factor
        factor, addend = torch.stack([factor, addend]).view(2, *x.shape[:2], 1, 1)
        return (values * factor + addend).to(x.dtype)


class FourierFeatures(nn.Module):
    """Random Fourier features of a scalar: [cos 2 pi c w, sin 2 pi c w] with a fixed w ~ N(0, 1)."""

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"Fourier features come in pairs: expected an even number of channels, got {channels}.")
        self.register_buffer("weight", torch.randn(1, channels // 2))

    def forward(self, c: Tensor) -> Tensor:
        """(B,) -> (B, channels)."""
        # No matrix product: autocast would round its factors, and thereby these large angles, to a few bits.
        angle = 2 * math.pi * c[:, None] * self.weight
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class SelfAttention2d(nn.Module):
    """Multi-head self-attention over the pixels of a feature map.

    The result is added to the *normalised* input, as in the released implementation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_SIZE)
        self.norm = GroupNorm(channels)
        self.qkv_proj = conv1x1(channels, 3 * channels)
        self.out_proj = zero_(conv1x1(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        b, c, h, w = x.shape
        x = self.norm(x)
        qkv = self.qkv_proj(x).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(3, 4).unbind(dim=1)  # each (B, heads, H W, C / heads)
        y = F.scaled_dot_product_attention(q, k, v)
        return add_(x, self.out_proj(y.transpose(2, 3).reshape(b, c, h, w)))


class ResBlock(nn.Module):
    """Two adaptively normalised convolutions beside a skip connection, then attention where asked for."""

    def __init__(self, in_channels: int, out_channels: int, cond_channels: int, attention: bool) -> None:
        super().__init__()
        self.proj = conv1x1(in_channels, out_channels) if in_channels != out_channels else nn.Identity()
        self.norm1 = AdaptiveGroupNorm(in_channels, cond_channels)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = AdaptiveGroupNorm(out_channels, cond_channels)
        self.conv2 = zero_(conv3x3(out_channels, out_channels))
        self.attn = SelfAttention2d(out_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, in_channels, H, W), (B, cond_channels) -> (B, out_channels, H, W)."""
        y = self.conv1(silu_(self.norm1(x, cond)))
        y = self.conv2(silu_(self.norm2(y, cond)))
        return self.attn(add_(y, self.proj(x)))


class ResBlocks(nn.Module):
    """Residual blocks in a row; each may take one more feature map to concatenate to its input."""

    def __init__(self, in_channels: list[int], out_channels: list[int], cond_channels: int, attention: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResBlock(i, o, cond_channels, attention) for i, o in zip(in_channels, out_channels, strict=True)
        )

    def forward(self, x: Tensor, cond: Tensor, skips: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the last output and every block's output."""
        outputs = []
        for index, block in enumerate(self.resblocks):
            x = block(x if skips is None else torch.cat([x, skips[index]], dim=1), cond)
            outputs.append(x)
        return x, outputs


class Downsample(nn.Module):
    """Halve height and width with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels, stride=2)
        nn.init.orthogonal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        return self.conv(x)


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
