"""A folder of recorded games."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from gym_dream.data.episode import Episode, episode_info
from gym_dream.files import read_header

_NAME = re.compile(r"episode_(\d{6,})\.safetensors")


class EpisodeStore:
    """Numbered episode files in one folder, oldest first. Nothing is kept in memory.

    Several processes may add to the same folder: each episode takes the next free number. (Where seeds go by number, as
    in `gym_dream.data.collect.collect`, give each process seeds of its own.)

    Args:
        folder: Where the files are; made at the first `add`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self.paths)

    @property
    def paths(self) -> list[Path]:
        """The episodes' files in the order of their numbers; unfinished writes and other files are left out."""
        return [path for _, path in self._numbered()]

    @property
    def next_number(self) -> int:
        """The number after the last; not the number of episodes where some were deleted."""
        return max((number for number, _ in self._numbered()), default=-1) + 1

    @property
    def num_steps(self) -> int:
        """The steps of all episodes together, from the files' headers alone.

        Raises:
            ValueError: A file is damaged or not an episode.
        """
        return sum(_num_steps(path) for path in self.paths)

    @property
    def env(self) -> dict[str, Any] | None:
        """The environment spec that all episodes share, from the headers alone; None if there are no episodes.

        Raises:
            ValueError: Two episodes come from different environments, or a file is damaged or not an episode.
        """
        shared, first = None, None
        for path in self.paths:
            env = episode_info(path, read_header(path).metadata).env
            if shared is None:
                shared, first = env, path
            elif env != shared:
                keys = sorted(key for key in env.keys() | shared.keys() if env.get(key) != shared.get(key))
                raise ValueError(
                    f"{first} and {path} come from different environments: "
                    + "; ".join(f"{key}: {shared.get(key)!r} and {env.get(key)!r}" for key in keys)
                    + ". Keep each environment's episodes in a folder of their own"
                )
        return shared

    def add(self, episode: Episode) -> Path:
        """Write an episode under the next free number, atomically.

        A game that goes on can be written again under the returned path (`Episode.save`), longer.

        Returns:
            The new file, `episode_000000.safetensors` and so on.

        Raises:
            OSError: As in `gym_dream.files.atomic_write`.
        """
        number = self.next_number
        while True:
            path = self.folder / f"episode_{number:06d}.safetensors"
            try:
                episode.save(path, overwrite=False)
                return path
            except FileExistsError:
                if not path.exists():  # not the number is taken, but something on the way to it
                    raise
                number += 1

    def load_all(self, *, mapped: bool = False) -> list[Episode]:
        """Read every episode, oldest first.

        Args:
            mapped: Leave them on disk, mapped into memory, instead of reading them into it: for who draws from all of
                them and uses a little at a time. See `gym_dream.files.load_tensors`.

        Raises:
            FileNotFoundError: There is not one episode.
            ValueError: A file is damaged or not an episode; the message names it.
        """
        paths = self.paths
        if not paths:
            raise FileNotFoundError(
                f"no episodes in {self.folder}. Collect some with `gym-dream collect --out {self.folder}`"
            )
        return [Episode.load(path, mapped=mapped) for path in paths]

    def _numbered(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            if self.folder.exists():
                raise NotADirectoryError(f"expected a folder of episodes, but this is a file: {self.folder}")
            return []
        matches = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match)


def _num_steps(path: Path) -> int:
    header = read_header(path)
    episode_info(path, header.metadata)
    if "rewards" not in header.shapes:
        raise ValueError(f"{path} misses 'rewards': it is not an episode")
    return header.shapes["rewards"][0]
