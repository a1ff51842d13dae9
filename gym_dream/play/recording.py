"""What is kept of a session: films of either world, and episodes of the real game."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gym_dream.data.collect import prepare_store
from gym_dream.data.game import Step, to_episode
from gym_dream.data.store import EpisodeStore
from gym_dream.play.games import Tally
from gym_dream.video import GREEN, RED, WHITE, Panel, compose, write_video


class Film:
    """Frames with their tallies, drawn only when the film is written: a drawn picture is many times as large."""

    def __init__(self) -> None:
        self._panels: list[Panel] = []

    def __len__(self) -> int:
        """The number of frames."""
        return len(self._panels)

    def add(self, panel: Panel) -> None:
        """Keep a frame."""
        self._panels.append(panel)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the film, ``.gif`` or ``.mp4``, at the game's own pace.

        Raises:
            ValueError, OSError: as in `gym_dream.video.write_video`.
        """
        write_video(path, (compose([panel]) for panel in self._panels))


def panel(title: str, driver: str, frame: np.ndarray, tally: Tally, meanings: Sequence[str]) -> Panel:
    """A frame of a film."""
    colour = GREEN if tally.reward > 0 else RED if tally.reward < 0 else WHITE if tally.ending else None
    action = "" if tally.action is None else meanings[tally.action]
    lines = (
        (action, f"reward {tally.reward:+g}" if tally.reward else "reward 0"),
        (tally.ending or f"step {tally.step}", f"return {tally.total:g}"),
        (f"played by {_short(driver)}", ""),
    )
    return Panel(title, frame.copy(), lines, colour)


def _short(name: str, most: int = 22) -> str:
    """A name that fits below a frame; of a long one, such as a path, both ends."""
    return name if len(name) <= most else f"{name[:8]}...{name[11 - most :]}"


class Tape:
    """Records games of the real game in a store, each from its first frame on, as `gym_dream.data.collect` does.

    There is no tape of a dream: it would look like data to every trainer, and a world model that learns from what
    another one made up learns its mistakes.
    """

    def __init__(self, folder: str | os.PathLike[str], spec: dict[str, Any], seed: int) -> None:
        """Open a store.

        Args:
            folder: of the store; made if there is none.
            spec: of the environment, `gym_dream.real.env_spec`.
            seed: game i of the store is played with ``seed + i``.

        Raises:
            ValueError: the folder holds episodes of another environment.
            OSError: it cannot be written to.
        """
        self.store = EpisodeStore(folder)
        prepare_store(self.store, spec)
        self._spec, self._seed = spec, seed
        self._game_seed = seed
        self._steps: list[Step] = []
        self._players: dict[str, None] = {}  # in the order of their first step

    def __len__(self) -> int:
        """Steps of the running game."""
        return len(self._steps)

    def begin(self) -> int:
        """The seed to play the next game with."""
        self._game_seed = self._seed + self.store.next_number
        return self._game_seed

    def add(self, step: Step, player: str) -> None:
        """Record a step.

        Args:
            step: what happened.
            player: ``"human"`` or the name of a policy; the episode names all who played.
        """
        self._steps.append(step)
        self._players[player] = None

    def finish(self) -> Path | None:
        """Write the game, over or not, and begin with the next one; None if it has no step yet.

        Raises:
            OSError: it cannot be written; nothing is lost, and it can be tried again.
        """
        if not self._steps:
            return None
        path = self.store.add(to_episode(self._steps, self._spec, self._game_seed, " and ".join(self._players)))
        self._steps, self._players = [], {}
        return path


def free_name(path: Path) -> Path:
    """The path itself, or the first of ``name-2``, ``name-3``, … that is not taken."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([path], numbered) if not name.exists())
