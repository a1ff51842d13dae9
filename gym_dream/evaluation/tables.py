"""Tables that read well in a terminal and are Markdown, too."""

from __future__ import annotations

from collections.abc import Sequence


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
