"""An agent without recurrence: a CNN that sees the last few frames at a time, heads for actions and value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .actor_critic import Judgement, check_sizes


@dataclass(frozen=True)
class StackedConfig:
    """Architecture; 595,525 parameters with 4 actions."""

    num_actions: int
    frame_size: tuple[int, int] = (64, 64)
    image_channels: int = 3
    num_frames: int = 4
    """Seen at a time, the current one among them."""
    channels: tuple[int, ...] = (32, 32, 64, 64)
    """Width of each convolution; each halves the frame."""
    hidden_size: int = 512
    """Of the layer that both heads stand on."""

    def __post_init__(self) -> None:
        counts = {n: getattr(self, n) for n in ("num_actions", "image_channels", "num_frames", "hidden_size")}
        check_sizes(self.frame_size, self.channels, **counts)


class Seen(NamedTuple):
    """What such an agent remembers."""

    frames: Tensor
    """uint8 (B, num_frames - 1, H, W, C), oldest first; black where an episode had none yet."""


class StackedActorCritic(nn.Module):
    """The network: convolutions of 3x3 pixels on stacked frames, a layer, two heads, as PPO is commonly given.

    It is trained and played as `gym_dream.agents.ActorCritic` is, takes about an eighth of that one's arithmetic, and
    in a game whose state the last frames show it need not learn what to remember.
    """

    recurrent = False

    def __init__(self, config: StackedConfig) -> None:
        """Fresh weights from PyTorch's global generator; at the start all actions are as likely, all values zero."""
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        (height, width), width_in = config.frame_size, config.image_channels * config.num_frames
        for width_out in config.channels:
            layers += [_orthogonal(nn.Conv2d(width_in, width_out, 3, stride=2, padding=1)), nn.ReLU()]
            height, width, width_in = (height + 1) // 2, (width + 1) // 2, width_out
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.hidden = _orthogonal(nn.Linear(width_in * height * width, config.hidden_size))
        self.critic_linear = nn.Linear(config.hidden_size, 1)
        self.actor_linear = nn.Linear(config.hidden_size, config.num_actions)
        for head in (self.critic_linear, self.actor_linear):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def empty_memory(self, batch_size: int) -> Seen:
        """Nothing seen yet."""
        config = self.config
        shape = (batch_size, config.num_frames - 1, *config.frame_size, config.image_channels)
        return Seen(torch.zeros(shape, dtype=torch.uint8, device=self.actor_linear.weight.device))

    def forward(self, frames: Tensor, memory: Seen) -> Judgement:
        """Look at one frame a row.

        Args:
            frames: uint8 (B, H, W, C).
            memory: of what came before.
        """
        stack = torch.cat([memory.frames, frames[:, None]], dim=1)
        # From 0, not -1: what is black, most of an Atari game, should say nothing.
        pixels = stack.permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 255
        hidden = torch.relu(self.hidden(self.encoder(pixels)))
        return Judgement(self.actor_linear(hidden), self.critic_linear(hidden)[:, 0], Seen(stack[:, 1:]))

    def burn_in(self, frames: Tensor, real: Tensor) -> Seen:
        """The memory of having seen frames.

        Args:
            frames: uint8 (B, T, H, W, C), oldest first; T may be 0.
            real: bool (B, T), False for padding, which is taken for black.
        """
        before = self.empty_memory(len(frames)).frames
        seen = torch.cat([before, frames * real[:, :, None, None, None]], dim=1)
        return Seen(seen[:, seen.shape[1] - before.shape[1] :])


def _orthogonal(module: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """PPO is known to learn faster from such weights."""
    nn.init.orthogonal_(module.weight, 2**0.5)
    assert module.bias is not None
    nn.init.zeros_(module.bias)
    return module
