"""What reports share: tables that read well in a terminal and are Markdown, too, figures as JSON, error bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gym_dream.evaluation.statistics import Estimate


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns, the first to the left, the others to the right.

    Args:
        rows: equally many cells each; the first row is the head.
    """
    widths = [max(2, *map(len, column)) for column in zip(*rows, strict=True)]  # the rule needs a dash and a colon

    def line(cells: Sequence[str]) -> str:
        others = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return f"| {' | '.join([cells[0].ljust(widths[0]), *others])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(map(line, [rows[0], rule, *rows[1:]]))


def json_figures(value: Any) -> Any:
    """Nested figures for JSON: keys as strings, tuples as lists, None for NaN, which JSON has not."""
    if isinstance(value, dict):
        return {str(key): json_figures(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_figures(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def error_bars(estimates: Sequence[Estimate]) -> np.ndarray:
    """Lengths of matplotlib's error bars below and above the means, float (2, n); 0 where the interval is not known."""
    return np.nan_to_num(np.maximum(0, np.array([[e.mean - e.low, e.high - e.mean] for e in estimates]).T))
