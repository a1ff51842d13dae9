"""A session as a picture, drawn with pygame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gym_dream.play.games import Tally
from gym_dream.play.session import NO_HORIZON, Session, help_lines
from gym_dream.video import BACKGROUND, GREEN, GREY, RED, WHITE, Colour

SIZE = (936, 680)  # of the window at first; a 64x64 frame is enlarged eightfold in it
MARGIN = 24
SIDE = 340  # width of the column beside the frame
VALUES = 176  # where the values stand in it
HELP_LINE = 23
HELP_COLUMNS = 4
TITLE, LARGE, NORMAL, SMALL = 34, 34, 22, 19  # sizes of text
DREAM: Colour = (176, 148, 255)
REAL: Colour = (120, 200, 255)
FAINT: Colour = (46, 50, 60)


@dataclass(frozen=True)
class View:
    """All that is drawn.

    Attributes:
        session: what the keys decided.
        title: of the world shown, e.g. ``"Dream of Breakout"``.
        frame: uint8 (H, W, 3).
        tally: of the game shown.
        action: the name of the last action; "" before the first.
        driver: ``"human"`` or the policy's name.
        speed: steps a second reached; 0 while that is unknown.
        filmed: frames of the film that is being recorded.
        taped: steps of the real game that is being recorded.
        keys: the game's keys and what they do.
    """

    session: Session
    title: str
    frame: np.ndarray
    tally: Tally
    action: str
    driver: str
    speed: float
    filmed: int
    taped: int
    keys: Sequence[tuple[str, str]]


class Painter:
    """Draws views; keeps the fonts, which cost more to open than to write with."""

    def __init__(self) -> None:
        import pygame

        self._pygame = pygame
        self._fonts: dict[int, Any] = {}

    def draw(self, surface: Any, view: View) -> None:
        """Draw a session on a pygame surface of any size.

        The frame is enlarged by the largest whole number that leaves room, so that every pixel stays a sharp square.
        """
        width, height = surface.get_size()
        rows = _rows(view.keys) + _rows(help_lines())
        help_top = height - MARGIN // 2 - HELP_LINE * len(rows)
        surface.fill(BACKGROUND)
        frame = self._frame(surface, view, (width - SIDE - 3 * MARGIN, help_top - 2 * MARGIN))
        self._column(surface, view, frame.right + MARGIN)
        self._pygame.draw.line(surface, FAINT, (MARGIN, help_top - 8), (width - MARGIN, help_top - 8))
        for row, entries in enumerate(rows):
            for index, (keys, text) in enumerate(entries):
                left = MARGIN + index * ((width - 2 * MARGIN) // HELP_COLUMNS)
                top = help_top + row * HELP_LINE
                end = self._text(surface, keys, (left, top), WHITE, SMALL)
                self._text(surface, text, (end + 8, top), GREY, SMALL)

    def _frame(self, surface: Any, view: View, room: tuple[int, int]) -> Any:
        """The frame, with a border that marks rewards and endings; returns its place."""
        pygame, tally = self._pygame, view.tally
        rows, columns = view.frame.shape[:2]
        scale = max(1, min(room[0] // columns, room[1] // rows))
        image = pygame.surfarray.make_surface(view.frame.swapaxes(0, 1))
        image = pygame.transform.scale(image, (scale * columns, scale * rows))
        place = image.get_rect(topleft=(MARGIN + max(0, room[0] - scale * columns) // 2, MARGIN))
        mark = GREEN if tally.reward > 0 else RED if tally.reward < 0 else WHITE if tally.ending else FAINT
        pygame.draw.rect(surface, mark, place.inflate(8, 8), width=4, border_radius=4)
        surface.blit(image, place)
        if word := tally.ending or ("paused" if view.session.paused else ""):
            written = self._font(NORMAL + 4).render(word, True, WHITE)
            plate = written.get_rect(midbottom=(place.centerx, place.bottom - 12)).inflate(24, 10)
            shade = pygame.Surface(plate.size, pygame.SRCALPHA)
            pygame.draw.rect(shade, (*BACKGROUND, 220), shade.get_rect(), border_radius=8)
            surface.blit(shade, plate)
            surface.blit(written, written.get_rect(center=plate.center))
        return place

    def _column(self, surface: Any, view: View, left: int) -> None:
        """What is told beside the frame."""
        session, top = view.session, MARGIN - 6
        world = DREAM if session.world == "dream" else REAL
        self._text(surface, view.title, (left, top), world, TITLE, SIDE)
        self._text(surface, f"{view.driver} at the wheel", (left, top + 38), WHITE, NORMAL, SIDE)
        top += 78
        for label, value, colour, size in figures(view):
            self._text(surface, label, (left, top + (size - NORMAL) // 2), GREY, NORMAL)
            self._text(surface, value, (left + VALUES, top), colour, size, SIDE - VALUES)
            top += size + 6 if label else NORMAL // 2
        top += 10
        for text in recordings(view):
            self._pygame.draw.circle(surface, RED, (left + 6, top + 8), 6)
            self._text(surface, text, (left + 20, top), RED, NORMAL, SIDE - 20)
            top += NORMAL + 6
        for line in self._wrapped(session.notice):
            self._text(surface, line, (left, top), WHITE, NORMAL, SIDE)
            top += NORMAL + 2

    def _wrapped(self, text: str) -> list[str]:
        """A text in lines that fit into the column."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self._font(NORMAL).size(longer)[0] > SIDE:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines if text else []

    def _text(
        self, surface: Any, text: str, at: tuple[int, int], colour: Colour, size: int, width: int | None = None
    ) -> int:
        """Write a line, its middle left out if it is wider than ``width``; returns where it ends."""
        font, shown, keep = self._font(size), text, len(text)
        while width is not None and keep > 2 and font.size(shown)[0] > width:
            keep -= 1
            shown = f"{text[: keep // 2]}...{text[-(keep - keep // 2) :]}"
        written = font.render(shown, True, colour)
        surface.blit(written, at)
        return at[0] + int(written.get_width())

    def _font(self, size: int) -> Any:
        """Pygame's own font, which is there wherever pygame is."""
        if size not in self._fonts:
            self._fonts[size] = self._pygame.font.Font(None, size)
        return self._fonts[size]


def figures(view: View) -> list[tuple[str, str, Colour, int]]:
    """Label, value, its colour and size; an empty label stands for a gap."""
    session, tally = view.session, view.tally
    gap = ("", "", GREY, NORMAL)
    reward = (f"{tally.reward:+g}", GREEN if tally.reward > 0 else RED) if tally.reward else ("0", GREY)
    before = "-" if tally.last_return is None else f"{tally.last_return:g}"
    figures = [
        ("reward", *reward, NORMAL),
        ("return", f"{tally.total:g}", WHITE, LARGE),
        ("return before", before, WHITE, NORMAL),
    ]
    if tally.score is not None:
        figures += [
            ("score of the game", f"{tally.score:g}", WHITE, NORMAL),
            ("lives", f"{tally.lives}", WHITE, NORMAL),
        ]
    figures += [("action", view.action or "-", WHITE, NORMAL), gap]
    if session.world == "dream":
        horizon = "none" if session.horizon == NO_HORIZON else f"{session.horizon}"
        passes = "-" if session.denoising_steps is None else f"{session.denoising_steps}"
        figures += [
            ("step", f"{tally.step}", WHITE, NORMAL),
            ("horizon", horizon, WHITE, NORMAL),
            ("denoising steps", passes, WHITE, NORMAL),
        ]
    else:
        figures += [("step of this life", f"{tally.step}", WHITE, NORMAL)]
    slow = 0 < view.speed < 0.9 * session.fps and not session.paused
    reached = f" ({view.speed:.0f} reached)" if slow else ""
    return [*figures, ("steps a second", f"{session.fps}{reached}", WHITE, NORMAL), gap]


def recordings(view: View) -> list[str]:
    """What is being recorded."""
    told = []
    if view.session.filming:
        told.append(f"filming: {view.filmed} frames")
    if view.session.recording:
        told.append(f"recording the game: {view.taped} steps")
    return told


def _rows(entries: Sequence[tuple[str, str]]) -> list[Sequence[tuple[str, str]]]:
    return [entries[start : start + HELP_COLUMNS] for start in range(0, len(entries), HELP_COLUMNS)]
