"""The U-Net inside the denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gym_dream.models.layers import Downsample, ResBlocks, Upsample


class UNet(nn.Module):
    """Residual encoder and decoder levels with a middle of two attention blocks.

    A decoder level has one block more than its encoder level: each concatenates one encoder output, last first, and
    the level's own input (after downsampling) is the last of them.
    """

    def __init__(
        self, cond_channels: int, depths: Sequence[int], channels: Sequence[int], attention: Sequence[bool]
    ) -> None:
        super().__init__()
        down, up = [], []
        for level, (depth, width, attend) in enumerate(zip(depths, channels, attention, strict=True)):
            above = channels[max(0, level - 1)]
            down.append(ResBlocks([above] + [width] * (depth - 1), [width] * depth, cond_channels, attend))
            up.append(
                ResBlocks([2 * width] * depth + [width + above], [width] * depth + [above], cond_channels, attend)
            )
        middle = [channels[-1]] * 2
        self.d_blocks = nn.ModuleList(down)
        self.mid_blocks = ResBlocks(middle, middle, cond_channels, attention=True)
        self.u_blocks = nn.ModuleList(reversed(up))
        # Resampling runs at the width of the level above; the first encoder and the deepest decoder level need none.
        self.downsamples = nn.ModuleList([nn.Identity(), *(Downsample(c) for c in channels[:-1])])
        self.upsamples = nn.ModuleList([nn.Identity(), *(Upsample(c) for c in reversed(channels[:-1]))])

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, channels[0], H, W) -> the same shape; odd sizes are padded right and bottom with zeros."""
        height, width = x.shape[-2:]
        multiple = 2 ** (len(self.d_blocks) - 1)
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
        skips = []
        for block, down in zip(self.d_blocks, self.downsamples, strict=True):
            x_down = down(x)
            x, outputs = block(x_down, cond)
            skips.append([x_down, *outputs])
        x, _ = self.mid_blocks(x, cond)
        for block, up, level_skips in zip(self.u_blocks, self.upsamples, reversed(skips), strict=True):
            x, _ = block(up(x), cond, level_skips[::-1])
        return x[..., :height, :width]
