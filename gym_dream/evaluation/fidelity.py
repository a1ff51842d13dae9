"""How near a dream stays to what really happened: pixels and probed objects, by the number of steps dreamt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gym_dream.evaluation.probes import NEAR, Probe


@dataclass(frozen=True)
class ObjectFigures:
    """One object, dreamt beside real; shares in [0, 1], NaN where there is nothing to take a share of."""

    real: float
    """Share of the real frames that surely show it."""
    present: float
    """Of these: the dream shows one."""
    near: float
    """Of these: the dream shows one within `NEAR` pixels of the real one."""
    false: float
    """Of the real frames that show none: the dream shows one."""


@dataclass(frozen=True)
class Figures:
    """Dream beside real over a batch of frames."""

    psnr: float
    """Peak signal-to-noise ratio, dB: the mean over frames. See `psnr`."""
    objects: dict[str, ObjectFigures]


def psnr(real: np.ndarray, dreamt: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each frame, dB: float (M,) for uint8 (M, H, W, C).

    The mean squared error counts as at least 1/12, what rounding to a grey level costs, so equal frames give 58.9.
    """
    error = (real.astype(np.float32) - dreamt.astype(np.float32)) ** 2
    return 10 * np.log10(255**2 / np.maximum(error.reshape(len(error), -1).mean(axis=1), 1 / 12))


def compare(real: np.ndarray, dreamt: np.ndarray, probes: Sequence[Probe]) -> Figures:
    """Figures of frames dreamt beside the real ones, both uint8 (M, H, W, C)."""
    return Figures(
        psnr=float(psnr(real, dreamt).mean()),
        objects={probe.name: _object_figures(probe, real, dreamt) for probe in probes},
    )


def compare_at(
    real: np.ndarray, dreamt: np.ndarray, probes: Sequence[Probe], steps: Sequence[int]
) -> dict[str, Figures]:
    """Figures after so many steps, and over all of them.

    Args:
        real: uint8 (N, K, H, W, C); index k - 1 is the frame after k steps.
        dreamt: the same shape.
        probes: what to look for.
        steps: the k to look at, in 1..K.

    Returns:
        By row label: "k" each, then "1-K".
    """
    rows = {str(k): compare(real[:, k - 1], dreamt[:, k - 1], probes) for k in steps}
    flat = (-1, *real.shape[2:])
    return rows | {f"1-{real.shape[1]}": compare(real.reshape(flat), dreamt.reshape(flat), probes)}


def table(forecasts: Mapping[str, Mapping[str, Figures]], probes: Sequence[Probe]) -> str:
    """Markdown: a row for each k and forecast.

    Args:
        forecasts: by name, what `compare_at` gave; all over the same real frames.
        probes: those that were looked for.
    """
    columns = [(probe, column) for probe in probes for column in _columns(probe)]
    lines = [["k", "forecast", "PSNR (dB)", *(column.format(probe.name) for probe, column in columns)]]
    lines.append(["---"] * len(lines[0]))
    for k in next(iter(forecasts.values())):
        for forecast, rows in forecasts.items():
            cells = [_columns(probe)[column](rows[k].objects[probe.name]) for probe, column in columns]
            shares = ["" if math.isnan(share) else f"{share:.2f}" for share in cells]
            lines.append([k, forecast, f"{rows[k].psnr:.1f}", *shares])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _columns(probe: Probe) -> dict[str, Callable[[ObjectFigures], float]]:
    near = {f"{{}} within {NEAR:g} px": lambda figures: figures.near}
    if not probe.comes_and_goes:
        return near
    return {"{} present": lambda figures: figures.present, **near, "false {}": lambda figures: figures.false}


@dataclass(frozen=True, eq=False)
class Sightings:
    """One object, dreamt beside real, frame by frame: bool (M,) each."""

    expected: np.ndarray
    """The real frame surely shows it."""
    absent: np.ndarray
    """The real frame shows none."""
    shown: np.ndarray
    """The dreamt frame shows one …"""
    near: np.ndarray
    """… within `NEAR` pixels of the real one."""


def sightings(probe: Probe, real: np.ndarray, dreamt: np.ndarray) -> Sightings:
    """Look for an object in real and dreamt frames, both uint8 (M, H, W, C)."""
    there, here = probe.locate(real), probe.locate(dreamt)
    with np.errstate(invalid="ignore"):
        near = np.hypot(*(there - here).T) <= NEAR
    return Sightings(probe.reliable(there), np.isnan(there[:, 0]), ~np.isnan(here[:, 0]), near)


def _object_figures(probe: Probe, real: np.ndarray, dreamt: np.ndarray) -> ObjectFigures:
    seen = sightings(probe, real, dreamt)
    return ObjectFigures(
        real=_share(seen.expected, np.ones_like(seen.expected)),
        present=_share(seen.shown, seen.expected),
        near=_share(seen.near, seen.expected),
        false=_share(seen.shown, seen.absent),
    )


def _share(yes: np.ndarray, among: np.ndarray) -> float:
    return float(yes[among].mean()) if among.any() else float("nan")
