"""Random stretches of recorded play, padded and batched, for training world models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gym_dream.data.episode import Episode

Ending = Literal["life", "game"]

#: DIAMOND's weights of the four quarters of the replay, oldest first.
RECENCY = (0.1, 0.1, 0.1, 0.7)


@dataclass(frozen=True, eq=False)
class Segments:
    """A batch of B stretches of T frames and the T - 1 steps between them.

    Step i leads from frame i to frame i + 1 and is real if both are: `mask[:, :-1] & mask[:, 1:]`. Where a frame or
    step is padding it holds zeros. Networks see a padded frame as mid-grey, which `mask` tells them.

    Attributes:
        frames: uint8 (B, T, H, W, C).
        actions: int64 (B, T - 1), or float32 (B, T - 1, A).
        rewards: float32 (B, T - 1), raw.
        terminated: bool (B, T - 1).
        mask: bool (B, T), the frame is real.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Places:
    """Where the segments of a batch lie: all that is random about them, before a frame is copied.

    Attributes:
        spans: int64 (B,), the span of each.
        first: int64 (B,), the position in its span of each segment's first frame; negative where padding comes first.
        mask: bool (B, T), as in `Segments`.
    """

    spans: np.ndarray
    first: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Emphasis:
    """Steps to draw more often than chance would.

    Attributes:
        steps: Of each episode, bool (T,), the steps that count.
        share: Of the segments, in [0, 1]: so many are drawn around such a step, each equally likely. A later
            emphasis draws its share of all segments, so of an earlier one's as many are lost.
        window: The step lies among the last so many steps of its segment (where the span is long enough).
    """

    steps: Sequence[np.ndarray]
    share: float
    window: int


class Spans:
    """Episodes cut where an ending rule ends them, and which cut to draw from how often.

    A span of n steps has n + 1 frames; under the rule "life" the last frame of a life is also the first of the next.
    The episodes' frames are used where they are; the arrays of single numbers a step are joined into one.

    Args:
        episodes: Whole games, oldest first, of one frame shape and one kind of action.
        ending: "life": each life is a span, which ends terminated; "game": each game is, and a lost life is nothing.
        recency: None draws every step equally often. Otherwise weights, oldest first: the spans are cut by count into
            as many equal parts (what is left over goes to the last), a part is drawn by its weight, then any of its
            spans, whatever its length. With fewer spans than weights as with None. See `RECENCY`.

    Raises:
        ValueError: No episodes, episodes that do not fit together, an unknown rule, or weights that cannot be.
    """

    def __init__(
        self, episodes: Sequence[Episode], *, ending: Ending = "life", recency: Sequence[float] | None = None
    ) -> None:
        check_episodes(episodes)
        if ending not in ("life", "game"):
            raise ValueError(f"the ending rule must be 'life' or 'game', got {ending!r}")
        self._frames = [episode.frames for episode in episodes]
        self._actions = np.concatenate([episode.actions for episode in episodes])
        self._rewards = np.concatenate([episode.rewards for episode in episodes])
        ends = [_terminated(episode, ending) for episode in episodes]
        self._terminated = np.concatenate(ends)

        stops = [np.union1d(np.flatnonzero(end) + 1, len(end)) for end in ends]  # a span ends before this step
        stop = np.concatenate(stops)
        #: int64 (S,): the episode of each span, and its first step (or frame) there.
        self.episode = np.repeat(np.arange(len(episodes)), [len(part) for part in stops])
        self.start = np.concatenate([np.concatenate([[0], part[:-1]]) for part in stops])
        #: int64 (S,): how many steps each span has.
        self.length = stop - self.start
        lengths = np.array([len(episode) for episode in episodes])
        self._first_step = (np.cumsum(lengths) - lengths)[self.episode] + self.start  # in the joined arrays
        #: float64 (S,): how likely each span is to be drawn.
        self.weight = _weights(self.length, recency)
        self._cumulative = np.cumsum(self.weight)

    def __len__(self) -> int:
        """The number of spans."""
        return len(self.length)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw random steps.

        Returns:
            int64 (count,): the spans, and the steps, counted from each span's first, each equally likely in its span.
        """
        place = rng.random(count) * self._cumulative[-1]
        # Rounding can put the product on the upper edge, past the last span.
        spans = np.minimum(np.searchsorted(self._cumulative, place, side="right"), len(self) - 1)
        return spans, rng.integers(0, self.length[spans])

    def locate(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where steps of the joined episodes lie, int64 (count,): their spans, and their places there."""
        spans = np.searchsorted(self._first_step, steps, side="right") - 1
        return spans, steps - self._first_step[spans]

    def real(self, spans: np.ndarray, first: np.ndarray, num_frames: int) -> np.ndarray:
        """Which frames of stretches, as `gather` takes them, lie in their spans: bool (B, T)."""
        position = first[:, None] + np.arange(num_frames)
        return (position >= 0) & (position <= self.length[spans][:, None])

    def gather(self, spans: np.ndarray, first: np.ndarray, num_frames: int) -> Segments:
        """Copy stretches out of spans, with padding wherever they reach outside.

        Args:
            spans: int64 (B,), the spans.
            first: int64 (B,), the position of each stretch's first frame in its span, which may be negative.
            num_frames: Frames a stretch, at least 1.
        """
        position = first[:, None] + np.arange(num_frames)
        mask = self.real(spans, first, num_frames)
        real = mask[:, :-1] & mask[:, 1:]
        step = np.where(real, self._first_step[spans][:, None] + position[:, :-1], 0)
        actions = self._actions[step]
        actions[~real] = 0
        return Segments(
            frames=self._gather_frames(spans, first, num_frames),
            actions=actions,
            rewards=np.where(real, self._rewards[step], np.float32(0)),
            terminated=self._terminated[step] & real,
            mask=mask,
        )

    def _gather_frames(self, spans: np.ndarray, first: np.ndarray, num_frames: int) -> np.ndarray:
        # One copy a stretch and none a frame; the episodes stay where they are, so they cannot be indexed as one array.
        begin = np.maximum(-first, 0)  # of what is real, in the stretch
        end = np.clip(self.length[spans] + 1 - first, begin, num_frames)
        source = self.start[spans] + first
        frames = np.zeros((len(spans), num_frames, *self._frames[0].shape[1:]), np.uint8)
        rows = zip(frames, self.episode[spans].tolist(), begin.tolist(), end.tolist(), source.tolist(), strict=True)
        for row, episode, low, high, offset in rows:
            row[low:high] = self._frames[episode][offset + low : offset + high]
        return frames


class SegmentSampler:
    """Draws batches of segments.

    As in DIAMOND (arXiv 2405.12399), a segment lies at a uniform offset around a uniform step; all of it that
    falls outside the span of that step (a life, or a game) is padding. The drawn step is always among the
    segment's, so no segment is all padding. (The released code draws a frame instead of a step, so one segment in
    some thousands there holds no step at all.)

    Args:
        episodes: Whole games, oldest first. Their frames are not copied.
        num_frames: Frames a segment, at least 2; it has one step fewer.
        beyond_end: False (for the denoiser) moves a segment that would run past the end back onto it, so padding
            comes only before the start; True (for the reward and termination model) pads there too.
        ending: What ends a span: "life" or "game".
        recency: None (every step equally likely) or weights of the parts of the replay; see `Spans` and `RECENCY`.
        emphasis: Steps to draw more often, of several kinds; the other segments are drawn as above.

    Raises:
        ValueError: An argument that cannot be, or episodes that do not fit together.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        num_frames: int,
        *,
        beyond_end: bool,
        ending: Ending = "life",
        recency: Sequence[float] | None = None,
        emphasis: Sequence[Emphasis] = (),
    ) -> None:
        if num_frames < 2:
            raise ValueError(f"a segment needs at least 2 frames, got {num_frames}")
        self._emphasis = [(kind, _emphasised_steps(episodes, kind, num_frames)) for kind in emphasis]
        self.num_frames = num_frames
        self.beyond_end = beyond_end
        self.spans = Spans(episodes, ending=ending, recency=recency)

    def sample(self, batch_size: int, rng: np.random.Generator) -> Segments:
        """Draw segments independently, in fresh arrays: `draw`, then `gather`."""
        return self.gather(self.draw(batch_size, rng))

    def draw(self, batch_size: int, rng: np.random.Generator) -> Places:
        """Draw independently where segments lie.

        Args:
            batch_size: How many.
            rng: Its state fixes the draw.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        spans, step = self.spans.draw(batch_size, rng)
        offset = rng.integers(0, self.num_frames - 1, batch_size)
        for emphasis, steps in self._emphasis:
            if not len(steps):
                continue
            chosen = rng.random(batch_size) < emphasis.share
            there = self.spans.locate(rng.choice(steps, batch_size))
            spans, step = (np.where(chosen, *pair) for pair in zip(there, (spans, step), strict=True))
            # Counted from the segment's end, or (beyond_end) from its start.
            near_end = rng.integers(0, emphasis.window, batch_size)
            near_end = self.num_frames - 2 - near_end if self.beyond_end else near_end
            offset = np.where(chosen, near_end, offset)
        if self.beyond_end:
            first = step - offset
        else:
            last = np.minimum(step + 1 + offset, self.spans.length[spans])
            first = last - (self.num_frames - 1)
        return Places(spans, first, self.spans.real(spans, first, self.num_frames))

    def gather(self, places: Places, rows: slice = slice(None)) -> Segments:
        """Copy the segments at some rows of the places, or at all of them, into fresh arrays."""
        return self.spans.gather(places.spans[rows], places.first[rows], self.num_frames)


def _emphasised_steps(episodes: Sequence[Episode], emphasis: Emphasis, num_frames: int) -> np.ndarray:
    """The steps to emphasise, counted through all episodes."""
    if not 0 <= emphasis.share <= 1 or not 1 <= emphasis.window < num_frames:
        raise ValueError(
            f"emphasis: expected a share from 0 to 1 and a window from 1 to {num_frames - 1} steps, got "
            f"{emphasis.share} and {emphasis.window}"
        )
    shapes = [steps.shape for steps in emphasis.steps]
    if shapes != [(len(episode),) for episode in episodes]:
        raise ValueError(f"emphasis: expected a flag for each step of the {len(episodes)} episodes, got {shapes}")
    return np.flatnonzero(np.concatenate(emphasis.steps))


def first_steps(episode: Episode, ending: Ending) -> np.ndarray:
    """The first step of each of an episode's lives (or, by the ending rule "game", of the game), bool (T,).

    The first of a game whose beginning was changed (`EpisodeInfo.start`) is none: so no other game begins.
    """
    return np.concatenate([[not episode.info.start], _terminated(episode, ending)[:-1]])


def _terminated(episode: Episode, ending: Ending) -> np.ndarray:
    if ending == "life":
        return episode.terminated
    terminated = np.zeros_like(episode.terminated)
    terminated[-1] = episode.game_over
    return terminated


def _weights(length: np.ndarray, recency: Sequence[float] | None) -> np.ndarray:
    if recency is not None:
        parts = np.asarray(recency, np.float64)
        if parts.ndim != 1 or len(parts) == 0 or not np.isfinite(parts).all() or (parts < 0).any() or parts.sum() == 0:
            raise ValueError(f"recency must be weights >= 0, oldest first, not all 0, got {recency!r}")
        if len(length) >= len(parts):
            sizes = np.full(len(parts), len(length) // len(parts))
            sizes[-1] += len(length) % len(parts)
            return np.repeat(parts / parts.sum() / sizes, sizes)
    return length / length.sum()


def check_episodes(episodes: Sequence[Episode]) -> None:
    """Raise ValueError unless there are episodes, all of one frame shape and one kind of action."""
    if len(episodes) == 0:
        raise ValueError("expected at least one episode, got none")
    kinds = [(e.frames.shape[1:], e.actions.shape[1:], e.actions.dtype) for e in episodes]
    for index, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise ValueError(
                f"all episodes must have the same frames and actions; the first has frames {kinds[0][0]} and actions "
                f"{kinds[0][1]} of {kinds[0][2]}, episode {index} has {kind[0]} and {kind[1]} of {kind[2]}"
            )
