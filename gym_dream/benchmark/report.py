"""bench.json as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gym_dream.benchmark.dreams import ORIGINAL
from gym_dream.evaluation.tables import markdown

Figures = Mapping[str, Any]


def text(found: Figures) -> str:
    """All that was measured, as Markdown."""
    machine, settings = found["machine"], found["settings"]
    threads = settings["threads"]
    clock = "wall clock" if settings["clock"] == "wall" else "processor time"
    head = (
        f"{machine['hardware']}; {machine['device']}, {threads} thread{'s' if threads != 1 else ''}; PyTorch "
        f"{machine['torch']}; {clock}. Medians, ± half the distance between the quartiles; x: how many times as fast "
        f"as the same in {settings['reference']}."
    )
    sections = [
        ("Ceilings", _ceilings(found.get("ceilings", []))),
        ("Frames and steps a second", _dreams(found.get("dreams", []))),
        ("Share of the convolution's ceiling", _achieved(found.get("dreams", []))),
        *(
            (f"A step of {_subject(row)}", f"{_parts(row['parts'])}\n\n{_operations(row['operations'])}")
            for row in found.get("parts", [])
        ),
        ("One update", _training(found.get("training", []))),
        ("One update of an agent in dreams", _agents(found.get("agents", []))),
        ("A fresh process", _starts(found.get("start", []))),
    ]
    pages = [f"{title}\n\n{table}" for title, table in sections if table]
    if left_out := found.get("left_out"):
        counts = Counter((case["network"], case["batch"]) for case in left_out)
        cases = ", ".join(f"{network} at batch {batch} ({count})" for (network, batch), count in counts.items())
        pages.append(f"Left out, for they would have taken too long (give more --minutes): {cases}.")
    return "\n\n".join([head, *pages])


def _ceilings(rows: Sequence[Figures]) -> str:
    if not rows:
        return ""
    body = [(f"{r['operation']}, {r['precision']}", _giga(r["flops_per_second"]), _spread(r)) for r in rows]
    return markdown([("operation", "GFLOP/s", "spread"), *body])


def _dreams(rows: Sequence[Figures]) -> str:
    if not rows:
        return ""
    lines = _lines(rows, lambda r: f"{_short(r['per_second'])} {_spread(r)}{_times(r['ratio'])}")
    return markdown(lines)


def _achieved(rows: Sequence[Figures]) -> str:
    rows = [row for row in rows if "share_of_ceiling" in row]
    if not rows:
        return ""
    return markdown(_lines(rows, lambda r: f"{r['share_of_ceiling']:.0%} ({_giga(r['flops_per_second'])} GFLOP/s)"))


def _lines(rows: Sequence[Figures], cell: Any) -> list[tuple[str, ...]]:
    """A line for each network, kind, number of passes and engine; a column for each batch size."""
    batches = sorted({row["batch"] for row in rows})
    cells: dict[tuple[Any, ...], dict[int, str]] = {}
    for row in rows:
        key = row["network"], row["kind"], row["denoising_steps"], row["engine"]
        cells.setdefault(key, {})[row["batch"]] = cell(row)
    order = sorted(cells, key=lambda key: bool(key[0] != ORIGINAL))
    head = ("network, what, passes, engine", *(f"batch {batch}" for batch in batches))
    return [head, *((", ".join(map(str, key)), *(cells[key].get(b, "-") for b in batches)) for key in order)]


def _parts(parts: Sequence[Figures]) -> str:
    body = [(p["part"], f"{1000 * p['seconds']:.2f}", f"{p['share']:.1%}") for p in parts]
    return markdown([("part", "ms", "share"), *body])


def _operations(operations: Sequence[Figures]) -> str:
    body = [(o["operation"], str(o["calls"]), f"{o['share']:.1%}") for o in operations]
    return markdown([("operation (by the profiler)", "calls", "share"), *body])


def _training(rows: Sequence[Figures]) -> str:
    if not rows:
        return ""
    body = [
        (f"{r['preset']}: {r['network']}, {r['engine']}", f"{r['seconds']:.3g} {_spread(r)}", f"x{r['ratio']:.2f}")
        for r in rows
    ]
    return markdown([("update", "seconds", "ratio"), *body])


def _agents(rows: Sequence[Figures]) -> str:
    if not rows:
        return ""
    body = [
        (
            f"{r['network']}, {r['denoising_steps']} passes, {r['batch']} dreams, {r['engine']}",
            f"{r['seconds']:.3g} {_spread(r)}",
            f"{r['dream_steps']} in {r['dream_seconds']:.3g} s",
            f"{r['ratio_to_dreams']:.2f}",
        )
        for r in rows
    ]
    return markdown([("agent in", "seconds", "of that dream steps", "whole / dream steps"), *body])


def _starts(rows: Sequence[Figures]) -> str:
    if not rows:
        return ""
    laps = list(rows[0]["laps"])
    body = [
        (
            f"{r['network']}, batch {r['batch']}{', compiled' if r['compile'] else ''}",
            *(f"{r['laps'][lap]['seconds']:.2f}" for lap in laps),
            _mega(r["peak_bytes"]),
            _mega(r["peak_device_bytes"]),
        )
        for r in rows
    ]
    return markdown([("process", *(f"{lap}, s" for lap in laps), "peak, MB", "on the GPU, MB"), *body])


def _subject(row: Figures) -> str:
    return f"{row['network']}, batch {row['batch']}, {row['engine']}"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _spread(row: Figures) -> str:
    return f"±{(row['seconds_high'] - row['seconds_low']) / 2 / row['seconds']:.0%}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f" x{ratio:.2f}"


def _giga(flops: float) -> str:
    return _short(flops / 1e9)


def _mega(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"
