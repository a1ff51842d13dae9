"""DIAMOND's reward and termination model: what a transition pays, and whether it ends the episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gym_dream.models.layers import CHANGE_SCALE, Downsample, ResBlocks, check_levels, conv3x3


@dataclass(frozen=True)
class RewardTerminationConfig:
    """Architecture. The defaults are DIAMOND's for Atari: 5,900,864 parameters with 4 actions."""

    num_actions: int
    frame_size: tuple[int, int] = (64, 64)
    image_channels: int = 3
    cond_channels: int = 128
    depths: tuple[int, ...] = (2, 2, 2, 2)
    channels: tuple[int, ...] = (32, 32, 32, 32)
    attention: tuple[bool, ...] = (False, False, False, False)
    lstm_size: int = 512
    patch_size: int = 1
    """Side of the pixel squares folded into channels before the network."""
    change_input: bool = False
    """Show the network the change from frame to next frame (in units of CHANGE_SCALE) in place of the next frame: a
    rewarded transition differs from any other by a few pixels of a brick and of the score."""

    def __post_init__(self) -> None:
        check_levels(self.depths, self.channels, self.attention)


class LSTMState(NamedTuple):
    """Hidden and cell state, each (B, lstm_size)."""

    hidden: Tensor
    cell: Tensor


class Prediction(NamedTuple):
    """Logits for each of T transitions, and the memory after the last."""

    reward: Tensor  # (B, T, 3): sign -1, 0, +1
    termination: Tensor  # (B, T, 2): goes on, ends
    state: LSTMState


class Encoder(nn.Module):
    """Residual levels over the six channels of a pair of frames, then two middle blocks with attention."""

    def __init__(self, config: RewardTerminationConfig) -> None:
        super().__init__()
        c = config
        blocks = []
        for level, (depth, width, attend) in enumerate(zip(c.depths, c.channels, c.attention, strict=True)):
            above = c.channels[max(0, level - 1)]
            blocks.append(ResBlocks([above] + [width] * (depth - 1), [width] * depth, c.cond_channels, attend))
        middle = [c.channels[-1]] * 2
        blocks.append(ResBlocks(middle, middle, c.cond_channels, attention=True))
        self.patch_size = c.patch_size
        self.conv_in = conv3x3(2 * c.image_channels * c.patch_size**2, c.channels[0])
        self.blocks = nn.ModuleList(blocks)
        self.downsamples = nn.ModuleList([nn.Identity(), *(Downsample(w) for w in c.channels[:-1]), nn.Identity()])

    def forward(self, pair: Tensor, cond: Tensor) -> Tensor:
        """(B, 2 C, H, W), (B, cond_channels) -> (B, features)."""
        x = self.conv_in(F.pixel_unshuffle(pair, self.patch_size))
        for block, down in zip(self.blocks, self.downsamples, strict=True):
            x, _ = block(down(x), cond)
        return x.flatten(1)


class RewardTerminationModel(nn.Module):
    """R(frame, action, next frame; memory): encoder, LSTM, head."""

    def __init__(self, config: RewardTerminationConfig) -> None:
        super().__init__()
        self.config = config
        shrink = config.patch_size * 2 ** (len(config.depths) - 1)
        if any(side % shrink for side in config.frame_size):
            raise ValueError(f"Expected frames whose sides are multiples of {shrink}, got {config.frame_size}.")
        height, width = (side // shrink for side in config.frame_size)
        self.encoder = Encoder(config)
        self.act_emb = nn.Embedding(config.num_actions, config.cond_channels)
        self.lstm = nn.LSTM(config.channels[-1] * height * width, config.lstm_size, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(config.lstm_size, config.lstm_size), nn.SiLU(), nn.Linear(config.lstm_size, 5, bias=False)
        )

    def initial_state(self, batch_size: int, device: torch.device) -> LSTMState:
        """An empty memory."""
        return LSTMState(*torch.zeros(2, batch_size, self.config.lstm_size, device=device).unbind())

    def forward(
        self, frames: Tensor, actions: Tensor, next_frames: Tensor, state: LSTMState | None = None
    ) -> Prediction:
        """Predict rewards and endings of T transitions.

        Args:
            frames: float32 (B, T, C, H, W) in [-1, 1].
            actions: int64 (B, T).
            next_frames: float32 (B, T, C, H, W); where an episode ends, its true final frame.
            state: the memory before the first transition; empty when None.
        """
        b, t = actions.shape
        second = (next_frames - frames) / CHANGE_SCALE if self.config.change_input else next_frames
        pairs = torch.cat([frames, second], dim=2).flatten(0, 1)
        # A dream's burn-in has as many rows as dreams begin, now one and then another: not worth compiling for.
        encode = self.encoder if t == 1 or torch.is_grad_enabled() else self.encoder.forward
        features = encode(pairs, self.act_emb(actions.flatten())).reshape(b, t, -1)
        if state is None:
            state = self.initial_state(b, frames.device)
        hidden, cell = (s.to(features.dtype) for s in state)
        if t == 1 and not torch.is_grad_enabled():
            # A step of a dream. The LSTM for sequences would first pack all its weights, each time: on a CPU that
            # takes several times as long as the one step.
            hidden, cell = torch.lstm_cell(features[:, 0], (hidden, cell), *self.lstm.all_weights[0])
            output = hidden[:, None]
        else:
            output, (hidden, cell) = self.lstm(features, (hidden[None], cell[None]))
            hidden, cell = hidden[0], cell[0]
        logits = self.head(output).float()
        return Prediction(logits[..., :3], logits[..., 3:], LSTMState(hidden.float(), cell.float()))


class RewardTerminationLoss(NamedTuple):
    """Cross-entropies in nats; their sum is minimised."""

    reward: Tensor
    termination: Tensor


def reward_termination_loss(
    prediction: Prediction, rewards: Tensor, terminated: Tensor, mask: Tensor, count: Tensor | None = None
) -> RewardTerminationLoss:
    """Cross-entropy of reward signs and endings, each the mean over unmasked transitions.

    Args:
        prediction: logits of T transitions.
        rewards: float (B, T), raw; their sign is the target.
        terminated: bool (B, T).
        mask: bool (B, T), False for padding.
        count: a scalar, at least 1: what the sums over transitions are divided by; None: the number of those unmasked.
            With that of a whole batch, the losses of its parts add up to its own.
    """
    divisor = mask.sum().clamp(min=1) if count is None else count

    def mean(logits: Tensor, target: Tensor) -> Tensor:
        losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        return (losses * mask.flatten()).sum() / divisor

    return RewardTerminationLoss(
        mean(prediction.reward, rewards.sign().long() + 1), mean(prediction.termination, terminated.long())
    )
