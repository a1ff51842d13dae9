"""The frames and actions that dreams begin from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gym_dream.data.episode import Episode, check_format
from gym_dream.data.segments import Ending, Spans, check_episodes
from gym_dream.files import load_tensors, save_tensors

CONTEXTS_FORMAT = "gym_dream.contexts"
CONTEXTS_VERSION = 1

_TENSORS = ("frames", "actions", "real")


@dataclass(frozen=True, eq=False)
class Contexts:
    """N contexts of L frames, oldest first, and the L - 1 actions between them. A dream goes on from the last frame.

    A context reaching back before the start of a life is padded there with zeros; its last frame is always real.

    Attributes:
        frames: uint8 (N, L, H, W, C).
        actions: int64 (N, L - 1), or float32 (N, L - 1, A).
        real: bool (N, L), the frame is not padding.
    """

    frames: np.ndarray
    actions: np.ndarray
    real: np.ndarray

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 5 or 0 in self.frames.shape[1:]:
            raise ValueError(
                f"frames must be uint8 of shape (N, L, H, W, C), got {self.frames.dtype} of shape {self.frames.shape}"
            )
        count, length = self.frames.shape[:2]
        discrete = self.actions.ndim == 2 and self.actions.dtype == np.int64
        vector = self.actions.ndim == 3 and self.actions.dtype == np.float32
        if not (discrete or vector) or self.actions.shape[:2] != (count, length - 1):
            raise ValueError(
                f"for frames of shape {self.frames.shape}, actions must be int64 of shape ({count}, {length - 1}) or "
                f"float32 of shape ({count}, {length - 1}, A), got {self.actions.dtype} of shape {self.actions.shape}"
            )
        if self.real.dtype != np.bool_ or self.real.shape != (count, length):
            raise ValueError(
                f"real must be bool of shape ({count}, {length}), got {self.real.dtype} of shape {self.real.shape}"
            )
        if not self.real[:, -1].all() or (self.real[:, :-1] & ~self.real[:, 1:]).any():
            raise ValueError("a context is padded only before its real frames, and its last frame is real")

    def __len__(self) -> int:
        """The number of contexts, N."""
        return len(self.frames)

    @property
    def length(self) -> int:
        """Frames a context, L."""
        return int(self.frames.shape[1])

    def __getitem__(self, indices: int | slice | Sequence[int] | np.ndarray) -> Contexts:
        """Some of the contexts; of a single index, a batch of one.

        Raises:
            IndexError: An index is out of range.
        """
        if not isinstance(indices, slice):
            indices = np.atleast_1d(np.asarray(indices))
            if len(indices) == 0:
                indices = indices.astype(np.int64)  # an empty list makes an array of floats
        return Contexts(self.frames[indices], self.actions[indices], self.real[indices])

    def sample(self, count: int, rng: np.random.Generator) -> Contexts:
        """Draw contexts independently, each equally likely.

        Args:
            count: How many.
            rng: Its state fixes the draw.

        Raises:
            ValueError: There are none to draw from.
        """
        if len(self) == 0:
            raise ValueError("cannot draw from an empty set of contexts")
        return self[rng.integers(0, len(self), count)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the contexts as a safetensors file, atomically.

        Raises:
            OSError: As in `gym_dream.files.atomic_write`.
        """
        metadata = {"format": CONTEXTS_FORMAT, "version": str(CONTEXTS_VERSION)}
        save_tensors(path, {"frames": self.frames, "actions": self.actions, "real": self.real}, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Contexts:
        """Read contexts; anything missing, unknown, misshapen or of another type is an error.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file does not hold contexts that this version can read; the message names file and fault.
        """
        tensors, metadata = load_tensors(path, required=_TENSORS)
        check_format(path, metadata, CONTEXTS_FORMAT, CONTEXTS_VERSION, ("format", "version"))
        try:
            return cls(**tensors)
        except ValueError as error:
            raise ValueError(f"{path} does not hold sound contexts: {error}") from error


def start_contexts(episodes: Sequence[Episode], length: int) -> Contexts:
    """Take the first frames of each game: where "start" dreams begin.

    Games that lose a life or end before a step from the last of these frames are left out, and so are those whose
    beginning was changed (`EpisodeInfo.start`).

    Args:
        episodes: Whole games.
        length: Frames a context, L.

    Raises:
        ValueError: No episodes or none long enough, or episodes that do not fit together.
    """
    _check_length(length)
    check_episodes(episodes)
    unchanged = [e for e in episodes if not e.info.start]
    if not unchanged:
        raise ValueError(_all_changed(episodes))
    usable = [e for e in unchanged if len(e) >= length and not e.terminated[: length - 1].any()]
    if not usable:
        raise ValueError(f"not one of {len(unchanged)} episodes begins with {length} steps without an ending")
    return Contexts(
        frames=np.stack([e.frames[:length] for e in usable]),
        actions=np.stack([e.actions[: length - 1] for e in usable]),
        real=np.ones((len(usable), length), np.bool_),
    )


class ContextSampler:
    """Draws "replay" contexts: any moment of recorded play from which the game went on.

    Args:
        episodes: Whole games, oldest first. Their frames are not copied.
        length: Frames a context, L.
        ending: What ends a span, before whose start contexts are padded: "life" or "game".
        recency: As in `gym_dream.data.SegmentSampler`.
        first_share: Of the contexts, this share is drawn from the first frames of spans, each span equally likely, all
            before it padding: what an agent sees when a life begins, rare among all moments, and has to get on from.
            Not from the first of a game whose beginning was changed (`EpisodeInfo.start`).

    Raises:
        ValueError: An argument that cannot be, or episodes that do not fit together.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        length: int,
        *,
        ending: Ending = "life",
        recency: Sequence[float] | None = None,
        first_share: float = 0.0,
    ) -> None:
        _check_length(length)
        if not 0 <= first_share <= 1:
            raise ValueError(f"first_share: expected a share of the contexts, from 0 to 1, got {first_share}.")
        self.length, self.first_share = length, first_share
        self.spans = Spans(episodes, ending=ending, recency=recency)
        unchanged = np.array([not episode.info.start for episode in episodes])
        self._begin = np.flatnonzero((self.spans.start > 0) | unchanged[self.spans.episode])  # spans that lives begin
        if first_share and not len(self._begin):
            raise ValueError(f"first_share: {_all_changed(episodes)}.")

    def sample(self, count: int, rng: np.random.Generator) -> Contexts:
        """Draw contexts independently, in fresh arrays.

        A context's last frame is a frame from which a step was taken, so no dream begins after its ending.

        Args:
            count: How many.
            rng: Its state fixes the draw.
        """
        spans, step = self.spans.draw(count, rng)
        if self.first_share:
            chosen, begun = rng.random(count) < self.first_share, self._begin[rng.integers(0, len(self._begin), count)]
            spans, step = np.where(chosen, begun, spans), np.where(chosen, 0, step)
        drawn = self.spans.gather(spans, step - (self.length - 1), self.length)
        return Contexts(drawn.frames, drawn.actions, drawn.mask)


def _all_changed(episodes: Sequence[Episode]) -> str:
    return (
        f"the beginnings of all {len(episodes)} games were changed ({episodes[0].info.start}), so there is none for a "
        "dream to start from: record games without that, enough that some of them are held out where a model is fitted"
    )


def _check_length(length: int) -> None:
    if length < 1:
        raise ValueError(f"a context needs at least 1 frame, got {length}")
