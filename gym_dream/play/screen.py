"""The window: opening it, or saying why not, and the keys by their names.

Pygame is imported when a window is opened: films are made without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from gymnasium.error import DependencyNotInstalled

from gym_dream.play.drawing import SIZE, Painter, View

WITHOUT_WINDOW = "Without a window, a policy can play and be filmed: gym-dream play --record play.gif --steps 300"
UNSEEN = ("offscreen", "dummy")  # drivers that SDL falls back to: a window that nobody sees
TYPED = "+-=.,"  # signs that other keyboards have on other keys, so that what was typed counts


class Screen:
    """A window, from its opening to `close`; a context manager.

    Attributes:
        surface: what is drawn on.
        stale: whether what is on the screen must be drawn anew, since the window was covered or resized.
    """

    def __init__(self, title: str) -> None:
        """Open the window.

        Raises:
            gymnasium.error.DependencyNotInstalled: pygame is missing.
            OSError: there is no display.
        """
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled(
                f"A window needs pygame: pip install 'gym-dream[play]'. {WITHOUT_WINDOW}"
            ) from error
        self._pygame = pygame
        try:
            pygame.display.init()
            driver = pygame.display.get_driver()
            if driver in UNSEEN and os.environ.get("SDL_VIDEODRIVER") != driver:
                raise pygame.error("SDL would draw where nobody sees it")
            pygame.font.init()
            pygame.display.set_caption(title)
            self.surface = pygame.display.set_mode(SIZE, pygame.RESIZABLE)
        except pygame.error as error:
            self.close()
            raise OSError(f"There is no display to open a window on ({error}). {WITHOUT_WINDOW}") from error
        self._painter = Painter()
        self._clock = pygame.time.Clock()
        self.stale = True

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def key_events(self) -> Iterator[tuple[str, bool]]:
        """The keys that went down (True) or up (False) since the last call; closing the window is pressing escape."""
        pygame = self._pygame
        for event in pygame.event.get():
            self.stale = self.stale or event.type in (pygame.WINDOWEXPOSED, pygame.WINDOWSIZECHANGED)
            if event.type == pygame.QUIT:
                yield "escape", True
            elif event.type in (pygame.KEYDOWN, pygame.KEYUP):
                yield key_name(event), event.type == pygame.KEYDOWN

    def show(self, view: View) -> None:
        """Draw, and make it seen."""
        self._painter.draw(self.surface, view)
        self._pygame.display.flip()
        self.stale = False

    def wait(self, per_second: int) -> None:
        """Wait so that this is called at most so often a second."""
        self._clock.tick(per_second)

    def close(self) -> None:
        """Close the window."""
        self._pygame.font.quit()
        self._pygame.display.quit()


def key_name(event: Any) -> str:
    """The name of a key event's key: what was typed for signs, else pygame's name; the space bar is ``" "``."""
    import pygame

    typed = getattr(event, "unicode", "")
    if typed and typed in TYPED:
        return str(typed)
    name: str = pygame.key.name(event.key)
    return " " if name == "space" else name
