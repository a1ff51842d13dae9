"""The contact sheet: real frames above dreamt ones, at growing numbers of dreamt steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from gym_dream.evaluation.rollouts import Windows

GAP = 4
LABELS = 64  # width of the row labels, at least
HEADER = 34
FONT, SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
WHITE, GREY = (255, 255, 255), (160, 160, 160)


def contact_sheet(
    windows: Windows, dreamt: Mapping[str, np.ndarray], steps: Sequence[int], *, scale: int = 2
) -> np.ndarray:
    """Draw a column for each window and, for each k, a row of real frames above a row of dreamt ones for each dream.

    Where a window has ended by then, nothing is drawn.

    Args:
        windows: N stretches of real play.
        dreamt: by label, uint8 (N, K, H, W, 3), as `gym_dream.evaluation.rollouts.replay` gives it.
        steps: the k to show, in 1..K.
        scale: side of the square that a frame's pixel becomes.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    height, width = (side * scale for side in windows.frames.shape[2:4])
    rows = {"real": windows.frames, **dreamt}
    left = max(LABELS, *(cv2.getTextSize(label, FONT, SIZE, 1)[0][0] + 8 for label in rows))
    group = len(rows) * height + GAP  # a real row touches its dreams; a gap parts the groups
    sheet = np.zeros((HEADER + len(steps) * group, left + len(windows) * (width + GAP), 3), np.uint8)
    for column in range(len(windows)):
        x = left + column * (width + GAP)
        _write(sheet, f"game {windows.episode[column] + 1}", x, 14, WHITE)
        _write(sheet, f"step {windows.first_step[column]}", x, 28, GREY)
        for index, k in enumerate(steps):
            for row, frames in enumerate(rows.values()):
                if k <= windows.length[column]:
                    top = HEADER + index * group + row * height
                    frame = frames[column, k - 1].repeat(scale, axis=0).repeat(scale, axis=1)
                    sheet[top : top + height, x : x + width] = frame
    for index, k in enumerate(steps):
        top = HEADER + index * group
        _write(sheet, f"k = {k}", 4, top + 14, WHITE)
        for row, label in enumerate(rows):
            _write(sheet, label, 4, top + row * height + height // 2 + 4, GREY)
    return sheet


def png(picture: np.ndarray) -> bytes:
    """An RGB picture, uint8 (H, W, 3), as a PNG file's bytes."""
    encoded, data = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not encoded:
        raise ValueError(f"OpenCV cannot write a picture of shape {picture.shape} as PNG.")
    return data.tobytes()


def _write(picture: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, (x, y), FONT, SIZE, colour, 1, cv2.LINE_AA)
