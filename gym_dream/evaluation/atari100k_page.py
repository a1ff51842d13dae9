"""The Atari 100k report as a page of plots; needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gym_dream.evaluation.aggregates import FIGURES, Interval, intervals, profile
from gym_dream.evaluation.atari100k import PUBLISHED_SEEDS, Report

OWN, DIAMOND = "C0", "C1"
OTHERS = {
    "SimPLe": ("C4", "x"),
    "TWM": ("C2", "^"),
    "IRIS": ("C3", "v"),
    "DreamerV3": ("C5", "s"),
    "STORM": ("C6", "o"),
}
PROFILE_RESAMPLES = 2000  # for a band in a picture

_TITLES = ("mean", "median", "IQM", "optimality gap (less is better)", "superhuman games")


def draw(report: Report, path: Path) -> None:
    """Draw aggregates with intervals, the performance profile, and the games, as a PNG file."""
    figure = Figure(figsize=(14, 11), layout="constrained")
    FigureCanvasAgg(figure)
    games = f"only {len(report.games)} of the games" if report.missing else "all games; IQM of the others as printed"
    figure.suptitle(f"Atari 100k, human-normalised, {games}: {_plain(report.name)}")
    rows = figure.add_gridspec(2, 1, height_ratios=(1, 2))
    top, bottom = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
    panels = top.subplots(1, len(FIGURES), sharey=True)
    for axes, name, title in zip(panels, FIGURES, _TITLES, strict=True):
        _draw_aggregate(axes, _rows(report, name))
        axes.set_title(title, fontsize="medium")
    curves, bars = bottom.subplots(1, 2)
    _draw_profiles(curves, report)
    _draw_games(bars, report)
    figure.savefig(path, format="png", dpi=90, metadata={"Software": None})


def _rows(report: Report, name: str) -> list[tuple[str, Interval | None]]:
    """One figure of all, own first; None where it is not known. As printed, where it can be had in no other way.

    Pairs, since agents may be called as published ones are.
    """
    rows: list[tuple[str, Interval | None]] = [(report.name, report.aggregates[name])]
    if not report.is_diamond:
        rows.append((PUBLISHED_SEEDS, report.diamond[name]))
    for algorithm, figures in report.others.items():
        if algorithm not in OTHERS:  # DIAMOND: its seeds are shown
            continue
        value = figures.get(name, None if report.missing else report.published.printed[algorithm].get(name))
        rows.append((algorithm, None if value is None else Interval(value, None, None)))
    return rows


def _draw_aggregate(axes: Axes, rows: Sequence[tuple[str, Interval | None]]) -> None:
    for place, (name, figure) in enumerate(rows):
        if figure is None:
            axes.text(0.02, place, "not published", transform=axes.get_yaxis_transform(), va="center", fontsize="small")
            continue
        colour = OWN if place == 0 else DIAMOND if name == PUBLISHED_SEEDS else "silver"
        axes.barh(place, figure.value, color=colour)
        _draw_spreads(axes, {place: figure})
    axes.axvline(0, color="grey", linewidth=0.5)
    axes.set_yticks(range(len(rows)), [_plain(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _draw_profiles(axes: Axes, report: Report) -> None:
    references = report.published.games
    seeds = [(report.name, {name: game.scores for name, game in report.games.items()})]
    if not report.is_diamond:
        seeds.append((PUBLISHED_SEEDS, {name: references[name].diamond_seeds for name in report.games}))
    runs = [(name, [references[game].normalise(values) for game, values in scores.items()]) for name, scores in seeds]
    thresholds = np.linspace(0, max(1.5, *(game.max() for _, games in runs for game in games)), 161)
    for (name, games), colour in zip(runs, (OWN, DIAMOND), strict=False):
        curve = intervals(games, lambda drawn: profile(drawn, thresholds), resamples=PROFILE_RESAMPLES)
        axes.step(thresholds, [point.value for point in curve], where="post", color=colour, label=_plain(name))
        lows, highs = ([getattr(p, end) for p in curve if getattr(p, end) is not None] for end in ("low", "high"))
        if lows:
            axes.fill_between(thresholds, lows, highs, step="post", color=colour, alpha=0.2, linewidth=0)
    axes.axvline(1, color="grey", linestyle=":", label="a human")
    axes.set(
        xlabel="human-normalised score",
        ylabel="share of runs that score more",
        ylim=(0, 1.01),
        xlim=(0, thresholds[-1]),
    )
    axes.set_title("performance profile", fontsize="medium")
    axes.legend()


def _draw_games(axes: Axes, report: Report) -> None:
    games = sorted(report.games, key=lambda game: report.games[game].normalised.value)
    figures = [report.games[game].normalised for game in games]
    places = np.arange(len(games))
    axes.barh(places, [f.value for f in figures], 0.7, color=OWN, alpha=0.4, label=_plain(report.name))
    _draw_spreads(axes, dict(enumerate(figures)))
    others = OTHERS if report.is_diamond else OTHERS | {"DIAMOND": (DIAMOND, "D")}
    for algorithm, (colour, marker) in others.items():
        known = [report.published.games[game] for game in games]
        values = [game.normalise([game.means[algorithm]])[0] for game in known]
        axes.plot(values, places, marker, color=colour, markersize=4, label=algorithm)
    axes.axvline(1, color="grey", linestyle=":")
    axes.set_xscale("symlog", linthresh=1)  # from below random play to many times a human
    ticks = [tick for tick in (-0.5, 0, 0.5, 1, 2, 5, 10, 20, 50) if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(places, games)
    axes.set_ylim(len(games) - max(len(games), 10) - 0.7, len(games) - 0.3)
    axes.set(xlabel="human-normalised score (linear up to 1, then logarithmic)")
    axes.set_title("games", fontsize="medium")
    axes.legend(fontsize="small", loc="lower right")


def _draw_spreads(axes: Axes, figures: Mapping[int, Interval]) -> None:
    """Error bars by place, where the interval is known."""
    for place, figure in figures.items():
        if figure.low is not None and figure.high is not None:
            arms = np.maximum(0, [[figure.value - figure.low], [figure.high - figure.value]])
            axes.errorbar([figure.value], [place], xerr=arms, color="black", linewidth=1, capsize=3)


def _plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")
