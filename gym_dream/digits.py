"""Reading the digits that Atari games show: three by five blocks, the same shapes in Breakout and Pong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

SHAPES = (
    ("###", "#.#", "#.#", "#.#", "###"),
    (".#.", ".#.", ".#.", ".#.", ".#."),
    ("###", "..#", "###", "#..", "###"),
    ("###", "..#", ".##", "..#", "###"),
    ("#.#", "#.#", "###", "..#", "..#"),
    ("###", "#..", "###", "..#", "###"),
    ("#..", "#..", "###", "#.#", "###"),
    ("###", "..#", "..#", "..#", "..#"),
    ("###", "#.#", "###", "#.#", "###"),
    ("###", "#.#", "###", "..#", "..#"),
)
BLOCK_WIDTH = 4  # console pixels
CONSOLE = (210, 160)  # height and width of the console's picture
FRAME = 64  # side of a frame
UNLIKE = 0.2  # root mean square difference, in shares of full ink, above which a shape is no digit


@dataclass(frozen=True)
class Digit:
    """Where a digit stands in the console's picture.

    Attributes:
        left: of its left edge.
        top: of its top edge.
        row_height: of each of its five rows.
        blank: whether nothing may stand there instead, which counts as 0.
    """

    left: int
    top: int
    row_height: int
    blank: bool = False


def read_number(ink: np.ndarray, digits: Sequence[Digit]) -> np.ndarray:
    """Read a decimal number.

    Args:
        ink: float (N, 64, 64), how much of the digits' colour each pixel has: 1 for all, 0 for none.
        digits: from the highest place to the lowest.

    Returns:
        int64 (N,); -1 where a digit is like no shape.
    """
    number = np.zeros(len(ink), np.int64)
    readable = np.ones(len(ink), np.bool_)
    for digit in digits:
        rows, columns, shapes = _templates(digit)
        seen = ink[:, rows, columns].reshape(len(ink), 1, -1)
        distance = np.sqrt(((seen - shapes) ** 2).mean(axis=2))  # (N, shapes)
        readable &= distance.min(axis=1) <= UNLIKE
        number = 10 * number + distance.argmin(axis=1) % 10  # the eleventh, if any, is the blank
    return np.where(readable, number, -1)


@cache
def _templates(digit: Digit) -> tuple[slice, slice, np.ndarray]:
    """The rows and columns of a frame that the digit touches, and what each shape looks like there, float (S, pixels).

    Drawn in the console's picture and reduced by area, as `gym_dream.real` does.
    """
    height, width = len(SHAPES[0]) * digit.row_height, len(SHAPES[0][0]) * BLOCK_WIDTH
    pictures = np.zeros((len(SHAPES) + digit.blank, *CONSOLE), np.float32)
    for picture, shape in zip(pictures, SHAPES, strict=False):
        blocks = np.array([[block == "#" for block in row] for row in shape], np.float32)
        picture[digit.top : digit.top + height, digit.left : digit.left + width] = np.kron(
            blocks, np.ones((digit.row_height, BLOCK_WIDTH), np.float32)
        )
    small = np.stack([cv2.resize(picture, (FRAME, FRAME), interpolation=cv2.INTER_AREA) for picture in pictures])
    touched = small[8] > 0  # an eight fills its outline
    rows, columns = (np.flatnonzero(touched.any(axis=axis)) for axis in (1, 0))
    where = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return *where, small[:, where[0], where[1]].reshape(len(small), -1)
