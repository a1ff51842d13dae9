"""One recorded game, in memory and as a safetensors file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gym_dream.files import load_tensors, save_tensors

Game = TypeVar("Game")

EPISODE_FORMAT = "gym_dream.episode"
EPISODE_VERSION = 2  # since 2: start

_REQUIRED = ("frames", "actions", "rewards", "terminated", "truncated", "lives")
_OPTIONAL = ("ram",)
_METADATA = ("format", "version", "env", "seed", "policy", "in_progress")
_OPTIONAL_METADATA = ("start",)


@dataclass(frozen=True)
class EpisodeInfo:
    """Where an episode comes from.

    Attributes:
        env: The environment's spec, JSON-able (`gym_dream.real.env_spec`).
        seed: The seed of this game's environment and policy streams.
        policy: Who played, in words a user can type again ("random", "scripted", …).
        in_progress: Whether the game was still being played when the episode was written.
        start: How the game's beginning was changed (e.g. "last_bricks=3"), "" where it was not. Such games show what is
            rare; their first frames are never taken for how a game begins.
    """

    env: dict[str, Any]
    seed: int
    policy: str
    in_progress: bool = False
    start: str = ""


@dataclass(frozen=True, eq=False)
class Episode:
    """One game with all its lives: T steps between T + 1 frames.

    Step t leads from `frames[t]` under `actions[t]` to `frames[t + 1]`. At a lost life the game goes on, so the last
    frame of a life is also the first of the next.

    Attributes:
        frames: uint8 (T + 1, H, W, C).
        actions: int64 (T,), or float32 (T, A).
        rewards: float32 (T,), raw as the game gave them.
        terminated: bool (T,), a life was lost or the game is over.
        truncated: bool (T,), cut off from outside; only the last step can be.
        lives: int32 (T,), lives left after the step (0 in games that have none).
        ram: uint8 (T, 128), the console's memory after the step; None if it was not recorded.
        info: Where the episode comes from.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    lives: np.ndarray
    ram: np.ndarray | None
    info: EpisodeInfo

    def __post_init__(self) -> None:
        _check("frames", self.frames, np.uint8, "(T + 1, H, W, C)", ndim=4)
        steps = len(self.frames) - 1
        if steps < 1 or 0 in self.frames.shape:
            raise ValueError(
                f"an episode needs at least one step, hence two frames, and no empty axis; "
                f"frames have shape {self.frames.shape}"
            )
        if self.actions.ndim == 2:
            _check("actions", self.actions, np.float32, f"({steps}, A)", ndim=2, length=steps)
        else:
            _check("actions", self.actions, np.int64, f"({steps},)", ndim=1, length=steps)
        _check("rewards", self.rewards, np.float32, f"({steps},)", ndim=1, length=steps)
        _check("terminated", self.terminated, np.bool_, f"({steps},)", ndim=1, length=steps)
        _check("truncated", self.truncated, np.bool_, f"({steps},)", ndim=1, length=steps)
        _check("lives", self.lives, np.int32, f"({steps},)", ndim=1, length=steps)
        if self.ram is not None:
            _check("ram", self.ram, np.uint8, f"({steps}, 128)", ndim=2, length=steps)
        if self.truncated[:-1].any():
            raise ValueError(
                f"an episode is one game, so only its last step can be truncated; step {self.truncated.argmax()} of "
                f"{steps} is. Cut the episode there"
            )

    def __len__(self) -> int:
        """The number of steps, T."""
        return len(self.actions)

    @property
    def game_over(self) -> bool:
        """Whether the last step ended the game, and not merely a life."""
        cut = self.info.in_progress or bool(self.truncated[-1])
        return bool(self.terminated[-1]) and (not cut or int(self.lives[-1]) == 0)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write the episode as a safetensors file, atomically.

        Args:
            path: The file to write.
            overwrite: False raises FileExistsError if the file is there.

        Raises:
            TypeError: `info.env` holds something that JSON cannot.
            OSError: As in `gym_dream.files.atomic_write`.
        """
        tensors = {name: getattr(self, name) for name in _REQUIRED}
        if self.ram is not None:
            tensors["ram"] = self.ram
        metadata = {
            "format": EPISODE_FORMAT,
            "version": str(EPISODE_VERSION) if self.info.start else "1",
            "env": json.dumps(self.info.env),
            "seed": json.dumps(int(self.info.seed)),
            "policy": self.info.policy,
            "in_progress": json.dumps(bool(self.info.in_progress)),
        }
        if self.info.start:
            metadata["start"] = self.info.start
        save_tensors(path, tensors, metadata, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mapped: bool = False) -> Episode:
        """Read an episode; anything missing, unknown, misshapen or of another type is an error.

        Args:
            path: The file to read.
            mapped: Leave the arrays on disk; see `gym_dream.files.load_tensors`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not an episode that this version can read; the message names file and fault.
        """
        tensors, metadata = load_tensors(path, required=_REQUIRED, optional=_OPTIONAL, mapped=mapped)
        info = episode_info(path, metadata)
        try:
            return cls(ram=tensors.pop("ram", None), info=info, **tensors)
        except ValueError as error:
            raise ValueError(f"{path} is not a sound episode: {error}") from error


def episode_info(path: str | os.PathLike[str], metadata: dict[str, str]) -> EpisodeInfo:
    """Read the strings in the header of an episode's file, strictly.

    Args:
        path: The file they come from, for the error.
        metadata: The strings, by name.

    Raises:
        ValueError: They are not an episode's, of a newer version, incomplete, or not understood.
    """
    check_format(path, metadata, EPISODE_FORMAT, EPISODE_VERSION, _METADATA, _OPTIONAL_METADATA)
    try:
        env, seed, in_progress = (json.loads(metadata[name]) for name in ("env", "seed", "in_progress"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: the header's strings are not JSON: {error}") from error
    if not isinstance(env, dict) or type(seed) is not int or type(in_progress) is not bool:
        raise ValueError(
            f"{path}: expected the header's env to be a JSON object, seed an integer and in_progress true or false, "
            f"got {metadata}"
        )
    return EpisodeInfo(env, seed, metadata["policy"], in_progress, metadata.get("start", ""))


def check_format(
    path: str | os.PathLike[str],
    metadata: dict[str, str],
    name: str,
    version: int,
    fields: Sequence[str],
    optional: Sequence[str] = (),
) -> None:
    """Check that a header's strings are those of one of this package's formats.

    Args:
        path: The file they come from, for the error.
        metadata: The strings, by name.
        name: What "format" must say.
        version: The newest "version" that can be read.
        fields: Every name that must be there.
        optional: Names that may be there, too; no other may.

    Raises:
        ValueError: Another format, a newer version, or a missing or unknown field.
    """
    if metadata.get("format") != name:
        raise ValueError(f"{path}: expected a file of format '{name}', its header says {metadata.get('format')!r}.")
    if not metadata.get("version", "").isdecimal() or not 1 <= int(metadata["version"]) <= version:
        raise ValueError(
            f"{path}: this version of gym_dream reads '{name}' up to version {version}, the file says "
            f"{metadata.get('version')!r}. Update gym_dream to read it."
        )
    missing, unknown = set(fields) - set(metadata), set(metadata) - set(fields) - set(optional)
    if missing or unknown:
        raise ValueError(
            f"{path}: the header's strings should be {sorted(fields)}; missing {sorted(missing)}, "
            f"unknown {sorted(unknown)}."
        )


def split_held_out(episodes: Sequence[Game], fraction: float, seed: int) -> tuple[list[Game], list[Game]]:
    """Set whole games aside for evaluation.

    One game is drawn from every stretch of 1 / fraction games, so early and late play are both held out, and a game
    that has more games recorded after it keeps its side (a later fit on more data does not train on what an earlier
    one held out).

    Args:
        episodes: Whole games, oldest first, or their paths.
        fraction: The share to hold out, above 0 and up to 0.5.
        seed: The same seed makes the same choice.

    Returns:
        The games to train on and those held out, at least one of each, each in the given order.

    Raises:
        ValueError: Fewer than two games, or a fraction out of range.
    """
    count = len(episodes)
    if count < 2:
        raise ValueError(f"holding games out needs at least 2 games, got {count}. Collect more")
    if not 0.0 < fraction <= 0.5:
        raise ValueError(f"the held-out fraction must be above 0 and at most 0.5, got {fraction}")
    rng = np.random.default_rng(seed)
    stretches = math.ceil(count * fraction)
    bounds = np.ceil(np.arange(stretches + 1) / fraction)
    drawn = np.floor(bounds[:-1] + rng.random(stretches) * np.diff(bounds)).astype(np.int64)
    held = set(drawn[drawn < count].tolist()) or {int(rng.integers(count))}
    train = [episode for index, episode in enumerate(episodes) if index not in held]
    return train, [episodes[index] for index in sorted(held)]


def _check(name: str, array: np.ndarray, dtype: type, shape: str, *, ndim: int, length: int | None = None) -> None:
    wrong_shape = array.ndim != ndim or (length is not None and len(array) != length)
    if wrong_shape or array.dtype != dtype or (name == "ram" and array.shape[1] != 128):
        raise ValueError(
            f"{name} must be {np.dtype(dtype).name} of shape {shape}, got {array.dtype} of shape {array.shape}"
        )
