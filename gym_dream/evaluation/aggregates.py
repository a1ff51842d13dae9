"""Scores over many games and few runs as a handful of figures, with stratified bootstrap intervals.

After Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021), and equal
to their library rliable where every game has as many runs. Here games may have different numbers of runs: every game
weighs the same in every figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gym_dream.evaluation.statistics import CONFIDENCE, RESAMPLES

FIGURES = ("mean", "median", "iqm", "optimality_gap", "superhuman_games")
"""What `aggregate` gives, in this order."""

_CHUNK = 1000  # resamples at a time, for the memory


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% bootstrap interval."""

    value: float
    low: float | None
    high: float | None
    """None where there is but one run of everything: nothing to resample, so nothing is known about the spread."""

    def __format__(self, spec: str) -> str:
        """E.g. ``"1.459 [1.357, 1.567]"``; a dash for an unknown interval."""
        if self.low is None or self.high is None:
            return f"{self.value:{spec}} [-]"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def aggregate(runs: Sequence[np.ndarray]) -> np.ndarray:
    """The figures of `FIGURES`.

    - mean and median of the games' mean scores;
    - IQM: see `interquartile_mean`;
    - optimality gap: how far the runs fall short of 1 on average, where more than 1 counts as 1;
    - superhuman games: those whose mean score is at least 1.

    Args:
        runs: for each game the human-normalised scores of its runs, float (..., n) with n of its own.

    Returns:
        float (..., 5).
    """
    means = np.stack([game.mean(axis=-1) for game in runs], axis=-1)
    capped = np.stack([np.minimum(game, 1).mean(axis=-1) for game in runs], axis=-1)
    figures = (
        means.mean(axis=-1),
        np.median(means, axis=-1),
        interquartile_mean(runs),
        1 - capped.mean(axis=-1),
        (means >= 1).sum(axis=-1),
    )
    return np.stack(figures, axis=-1)


def interquartile_mean(runs: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of all runs of all games without the lowest and the highest quarter.

    Of N runs ``N // 4`` are left out on either side. Where games have different numbers of runs, a run weighs one over
    that number, and the same share of the weight is left out.

    Args:
        runs: as for `aggregate`.

    Returns:
        float (...).
    """
    pooled = np.concatenate(runs, axis=-1)
    total = pooled.shape[-1]
    weights = np.concatenate([np.full(game.shape[-1], 1 / (len(runs) * game.shape[-1])) for game in runs])
    order = pooled.argsort(axis=-1)
    weights = weights[order]
    until = weights.cumsum(axis=-1)
    left_out = total // 4 / total
    kept = np.clip(np.minimum(until, 1 - left_out) - np.maximum(until - weights, left_out), 0, None)
    return (np.take_along_axis(pooled, order, axis=-1) * kept).sum(axis=-1) / kept.sum(axis=-1)


def profile(runs: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """The performance profile: the share of runs that score more than each threshold.

    Args:
        runs: as for `aggregate`.
        thresholds: (T,).

    Returns:
        float (..., T).
    """
    shares = [(game[..., None, :] > thresholds[:, None]).mean(axis=-1) for game in runs]
    return np.mean(shares, axis=0)


def intervals(
    runs: Sequence[np.ndarray],
    figures: Callable[[Sequence[np.ndarray]], np.ndarray] = aggregate,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Interval]:
    """Figures with percentile intervals of the stratified bootstrap: runs are drawn anew within each game.

    The intervals tell how the figures would vary with other runs of the same games, not with other games.

    Args:
        runs: for each game the scores of its runs, float (n,).
        figures: from runs (..., n) to figures (..., k).
        seed: of the draws; the same seed gives the same intervals.
        resamples: how many.
    """
    values = figures(runs)
    if all(len(game) == 1 for game in runs):
        return [Interval(float(value), None, None) for value in values]
    drawn = np.concatenate([figures(resampled) for resampled in _resample(runs, seed, resamples)])
    lows, highs = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return [Interval(*map(float, figure)) for figure in zip(values, lows, highs, strict=True)]


def _resample(runs: Sequence[np.ndarray], seed: int, resamples: int) -> Iterator[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(math.ceil(resamples / _CHUNK)):
        count = min(_CHUNK, resamples)
        resamples -= count
        yield [game[rng.integers(0, len(game), (count, len(game)))] for game in runs]
