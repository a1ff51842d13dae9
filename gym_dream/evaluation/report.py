"""A comparison as a table, a JSON file and a page of plots."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gym_dream.evaluation.returns import Comparison, PolicyFigures, Settings, WorldFigures
from gym_dream.evaluation.statistics import Agreement
from gym_dream.evaluation.tables import error_bars, json_figures, markdown
from gym_dream.files import atomic_write, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_report(comparison: Comparison, out: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.png`` into a folder; the JSON is the same for the same figures.

    Raises:
        ImportError: matplotlib is not installed; the other two files are there then.
    """
    write_json(out / "report.json", json_figures(asdict(comparison)))
    with atomic_write(out / "report.md") as temporary:
        temporary.write_text(text(comparison), encoding="utf-8")
    if comparison.policies:
        with atomic_write(out / "report.png") as temporary:
            _draw(comparison, temporary)


def text(comparison: Comparison) -> str:
    """Markdown: a row for each policy, then how dream and real agree."""
    settings = comparison.settings
    policies = [
        ["policy", "return, dream", "return, real", "steps", "steps, real", "a step", "a step, real", "score, real"],
        *(
            [p.name, str(p.dream.returns), str(p.real.returns), *_pace(p.dream, p.real), _points(p.real)]
            for p in sorted(comparison.policies, key=lambda p: p.real.returns.mean)
        ),
    ]
    agreements = [
        ["over", "policies", "Spearman", "Pearson", "slope", "gap"],
        *([f"all, horizon {h}", *_agreement(a)] for h, a in comparison.overall.items()),
        *([name, *_agreement(a)] for name, a in comparison.families.items()),
    ]
    parts = [
        f"{_dream(settings)}: {settings.episodes} episodes of each policy in the dream, {settings.real_episodes} in "
        f"the game, of at most {settings.horizon} steps; seed {settings.seed}. Returns are sums of reward signs, with "
        "95% bootstrap intervals over episodes. Steps are an episode's length; beside them the return a step. The "
        "score is the game's own.",
        markdown(policies),
        "Agreement of dream and real returns over policies. Slope: real return a unit of dreamt return. Gap: mean of\n"
        "|dream - real|, in units of the best real return minus random play's.",
        markdown(agreements),
        *(f"Not played: {name}: {why}" for name, why in comparison.failed.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _pace(*worlds: WorldFigures) -> list[str]:
    """Lengths of episodes and rewards a step."""
    return [*(f"{w.length.mean:.0f}" for w in worlds), *(f"{w.reward_rate:.3f}" for w in worlds)]


def _dream(settings: Settings) -> str:
    """Which dream was played, with what differs from its defaults."""
    others = {"model": settings.model, "begun from": settings.starts, **(settings.model_kwargs or {})}
    return ", ".join([settings.env, *(f"{name} {value}" for name, value in others.items() if value is not None)])


def _points(world: WorldFigures) -> str:
    return "-" if world.points is None else str(world.points)


def _agreement(a: Agreement) -> list[str]:
    figures = ("-" if math.isnan(x) else f"{x:.2f}" for x in (a.spearman, a.pearson, a.slope, a.gap))
    return [str(a.policies), *figures]


def _draw(comparison: Comparison, path: Path) -> None:
    """Three plots on one page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    policies = sorted(comparison.policies, key=lambda p: p.real.returns.mean)
    families = dict.fromkeys(p.family for p in policies)
    colours = {name: f"C{index % 10}" for index, name in enumerate(families)}
    figure = Figure(figsize=(13, 9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2)
    _draw_scatter(figure.add_subplot(grid[0, 0]), policies, colours)
    _draw_horizons(figure.add_subplot(grid[0, 1]), _spread(policies, 5))
    _draw_bars(figure.add_subplot(grid[1, :]), policies, colours)
    overall, settings = comparison.overall[comparison.settings.horizon], comparison.settings
    figure.suptitle(
        f"{_dream(settings)}, horizon {settings.horizon}: {overall.policies} policies, "
        f"Spearman {overall.spearman:.2f}, Pearson {overall.pearson:.2f}"
    )
    figure.savefig(path, format="png", dpi=90, metadata={"Software": None})


def _draw_scatter(axes: Axes, policies: list[PolicyFigures], colours: dict[str, str]) -> None:
    for name, colour in colours.items():
        dream, real = zip(*((p.dream.returns, p.real.returns) for p in policies if p.family == name), strict=True)
        x, y = ([e.mean for e in world] for world in (dream, real))
        axes.errorbar(x, y, xerr=error_bars(dream), yerr=error_bars(real), fmt="o", color=colour, label=name)
    means = [e.mean for p in policies for e in (p.dream.returns, p.real.returns)]
    ends = [min(0.0, *means), max(0.0, *means)]
    axes.plot(ends, ends, color="grey", linestyle=":", label="dream = real")
    axes.set(xlabel="return in the dream", ylabel="return in the real game")
    axes.legend(fontsize="small")


def _draw_horizons(axes: Axes, policies: list[PolicyFigures]) -> None:
    for index, policy in enumerate(policies):
        for world, style in ((policy.dream, "-"), (policy.real, "--")):
            means = {horizon: e.mean for horizon, e in world.at_horizon.items()}
            label = policy.name if style == "-" else None
            axes.plot(list(means), list(means.values()), style, marker=".", color=f"C{index}", label=label)
    horizons = list(policies[0].dream.at_horizon)
    axes.set(xlabel="steps of an episode that count", ylabel="return", xscale="log")
    axes.set_xticks(horizons, [str(horizon) for horizon in horizons])
    axes.minorticks_off()
    axes.set_title("dream (solid) and real (dashed)", fontsize="medium")
    axes.legend(fontsize="small")


def _draw_bars(axes: Axes, policies: list[PolicyFigures], colours: dict[str, str]) -> None:
    place, colour = np.arange(len(policies)), [colours[p.family] for p in policies]
    dream, real = [p.dream.returns for p in policies], [p.real.returns for p in policies]
    for offset, world, label, alpha in ((-0.2, dream, "dream (pale)", 0.5), (0.2, real, "real", 1.0)):
        means = [e.mean for e in world]
        axes.bar(place + offset, means, 0.4, yerr=error_bars(world), color=colour, alpha=alpha, label=label)
    axes.set_xticks(place, [p.name for p in policies], rotation=30, ha="right", fontsize="small")
    axes.set(ylabel="return")
    axes.legend(fontsize="small")


def _spread(policies: list[PolicyFigures], count: int) -> list[PolicyFigures]:
    """Some policies of all levels, the worst and the best among them."""
    places = np.unique(np.linspace(0, len(policies) - 1, min(count, len(policies))).round().astype(int))
    return [policies[place] for place in places]
