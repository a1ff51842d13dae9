"""Means with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% bootstrap interval; all NaN where nothing was measured."""

    mean: float
    low: float
    high: float
    count: int
    """Independent samples behind it (episodes)."""

    def __str__(self) -> str:
        """E.g. ``"1.25 [0.90, 1.60]"``; a dash where nothing was measured."""
        return "-" if math.isnan(self.mean) else f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(values: Sequence[float] | np.ndarray, weights: Sequence[float] | np.ndarray | None = None) -> Estimate:
    """The mean of independent samples and its percentile bootstrap interval, always from the same random resamples.

    Args:
        values: (n,), one an episode. Samples that are NaN or weigh nothing are left out.
        weights: (n,), how much each counts (frames of an episode that a share was taken of); all alike by default.
    """
    values = np.asarray(values, np.float64)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, np.float64)
    counted = ~np.isnan(values) & (weights > 0)
    values, weights = values[counted], weights[counted]
    if len(values) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    means = (values * weights)[draws].sum(axis=1) / weights[draws].sum(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(np.average(values, weights=weights)), float(low), float(high), len(values))
