"""How well a world model recognises rewards and endings, on real frames and on dreamt ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from gym_dream.data.episode import Episode
from gym_dream.data.segments import Ending, Spans
from gym_dream.evaluation.rollouts import Windows
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


def judge(
    model: RewardTerminationModel,
    episodes: Sequence[Episode],
    *,
    ending: Ending = "life",
    chunk: int = 256,
    progress: bool = False,
) -> Judgements:
    """Judge every transition of real games, each with the memory of its span from the start.

    Args:
        model: on any device, in float32.
        episodes: real games.
        ending: what ends a span, and so counts as an ending.
        chunk: transitions at a time.
        progress: show a progress bar.
    """
    spans = Spans(episodes, ending=ending)
    parts = []
    with tqdm(total=int(spans.length.sum()), unit="real step", disable=not progress) as bar:
        for span, length in enumerate(spans.length.tolist()):
            segment = spans.gather(np.array([span]), np.array([0]), length + 1)
            reward, ends = _judge(model, segment.frames, segment.mask, segment.actions, chunk)
            parts.append((reward[0], np.sign(segment.rewards[0]).astype(np.int64), ends[0], segment.terminated[0]))
            bar.update(length)
    return Judgements(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def judge_dreams(
    model: RewardTerminationModel, windows: Windows, dreamt: np.ndarray, *, max_batch: int = 8, chunk: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Judge the dreamt transitions as a dream does, by the likelier class: burned in on the real context, then on.

    Args:
        model: on any device, in float32.
        windows: where the dreams began, with contexts as long as the model's own dreams have.
        dreamt: uint8 (N, K, H, W, C).
        max_batch: the most dreams at a time.
        chunk: transitions at a time.

    Returns:
        Signs of the rewards said, int64 (N, K), and endings said, bool (N, K); none beyond a window's length.
    """
    contexts = windows.contexts
    parts = []
    for begin in range(0, len(windows), max_batch):
        rows = slice(begin, begin + max_batch)
        frames = np.concatenate([contexts.frames[rows], dreamt[rows]], axis=1)
        mask = np.concatenate([contexts.real[rows], np.ones(dreamt[rows].shape[:2], np.bool_)], axis=1)
        actions = np.concatenate([contexts.actions[rows], windows.actions[rows]], axis=1)
        parts.append(_judge(model, frames, mask, actions, chunk))
    reward, ends = (np.concatenate(part)[:, contexts.length - 1 :] for part in zip(*parts, strict=True))
    return np.where(windows.inside, reward, 0), ends & windows.inside


@torch.inference_mode()
def _judge(
    model: RewardTerminationModel, frames: np.ndarray, mask: np.ndarray, actions: np.ndarray, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Signs of rewards int64 (B, T) and endings bool (B, T) said of frames (B, T + 1, …) and actions (B, T)."""
    device = next(model.parameters()).device
    state = model.initial_state(len(frames), device)
    parts = []
    for begin in range(0, actions.shape[1], chunk):
        end = begin + chunk
        seen = to_unit(*(torch.from_numpy(array[:, begin : end + 1]).to(device) for array in (frames, mask)))
        prediction = model(seen[:, :-1], torch.from_numpy(actions[:, begin:end]).to(device), seen[:, 1:], state)
        state = prediction.state
        logits = [said.cpu().numpy() for said in (prediction.reward, prediction.termination)]
        if not all(np.isfinite(said).all() for said in logits):
            raise FloatingPointError(
                "The reward and termination model says NaN or infinity of a transition: its weights, or the frames "
                "it was shown, are broken. Train the model again, or measure with --precision float32."
            )
        parts.append((logits[0].argmax(axis=2) - 1, logits[1].argmax(axis=2).astype(np.bool_)))
    reward, ends = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return reward, ends


def detections(judgements: Judgements) -> dict[str, Detection]:
    """Of each kind of event that occurs or is said: "reward +1", "reward -1", and always "ending"."""
    rewards = {
        f"reward {sign:+d}": detect(judgements.reward == sign, judgements.real_reward == sign)
        for sign in (1, -1)
        if (judgements.reward == sign).any() or (judgements.real_reward == sign).any()
    }
    return {**rewards, "ending": detect(judgements.ends, judgements.really_ends)}
