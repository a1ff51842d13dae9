"""A window on the screen, for ``render_mode="human"``."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled

MIN_HEIGHT = 512


class Window:
    """Shows frames, enlarged, at a steady pace. It opens with the first one."""

    def __init__(self, title: str, fps: int) -> None:
        """Remember the title and how many frames to show in a second."""
        self._title = title
        self._fps = fps
        self._screen: Any = None
        self._clock: Any = None

    def show(self, frame: np.ndarray) -> None:
        """Show a frame, uint8 (H, W, 3), and wait until the next one is due.

        Raises:
            gymnasium.error.DependencyNotInstalled: pygame is missing.
        """
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled(
                "A window needs pygame: pip install 'gym-dream[play]', or use render_mode='rgb_array'."
            ) from error
        height, width = frame.shape[:2]
        scale = -(-MIN_HEIGHT // height)
        if self._screen is None:
            pygame.display.init()
            pygame.display.set_caption(self._title)
            self._screen = pygame.display.set_mode((scale * width, scale * height))
            self._clock = pygame.time.Clock()
        surface = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
        self._screen.blit(pygame.transform.scale(surface, self._screen.get_size()), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window; a later `show` opens it again."""
        if self._screen is not None:
            import pygame

            pygame.display.quit()
            self._screen = None
