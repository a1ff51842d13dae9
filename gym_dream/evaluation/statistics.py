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
    """A mean with its 95% bootstrap interval, NaN where nothing was measured, or (the interval) but one sample."""

    mean: float
    low: float
    high: float
    count: int
    """Independent samples behind it (episodes)."""

    def __str__(self) -> str:
        """E.g. ``"1.25 [0.90, 1.60]"``; dashes for what is not known."""
        if math.isnan(self.mean):
            return "-"
        interval = "-" if math.isnan(self.low) else f"{self.low:.2f}, {self.high:.2f}"
        return f"{self.mean:.2f} [{interval}]"


def estimate(values: Sequence[float] | np.ndarray, weights: Sequence[float] | np.ndarray | None = None) -> Estimate:
    """The mean of independent samples and its percentile bootstrap interval, always from the same random resamples.

    Args:
        values: (n,), one an episode. Samples that are NaN or weigh nothing are left out.
        weights: (n,), how much each counts (frames of an episode that a share was taken of); all alike by default.
    """
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    counted = ~np.isnan(x) & (w > 0)
    x, w = x[counted], w[counted]
    if len(x) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    if len(x) == 1:
        return Estimate(float(x[0]), math.nan, math.nan, 1)
    draws = np.random.default_rng(0).integers(0, len(x), (RESAMPLES, len(x)))
    means = (x * w)[draws].sum(axis=1) / w[draws].sum(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(np.average(x, weights=w)), float(low), float(high), len(x))


@dataclass(frozen=True)
class Agreement:
    """How two worlds agree on the mean returns of several policies; NaN where too few policies differ to tell."""

    policies: int
    spearman: float
    """Rank correlation: does the dream order the policies as reality does?"""
    pearson: float
    slope: float
    """Calibration: real return a unit of dreamt return, by least squares; 1 where a dream promises what it keeps."""
    gap: float
    """Mean of |dream - real|, in units of `unit`."""
    unit: float
    """The best real return minus random play's (or the worst, where random play is not among the policies)."""


def agreement(dream: Sequence[float], real: Sequence[float], unit: float) -> Agreement:
    """Compare mean returns, (n,) each.

    Args:
        dream: of each policy in the dream.
        real: of the same policies in the real game.
        unit: of the gap.
    """
    from scipy.stats import pearsonr, spearmanr  # an optional dependency

    x, y = np.asarray(dream, np.float64), np.asarray(real, np.float64)
    gap = float(np.abs(x - y).mean() / unit) if unit > 0 else math.nan
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(len(x), math.nan, math.nan, math.nan, gap, unit)
    return Agreement(
        policies=len(x),
        spearman=float(spearmanr(x, y).statistic),
        pearson=float(pearsonr(x, y).statistic),
        slope=float(np.polyfit(x, y, 1)[0]),
        gap=gap,
        unit=unit,
    )
