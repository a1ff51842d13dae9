"""The contact sheet: real frames above dreamt ones, at growing numbers of dreamt steps."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from gym_dream.evaluation.rollouts import Windows

GAP = 4
LABELS = 64  # width of the row labels
HEADER = 34
WHITE, GREY = (255, 255, 255), (160, 160, 160)


def contact_sheet(windows: Windows, dreamt: np.ndarray, steps: Sequence[int], *, scale: int = 2) -> np.ndarray:
    """Draw a column for each window and, for each k, a row of real frames above a row of dreamt ones.

    Args:
        windows: N stretches of real play.
        dreamt: uint8 (N, K, H, W, 3), as `gym_dream.evaluation.rollouts.replay` gives it.
        steps: the k to show, in 1..K.
        scale: side of the square that a frame's pixel becomes.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    height, width = (side * scale for side in windows.frames.shape[2:4])
    rows, columns = 2 * len(steps), len(windows)
    pair = 2 * height + GAP  # a real row touches its dream; a gap parts the pairs
    sheet = np.zeros((HEADER + len(steps) * pair, LABELS + columns * (width + GAP), 3), np.uint8)
    for column in range(columns):
        left = LABELS + column * (width + GAP)
        _write(sheet, f"game {windows.episode[column] + 1}", left, 14, WHITE)
        _write(sheet, f"step {windows.first_step[column]}", left, 28, GREY)
        for row in range(rows):
            frames = (windows.frames, dreamt)[row % 2]
            frame = frames[column, steps[row // 2] - 1]
            top = HEADER + row // 2 * pair + row % 2 * height
            sheet[top : top + height, left : left + width] = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    for index, k in enumerate(steps):
        top = HEADER + index * pair
        _write(sheet, f"k = {k}", 4, top + 14, WHITE)
        _write(sheet, "real", 4, top + height // 2 + 4, GREY)
        _write(sheet, "dream", 4, top + height + height // 2 + 4, GREY)
    return sheet


def png(picture: np.ndarray) -> bytes:
    """An RGB picture, uint8 (H, W, 3), as a PNG file's bytes."""
    encoded, data = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not encoded:
        raise ValueError(f"OpenCV cannot write a picture of shape {picture.shape} as PNG.")
    return data.tobytes()


def _write(picture: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
