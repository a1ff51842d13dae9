"""Pictures of play: frames side by side with text that can be read, written as GIF or MP4."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gym_dream.files import atomic_write

FPS = 15  # a game's own pace: 60 frames of the console a second, of which one step takes four
FORMATS = (".gif", ".mp4")

Colour = tuple[int, int, int]
BACKGROUND: Colour = (24, 26, 32)
WHITE: Colour = (236, 238, 242)
GREY: Colour = (140, 146, 158)
GREEN: Colour = (110, 220, 120)
RED: Colour = (250, 110, 100)

MARGIN = 16
LINE = 24
BORDER = 4
BLOCK = 16  # video codecs work on blocks of this many pixels
GIF_LEVELS = np.minimum((np.arange(256) + 4) // 8 * 8, 255).astype(np.uint8)


@dataclass(frozen=True)
class Panel:
    """One frame with a title above it and lines of text below.

    Attributes:
        title: what is seen.
        frame: uint8 (H, W, 3).
        lines: below the frame; each a text at the left edge and one at the right.
        colour: of the first line and of a border around the frame, to mark a moment; None for none.
    """

    title: str
    frame: np.ndarray
    lines: tuple[tuple[str, str], ...] = ()
    colour: Colour | None = None


def compose(panels: Sequence[Panel], caption: str = "", scale: int = 4) -> np.ndarray:
    """Draw panels side by side.

    Args:
        panels: from left to right, their frames of one size.
        caption: at the top right.
        scale: pixels in the picture for each pixel of a frame, along each axis.

    Returns:
        uint8 (H, W, 3), both sides a multiple of 16.
    """
    height, width = (scale * side for side in panels[0].frame.shape[:2])
    top = 2 * MARGIN + LINE - 8
    bottom = MARGIN + LINE * max(len(panel.lines) for panel in panels)
    shape = top + height + bottom, MARGIN + len(panels) * (width + MARGIN)
    picture = np.full((*(-(-side // BLOCK) * BLOCK for side in shape), 3), BACKGROUND, np.uint8)
    for i, panel in enumerate(panels):
        left = MARGIN + i * (width + MARGIN)
        right = left + width
        if panel.colour is not None:
            picture[top - BORDER : top + height + BORDER, left - BORDER : right + BORDER] = panel.colour
        picture[top : top + height, left:right] = panel.frame.repeat(scale, axis=0).repeat(scale, axis=1)
        _write(picture, panel.title, left, top - 12, WHITE, size=0.6)
        for row, (at_left, at_right) in enumerate(panel.lines):
            baseline = top + height + (row + 1) * LINE
            colour = (panel.colour or WHITE) if row == 0 else GREY
            _write(picture, at_left, left, baseline, colour)
            _write(picture, at_right, right, baseline, colour, align_right=True)
    _write(picture, caption, picture.shape[1] - MARGIN, top - 12, GREY, align_right=True)
    return picture


def check_format(path: str | os.PathLike[str]) -> str:
    """The format that a file name asks for, ``".gif"`` or ``".mp4"``.

    Raises:
        ValueError: the name ends in neither.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"Cannot write a video as {os.fspath(path)!r}: the name must end in {' or '.join(FORMATS)}.")
    return suffix


def write_video(path: str | os.PathLike[str], pictures: Iterable[np.ndarray], fps: int = FPS) -> None:
    """Write a GIF, which plays for ever, or an MP4 (H.264), by the ending of the file's name.

    A GIF has 256 colours a picture: every channel is rounded to multiples of 8, which also makes the file much smaller.

    Args:
        path: the file, replaced if it is there.
        pictures: at least one, uint8 (H, W, 3) each, of one size. For an MP4 they are taken one by one.
        fps: pictures a second.

    Raises:
        ValueError: the name ends in neither ``.gif`` nor ``.mp4``.
        OSError: the file cannot be written; one that was there stays as it was.
    """
    import imageio.v3

    settings: dict[str, Any] = {"fps": fps, "is_batch": True}
    suffix = check_format(path)
    images: Any = pictures  # imageio's types know arrays only
    if suffix == ".gif":
        settings = {"duration": 10 * round(100 / fps), "loop": 0}  # milliseconds; the file counts in hundredths
        images = GIF_LEVELS[np.stack(list(pictures))]
    encoded = imageio.v3.imwrite("<bytes>", images, extension=suffix, **settings)
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded)


def _write(
    picture: np.ndarray, text: str, x: int, baseline: int, colour: Colour, size: float = 0.5, align_right: bool = False
) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    if align_right:
        x -= cv2.getTextSize(text, font, size, 1)[0][0]
    cv2.putText(picture, text, (x, baseline), font, size, colour, 1, cv2.LINE_AA)
