"""Rows of frames with a label each, under a heading for every column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

GAP = 4
LINE = 18  # height of the headings
CHARACTER = 8  # width of a letter of a label, at most
BACKGROUND = 64  # grey: frames are often black to their edges


def strips(rows: Mapping[str, np.ndarray], headings: Sequence[str], *, scale: int = 2) -> np.ndarray:
    """Draw some frames of each of several films, one film below the other.

    Args:
        rows: by label, uint8 (K, H, W, 3); all of one shape.
        headings: K of them, one above each column.
        scale: side of the square that a frame's pixel becomes.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        ValueError: rows of different shapes, or not as many frames as headings.
    """
    shapes = {frames.shape for frames in rows.values()}
    if len(shapes) != 1 or next(iter(shapes))[0] != len(headings):
        raise ValueError(f"strips: expected {len(headings)} frames of one size in every row, got shapes {shapes}.")
    count, height, width, _ = next(iter(shapes))
    height, width = height * scale, width * scale
    left = CHARACTER * max(map(len, rows)) + 2 * GAP
    shape = (LINE + len(rows) * (height + GAP), left + count * (width + GAP), 3)
    picture = np.full(shape, BACKGROUND, np.uint8)
    for column, heading in enumerate(headings):
        _write(picture, heading, left + column * (width + GAP), LINE - 5)
    for row, (label, frames) in enumerate(rows.items()):
        top = LINE + row * (height + GAP)
        _write(picture, label, GAP, top + height // 2 + 4)
        for column, frame in enumerate(frames):
            x = left + column * (width + GAP)
            picture[top : top + height, x : x + width] = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    return picture


def _write(picture: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
