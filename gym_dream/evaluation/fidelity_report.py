"""The report of `gym-dream fidelity`: tables, JSON, curves, a contact sheet and a film."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gym_dream.evaluation.drift import HALF_LIFE_PSNR
from gym_dream.evaluation.open_loop import REAL, Drift
from gym_dream.evaluation.sheet import contact_sheet, png
from gym_dream.evaluation.tables import error_bars, json_figures, markdown
from gym_dream.files import atomic_write, write_json
from gym_dream.video import GREEN, RED, WHITE, Panel, compose, write_video

COLUMNS = 8
"""Windows in the contact sheet."""
FILMED = 4
"""Windows in the film, the longest."""
FILMED_STEPS = 150
"""Of each of these, the first: the film lasts three quarters of a minute at most."""
PAUSE = 8  # pictures that the film stands still after a window


def files(drift: Drift) -> tuple[str, ...]:
    """The names of the files that `write_report` writes: a sheet and a film of colour frames only."""
    pictures = ("contact_sheet.png", "dreams.mp4") if drift.windows.frames.shape[-1] == 3 else ()
    return ("fidelity.json", "fidelity.md", "curves.png", *pictures)


def write_report(drift: Drift, out: Path) -> None:
    """Write the figures as JSON, tables and curves; of colour frames also a contact sheet and a film. See `files`.

    The JSON is the same for the same measurement.

    Args:
        drift: what was measured.
        out: the folder; made if there is none.

    Raises:
        OSError: it cannot be written to.
    """
    write_json(out / "fidelity.json", as_json(drift))
    with atomic_write(out / "fidelity.md") as temporary:
        temporary.write_text(text(drift), encoding="utf-8")
    with atomic_write(out / "curves.png") as temporary:
        _draw(drift, temporary)
    if "dreams.mp4" not in files(drift):
        return
    some = drift.windows[:COLUMNS]
    dreams = {name: forecast.frames[:COLUMNS] for name, forecast in drift.dreams.items()}
    with atomic_write(out / "contact_sheet.png") as temporary:
        temporary.write_bytes(png(contact_sheet(some, dreams, drift.steps)))
    write_video(out / "dreams.mp4", _film(drift))


def as_json(drift: Drift) -> dict[str, Any]:
    """All figures as JSON holds them; what could not be measured is null."""
    return json_figures(
        {
            "settings": drift.settings,
            "data": drift.data,
            "windows": {k: {"windows": count, "games": games} for k, (count, games) in drift.reach.items()},
            "probes": {name: asdict(validation) for name, validation in drift.validation.items()},
            "real_frames": {
                model: {
                    event: {kind: asdict(value) for kind, value in kinds.items()} for event, kinds in events.items()
                }
                for model, events in drift.real_frames.items()
            },
            "forecasts": {name: asdict(forecast) for name, forecast in drift.forecasts.items()},
        }
    )


def text(drift: Drift) -> str:
    """Markdown: a table for each figure, with a row for each forecast and a column for each k."""
    reach = [["", *(f"k = {k}" for k in drift.steps)]]
    for row, label in enumerate(("windows", "games")):
        reach.append([label, *(str(count[row]) for count in drift.reach.values())])
    data, settings = drift.data, drift.settings
    fewer = f" (there are no {settings['windows']})" if len(drift.windows) < settings["windows"] else ""
    parts = [
        f"{len(drift.windows)} windows{fewer} of {data['games']} held-out games ({data['steps']:,} steps), seed "
        f"{settings['seed']}. Means with 95% bootstrap intervals over games. An ending interrupts a window, so fewer "
        "reach a larger k:",
        markdown(reach),
        *_validation(drift),
        "## Rewards and endings on real frames\n\nThe likelier class counts as said.",
        markdown(
            [
                ["model, event", "precision", "recall", "F1", "F1 within a step"],
                *(
                    [f"{model}, {event}", *(str(kinds.get(kind, "")) for kind in _KINDS)]
                    for model, events in drift.real_frames.items()
                    for event, kinds in events.items()
                ),
            ]
        ),
        f"## Open loop\n\nHalf-life: the first k with a mean PSNR under {HALF_LIFE_PSNR:g} dB.",
        markdown(
            [
                ["forecast", "half-life, steps"],
                *([name, str(f.half_life)] for name, f in drift.forecasts.items() if name != REAL),
            ]
        ),
    ]
    figures = next(iter(drift.forecasts.values())).figures
    for name, first in figures.items():
        rows = [
            [forecast, *(str(estimate) for estimate in found.figures[name].at.values())]
            for forecast, found in drift.forecasts.items()
            if first.of_itself or forecast != REAL
        ]
        unit = f" ({first.unit})" if first.unit else ""
        since = ", over the steps since the k before" if first.pooled else ""
        ks = [f"k = {k}" if k.isdecimal() else k for k in first.at]
        parts.append(f"### {name}{unit}{since}\n\n" + markdown([["forecast", *ks], *rows]))
    return "\n\n".join(parts) + "\n"


_KINDS = ("precision", "recall", "F1", "F1 within a step")


def _validation(drift: Drift) -> list[str]:
    judged = {name: probe for name, probe in drift.validation.items() if probe.frames}
    if not judged:
        return []
    rows = [[name, f"{probe.right:.2%}", f"{probe.frames:,}"] for name, probe in judged.items()]
    return [
        "How often each probe agrees with the console's memory on these games:",
        markdown([["probe", "right", "frames"], *rows]),
    ]


def _draw(drift: Drift, path: Path) -> None:
    """A plot for each figure: mean and interval against k, a line for each forecast."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures = next(iter(drift.forecasts.values())).figures
    columns = 4
    rows = -(-len(figures) // columns)
    page = Figure(figsize=(4.2 * columns, 3.1 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(page)
    handles: dict[str, Any] = {}
    for index, (name, first) in enumerate(figures.items()):
        axes = page.add_subplot(rows, columns, index + 1)
        shown = [forecast for forecast in drift.forecasts if first.of_itself or forecast != REAL]
        for place, forecast in enumerate(shown):
            estimates = [drift.forecasts[forecast].figures[name].at[str(k)] for k in drift.steps]
            nudge = 1.06 ** (place - len(shown) / 2)  # so that intervals do not hide each other
            colour = f"C{list(drift.forecasts).index(forecast) % 10}"
            ks = np.array(drift.steps) * nudge
            means = [estimate.mean for estimate in estimates]
            handles[forecast] = axes.errorbar(
                ks, means, yerr=error_bars(estimates), marker="o", markersize=3, color=colour
            )
        axes.set(xscale="log", title=name)
        axes.set_xticks(drift.steps, [str(k) for k in drift.steps])
        axes.minorticks_off()
        axes.set_ylabel(first.unit)
        axes.set_xlabel("k" + (", steps since the k before" if first.pooled else ""))
        if first.unit == "share":
            axes.set_ylim(-0.03, 1.03)
    page.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    page.savefig(path, format="png", dpi=80, metadata={"Software": None})


def _film(drift: Drift) -> Iterator[np.ndarray]:
    """Pictures of the longest windows one after the other: the real game on the left, the dreams right of it.

    Of each only the first `FILMED_STEPS`.
    """
    windows = drift.windows
    for row in np.argsort(-windows.length, kind="stable")[:FILMED].tolist():
        last = min(int(windows.length[row]), FILMED_STEPS)
        for step in range(last):
            forecasts = {"Real game": (windows.frames, windows.rewards, windows.terminated)}
            forecasts |= {name: (dream.frames, dream.rewards, dream.ends) for name, dream in drift.dreams.items()}
            panels = [
                _panel(name, frames[row, step], int(rewards[row, step]), bool(ends[row, step]))
                for name, (frames, rewards, ends) in forecasts.items()
            ]
            picture = compose(panels, f"game {windows.episode[row] + 1}, step {step + 1}")
            yield from [picture] * (PAUSE if step == last - 1 else 1)


def _panel(title: str, frame: np.ndarray, reward: int, ends: bool) -> Panel:
    colour = GREEN if reward > 0 else RED if reward < 0 else WHITE if ends else None
    return Panel(title, frame, ((f"reward {reward:+d}" if reward else "", "ends" if ends else ""),), colour)
