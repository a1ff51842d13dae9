"""How a dream drifts from what really happened: figures against the number of steps dreamt, with intervals.

Every figure is kept step by step and window by window (`Series`), so that it can be looked at after k steps or over
some stretch of them. Windows of one game are not independent: they are joined before the bootstrap, whose samples are
games.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gym_dream.evaluation.events import Judgements
from gym_dream.evaluation.fidelity import psnr, sightings
from gym_dream.evaluation.probes import NEAR, Details, Number, Pieces, Probe
from gym_dream.evaluation.rollouts import Windows
from gym_dream.evaluation.statistics import CONFIDENCE, Estimate, estimate

HALF_LIFE_PSNR = 25.0
"""A forecast lives until its mean PSNR falls under this, dB."""
SSIM_WINDOW = 7  # scikit-image's own; frames must not be smaller
HALF_LIFE_RESAMPLES = 2_000


@dataclass(frozen=True, eq=False)
class Forecast:
    """What was foretold of N windows of K steps. Beyond a window's length nothing counts.

    Attributes:
        frames: uint8 (N, K, H, W, C).
        rewards: int64 (N, K), signs.
        ends: bool (N, K).
    """

    frames: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True, eq=False)
class Series:
    """One figure of a forecast, by window and step.

    Attributes:
        unit: what it is measured in, for tables and plots: "dB", "share", …
        values: float (N, K).
        weights: float (N, K), how much each counts; 0 where there is nothing to measure.
        pooled: whether it tells of rare events, so that steps are put together: at k stand those since the k before.
        of_itself: whether it needs no real frame beside it, so that the real game itself has such a figure.
    """

    unit: str
    values: np.ndarray
    weights: np.ndarray
    pooled: bool = False
    of_itself: bool = False


def series(windows: Windows, forecast: Forecast, details: Details) -> dict[str, Series]:
    """All figures of a forecast.

    Frames are looked at window by window: in floating point, long windows together would not fit into memory.

    Args:
        windows: what really happened.
        forecast: of these windows.
        details: what to look for in the frames.

    Returns:
        By the figure's name.
    """
    inside = windows.inside
    figures = {
        "PSNR": _counted("dB", _by_frame(psnr, windows.frames, forecast.frames), inside),
        "SSIM": _counted("", _ssim(windows.frames, forecast.frames, inside), inside),
    }
    for probe in details.objects:
        figures |= _object_series(probe, windows, forecast)
    for pieces in details.pieces:
        figures |= _pieces_series(pieces, windows, forecast)
    for number in details.numbers:
        figures |= _number_series(number, windows, forecast)
    for sign in (1, -1):
        if (windows.rewards == sign).any() or sign == 1:
            said, real = forecast.rewards == sign, windows.rewards == sign
            figures |= event_series(f"reward {sign:+d}", said, real, inside, tolerant=True)
    return figures | event_series("ending", forecast.ends, windows.terminated, inside)


def event_series(
    name: str, said: np.ndarray, real: np.ndarray, inside: np.ndarray, *, tolerant: bool = False
) -> dict[str, Series]:
    """Precision, recall and F1 of events, as means whose samples are the events.

    Args:
        name: of the event.
        said: bool (N, K).
        real: bool (N, K).
        inside: bool (N, K), the steps that count.
        tolerant: also an F1 for which an event counts as found if there is one of the other kind within a step of it.
    """
    said, real = said & inside, real & inside
    hits = said & real

    def share(yes: np.ndarray, weights: np.ndarray) -> Series:
        return Series("share", yes.astype(np.float64), weights.astype(np.float64), pooled=True)

    figures = {
        f"{name}: precision": share(hits, said),
        f"{name}: recall": share(hits, real),
        f"{name}: F1": share(hits, said.astype(int) + real),
    }
    if tolerant:
        events = said.astype(np.float64) + real
        found = (said & _around(real)).astype(np.float64) + (real & _around(said))
        figures[f"{name}: F1 within a step"] = share(found / np.maximum(events, 1), events)
    return figures


def at_steps(figure: Series, episode: np.ndarray, steps: Sequence[int]) -> dict[str, Estimate]:
    """A figure at each k (pooled: over the steps since the k before) and over all steps, with intervals over games.

    Args:
        figure: of N windows of K steps.
        episode: int (N,), the game of each window.
        steps: ascending, in 1..K.

    Returns:
        By row: "k" each, then "1-K".
    """
    first = [0, *steps[:-1]] if figure.pooled else [k - 1 for k in steps]
    rows = {str(k): _over(figure, episode, slice(begin, k)) for begin, k in zip(first, steps, strict=True)}
    return rows | {f"1-{steps[-1]}": _over(figure, episode, slice(0, steps[-1]))}


def on_real_frames(judged: Sequence[Judgements]) -> dict[str, dict[str, Estimate]]:
    """Precision, recall and F1 of rewards and endings judged on real frames, with intervals over games.

    Args:
        judged: one for each game.

    Returns:
        By event, then by figure.
    """
    longest = max(len(game.reward) for game in judged)

    def padded(name: str) -> np.ndarray:
        rows = [getattr(game, name) for game in judged]
        return np.stack([np.pad(row, (0, longest - len(row))) for row in rows])

    inside = np.stack([np.arange(longest) < len(game.reward) for game in judged])
    figures: dict[str, Series] = {}
    for sign in (1, -1):
        said, real = (padded(name) == sign for name in ("reward", "real_reward"))
        if (said | real).any():
            figures |= event_series(f"reward {sign:+d}", said, real, inside, tolerant=True)
    figures |= event_series("ending", padded("ends"), padded("really_ends"), inside)
    games = np.arange(len(judged))
    found: dict[str, dict[str, Estimate]] = {}
    for name, figure in figures.items():
        event, _, kind = name.partition(": ")
        found.setdefault(event, {})[kind] = _over(figure, games, slice(0, longest))
    return found


def curve(figure: Series) -> list[float]:
    """The mean at every step, weighted as the figure says; NaN where nothing is measured."""
    weights = figure.weights.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: list[float] = (_weighted(figure).sum(axis=0) / weights).tolist()
    return means


@dataclass(frozen=True)
class HalfLife:
    """Steps until the mean PSNR first falls under `HALF_LIFE_PSNR`; None: not within the steps dreamt."""

    steps: int | None
    low: int | None
    high: int | None
    within: int
    """How many steps were dreamt, K."""

    def __str__(self) -> str:
        """E.g. ``"12 [9, 20]"`` or ``"not within 100 [80, not within 100]"``."""
        steps, low, high = (
            f"not within {self.within}" if k is None else str(k) for k in (self.steps, self.low, self.high)
        )
        return f"{steps} [{low}, {high}]"


def half_life(figure: Series, episode: np.ndarray) -> HalfLife:
    """The half-life of a forecast with its 95% bootstrap interval over games.

    Args:
        figure: its PSNR, (N, K).
        episode: int (N,), the game of each window.
    """
    games = np.unique(episode, return_inverse=True)[1]
    values, weights = (
        np.stack([np.bincount(games, column) for column in array.T], axis=1)
        for array in (_weighted(figure), figure.weights)
    )  # (games, K)
    count, within = weights.shape
    draws = np.random.default_rng(0).integers(0, count, (HALF_LIFE_RESAMPLES, count))
    times = np.stack([(draws == game).sum(axis=1) for game in range(count)], axis=1)  # each game's part in a resample

    def first_under(multiples: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            under = (multiples @ values) / (multiples @ weights) < HALF_LIFE_PSNR
        return np.where(under.any(axis=1), under.argmax(axis=1) + 1, within + 1)

    edges = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(first_under(times), edges, method="nearest")
    lives = (first_under(np.ones((1, count)))[0], low, high)
    steps, low, high = (int(k) if k <= within else None for k in lives)
    return HalfLife(steps, low, high, within)


def _over(figure: Series, episode: np.ndarray, columns: slice) -> Estimate:
    weights = np.bincount(episode, figure.weights[:, columns].sum(axis=1))
    sums = np.bincount(episode, _weighted(figure)[:, columns].sum(axis=1))
    return estimate(np.where(weights > 0, sums / np.where(weights > 0, weights, 1), math.nan), weights)


def _weighted(figure: Series) -> np.ndarray:
    return np.where(figure.weights > 0, figure.values, 0) * figure.weights


def _counted(
    unit: str, values: np.ndarray, counts: np.ndarray, *, pooled: bool = False, of_itself: bool = False
) -> Series:
    return Series(unit, values.astype(np.float64), counts.astype(np.float64), pooled, of_itself)


def _by_frame(function: Callable[..., np.ndarray], *frames: np.ndarray) -> np.ndarray:
    """What a function of frames (K, …) says of the frames (N, K, …) of each window: (N, K, …)."""
    return np.stack([function(*window) for window in zip(*frames, strict=True)])


def _ssim(real: np.ndarray, dreamt: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Structural similarity, float (N, K); 0 beyond a window's length."""
    from skimage.metrics import structural_similarity

    values = np.zeros(inside.shape)
    for place in zip(*np.nonzero(inside), strict=True):
        pair = real[place], dreamt[place]
        values[place] = structural_similarity(*pair, win_size=SSIM_WINDOW, channel_axis=2, data_range=255)
    return values


def _object_series(probe: Probe, windows: Windows, forecast: Forecast) -> dict[str, Series]:
    seen = [sightings(probe, *window) for window in zip(windows.frames, forecast.frames, strict=True)]
    expected = np.stack([window.expected for window in seen]) & windows.inside
    near, shown = np.stack([window.near for window in seen]), np.stack([window.shown for window in seen])
    figures = {f"{probe.name} within {NEAR:g} px": _counted("share", near, expected)}
    if probe.comes_and_goes:
        figures = {f"{probe.name} present": _counted("share", shown, expected)} | figures
    return figures


def _pieces_series(pieces: Pieces, windows: Windows, forecast: Forecast) -> dict[str, Series]:
    inside, name = windows.inside, pieces.name
    there, here = (_by_frame(pieces.look, frames) for frames in (windows.frames, forecast.frames))
    before = np.concatenate([pieces.look(windows.contexts.frames[:, -1])[:, None], here[:, :-1]], axis=1)
    gone, back = (before & ~here).any(axis=2) & inside, (~before & here).sum(axis=2)
    paid = (forecast.rewards > 0) & inside
    return {
        f"{name} unlike the real ones": _counted(f"of {here.shape[2]}", (there != here).sum(axis=2), inside),
        f"{name} that come back": _counted("per 1,000 frames", 1000 * back, inside, pooled=True, of_itself=True),
        f"{name}: rewards that take one": _matched(paid, gone, inside),
        f"{name}: losses that pay": _matched(gone, paid, inside),
    }


def _number_series(number: Number, windows: Windows, forecast: Forecast) -> dict[str, Series]:
    inside, name = windows.inside, number.name
    there, here = (_by_frame(number.read, frames) for frames in (windows.frames, forecast.frames))
    last = number.read(windows.contexts.frames[:, -1])
    pay = _around((forecast.rewards != 0) & inside)
    unpaid = np.zeros_like(inside)
    # Rewarded since the number was last read? At first it may have been, by a reward of the context.
    paid = np.ones(len(inside), np.bool_)
    for step in range(inside.shape[1]):  # an unreadable number may be the old or the new one: wait until it can be read
        known = (here[:, step] >= 0) & inside[:, step]
        paid |= pay[:, step]
        unpaid[:, step] = known & (last >= 0) & (here[:, step] != last) & ~paid
        last = np.where(known, here[:, step], last)
        paid &= ~known
    later = inside.copy()
    later[:, 0] = False  # where no change counts
    return {
        f"{name} readable": _counted("share", here >= 0, inside, of_itself=True),
        f"{name} as in the game": _counted("share", here == there, inside & (there >= 0)),
        f"{name}: changes without a reward": _counted(
            "per 1,000 frames", 1000 * unpaid, later, pooled=True, of_itself=True
        ),
    }


def _matched(events: np.ndarray, others: np.ndarray, inside: np.ndarray) -> Series:
    """Of the events, those with one of the others within a step; uncounted where that step lies outside the window."""
    found = events & _around(others)
    edge = np.zeros_like(inside)
    edge[:, 0] = True
    edge[:, :-1] |= ~inside[:, 1:]
    edge[:, -1] = True
    return _counted("share", found, events & (found | ~edge), pooled=True, of_itself=True)


def _around(events: np.ndarray) -> np.ndarray:
    """The steps within one step of an event, bool (N, K)."""
    near = events.copy()
    near[:, 1:] |= events[:, :-1]
    near[:, :-1] |= events[:, 1:]
    return near
