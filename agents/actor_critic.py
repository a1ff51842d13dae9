"""DIAMOND's agent: a CNN that sees one frame at a time, an LSTM that remembers, heads for actions and value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gym_dream.models.layers import GroupNorm, conv1x1, conv3x3


@dataclass(frozen=True)
class ActorCriticConfig:
    """Architecture. The defaults are DIAMOND's for Atari: 3,229,637 parameters with 4 actions."""

    num_actions: int
    frame_size: tuple[int, int] = (64, 64)
    image_channels: int = 3
    channels: tuple[int, ...] = (32, 32, 64, 64)
    """Width of each residual block; the frame is halved after each."""
    lstm_size: int = 512

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("num_actions", "image_channels", "lstm_size")}
        check_sizes(self.frame_size, self.channels, **counts)


def check_sizes(frame_size: tuple[int, int], channels: Sequence[int], **counts: int) -> None:
    """See that an agent's architecture can be.

    Args:
        frame_size: height and width.
        channels: widths of what halves the frame each.
        **counts: sizes that are at least 1, by their names.

    Raises:
        ValueError: it cannot.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}.")
    if not channels or min(channels) < 1 or min(frame_size) < 2 ** len(channels):
        raise ValueError(
            f"channels: expected at least one width, each at least 1, and one halving of the {frame_size} frame a "
            f"width, got {channels}."
        )


class Memory(NamedTuple):
    """The LSTM's hidden and cell state, each float32 (B, lstm_size)."""

    hidden: Tensor
    cell: Tensor


class Judgement(NamedTuple):
    """What the agent says of a frame."""

    logits: Tensor
    """float32 (B, num_actions), of the policy."""
    value: Tensor
    """float32 (B,), the return that it expects."""
    memory: Any
    """With this frame in it; of the agent's own kind."""


class _Block(nn.Module):
    """A normalised convolution beside a skip connection."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.f = nn.Sequential(GroupNorm(in_channels), nn.SiLU(), conv3x3(in_channels, out_channels))
        self.skip_projection = conv1x1(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip_projection(x) + self.f(x)


class _Encoder(nn.Module):
    """Frames (B, C, H, W) to features (B, channels[-1] * H' * W'), with H and W halved by each block."""

    def __init__(self, config: ActorCriticConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv3x3(config.image_channels, config.channels[0])]
        for width, above in zip(config.channels, (config.channels[0], *config.channels), strict=False):
            layers += [_Block(above, width), nn.MaxPool2d(2)]
        self.encoder = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x).flatten(1)


class ActorCritic(nn.Module):
    """The network; its tensors have the names of DIAMOND's checkpoints (there under ``actor_critic.``).

    It judges a frame by itself and by what it remembers of those before. Frames are uint8 (B, H, W, C), as every
    environment here gives them, or already float32 (B, C, H, W) in [-1, 1].
    """

    recurrent = True

    def __init__(self, config: ActorCriticConfig) -> None:
        """Fresh weights from PyTorch's global generator; at the start all actions are as likely, all values zero."""
        super().__init__()
        self.config = config
        height, width = (side // 2 ** len(config.channels) for side in config.frame_size)
        self.encoder = _Encoder(config)
        self.lstm = nn.LSTMCell(config.channels[-1] * height * width, config.lstm_size)
        self.critic_linear = nn.Linear(config.lstm_size, 1)
        self.actor_linear = nn.Linear(config.lstm_size, config.num_actions)
        for head in (self.critic_linear, self.actor_linear):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        nn.init.xavier_uniform_(self.lstm.weight_ih)
        nn.init.orthogonal_(self.lstm.weight_hh)
        nn.init.zeros_(self.lstm.bias_ih)
        nn.init.zeros_(self.lstm.bias_hh)
        with torch.no_grad():
            self.lstm.bias_ih.chunk(4)[1].fill_(1.0)  # of the forget gate: remember, unless it pays not to

    def empty_memory(self, batch_size: int) -> Memory:
        """Nothing remembered yet."""
        return Memory(*self.actor_linear.weight.new_zeros(2, batch_size, self.config.lstm_size).unbind())

    def forward(self, frames: Tensor, memory: Memory) -> Judgement:
        """Look at one frame a row.

        Args:
            frames: uint8 (B, H, W, C), or float32 (B, C, H, W) in [-1, 1].
            memory: of what came before.
        """
        memory = Memory(*self.lstm(self._features(frames), memory))
        return Judgement(self.actor_linear(memory.hidden), self.critic_linear(memory.hidden)[:, 0], memory)

    def burn_in(self, frames: Tensor, real: Tensor) -> Memory:
        """Begin a memory and catch up on what came before; gradients run through.

        Padding is not looked at, so a memory is what it would be had the agent played since the first real frame.
        (DIAMOND shows its agent grey frames there, but in the real game starts it from an empty memory.)

        Args:
            frames: uint8 (B, T, H, W, C), oldest first; T may be 0.
            real: bool (B, T), False for padding.
        """
        batch, length = real.shape
        memory = self.empty_memory(batch)
        if length == 0:
            return memory
        features = self._features(frames.flatten(0, 1)).unflatten(0, (batch, length))
        for step in range(length):
            after = self.lstm(features[:, step], memory)
            seen = real[:, step, None]
            memory = Memory(*(torch.where(seen, new, old) for new, old in zip(after, memory, strict=True)))
        return memory

    def _features(self, frames: Tensor) -> Tensor:
        if frames.dtype == torch.uint8:
            frames = frames.movedim(-1, 1).float() / 127.5 - 1
        return self.encoder(frames)
