"""How well a world model recognises rewards and endings, judged on real frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gym_dream.data.episode import Episode
from gym_dream.data.segments import Ending, Spans
from gym_dream.models.denoiser import to_unit
from gym_dream.models.reward_termination import RewardTerminationModel


@dataclass(frozen=True, eq=False)
class Judgements:
    """What the model says of M real transitions, by argmax, and what is true.

    Attributes:
        reward: int64 (M,), the sign said.
        real_reward: int64 (M,), the true sign.
        ends: bool (M,), an ending said.
        really_ends: bool (M,).
    """

    reward: np.ndarray
    real_reward: np.ndarray
    ends: np.ndarray
    really_ends: np.ndarray


@dataclass(frozen=True)
class Detection:
    """How well one kind of event is detected; NaN where there is nothing to take a share of."""

    events: int
    """How many there really were."""
    precision: float
    """Of the events said: were real."""
    recall: float
    """Of the real events: were said."""

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if nothing was said rightly."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0


def detect(said: np.ndarray, real: np.ndarray) -> Detection:
    """Precision and recall of events, both bool (M,)."""
    hits = int((said & real).sum())

    def share(of: int) -> float:
        return hits / of if of else float("nan")

    return Detection(int(real.sum()), share(int(said.sum())), share(int(real.sum())))


@torch.inference_mode()
def judge(
    model: RewardTerminationModel, episodes: Sequence[Episode], *, ending: Ending = "life", chunk: int = 256
) -> Judgements:
    """Judge every transition of real games, each with the memory of its span from the start.

    Args:
        model: on any device, in float32.
        episodes: real games.
        ending: what ends a span, and so counts as an ending.
        chunk: transitions at a time.
    """
    device = next(model.parameters()).device
    spans = Spans(episodes, ending=ending)
    parts = []
    for span, length in enumerate(spans.length.tolist()):
        segment = spans.gather(np.array([span]), np.array([0]), length + 1)
        state = model.initial_state(1, device)
        for begin in range(0, length, chunk):
            end = min(length, begin + chunk)
            frames = torch.from_numpy(segment.frames[:, begin : end + 1]).to(device)
            frames = to_unit(frames, torch.ones(frames.shape[:2], dtype=torch.bool, device=device))
            actions = torch.from_numpy(segment.actions[:, begin:end]).to(device)
            prediction = model(frames[:, :-1], actions, frames[:, 1:], state)
            state = prediction.state
            reward, ends = (logits[0].argmax(dim=1).cpu().numpy() for logits in prediction[:2])
            real_reward = np.sign(segment.rewards[0, begin:end]).astype(np.int64)
            parts.append((reward - 1, real_reward, ends.astype(np.bool_), segment.terminated[0, begin:end]))
    return Judgements(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def detections(judgements: Judgements) -> dict[str, Detection]:
    """Of each kind of event that occurs or is said: "reward +1", "reward -1", and always "ending"."""
    rewards = {
        f"reward {sign:+d}": detect(judgements.reward == sign, judgements.real_reward == sign)
        for sign in (1, -1)
        if (judgements.reward == sign).any() or (judgements.real_reward == sign).any()
    }
    return {**rewards, "ending": detect(judgements.ends, judgements.really_ends)}
