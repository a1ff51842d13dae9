"""Open-loop replays: a dream begins at a real moment and follows the actions that were really taken."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from tqdm import tqdm

from gym_dream.data.contexts import Contexts
from gym_dream.data.episode import Episode
from gym_dream.data.segments import Ending, Spans
from gym_dream.dream import Dream
from gym_dream.dynamics import Dynamics


@dataclass(frozen=True, eq=False)
class Windows:
    """N stretches of real play, each within one span: a context of L frames and the steps that followed it, up to K.

    Where a window is shorter than K, what lies beyond its last step is zeros.

    Attributes:
        contexts: what the dreams begin from.
        actions: int64 (N, K), or float32 (N, K, A).
        frames: uint8 (N, K, H, W, C), where these actions really led.
        episode: int64 (N,), the game of each, counted from 0 in the given episodes.
        first_step: int64 (N,), the first of the K steps, counted from the start of its game.
        length: int64 (N,), how many steps each has.
        rewards: int64 (N, K), the signs of what these steps really paid.
        terminated: bool (N, K), really ended there; only the last step of a window can.
    """

    contexts: Contexts
    actions: np.ndarray
    frames: np.ndarray
    episode: np.ndarray
    first_step: np.ndarray
    length: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray

    def __len__(self) -> int:
        """The number of windows, N."""
        return len(self.frames)

    def __getitem__(self, rows: slice | np.ndarray) -> Windows:
        """Some of the windows."""
        return Windows(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def inside(self) -> np.ndarray:
        """Which steps there are, bool (N, K)."""
        return np.arange(self.frames.shape[1]) < self.length[:, None]

    def with_context(self, length: int) -> Windows:
        """The same windows with only the last frames of their contexts, for a model that begins from fewer."""
        cut = self.contexts.length - length
        if cut < 0:
            raise ValueError(f"The windows' contexts have {self.contexts.length} frames, expected at least {length}.")
        contexts = Contexts(self.contexts.frames[:, cut:], self.contexts.actions[:, cut:], self.contexts.real[:, cut:])
        return replace(self, contexts=contexts)


def longest_window(episodes: Sequence[Episode], context_length: int, *, ending: Ending = "life") -> int:
    """The most steps K that a window can have in these games; below 1 if there is none."""
    return int(Spans(episodes, ending=ending).length.max()) - (context_length - 1)


def draw_windows(
    episodes: Sequence[Episode],
    context_length: int,
    steps: int | Sequence[int],
    count: int,
    seed: int,
    *,
    ending: Ending = "life",
    begins: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Windows:
    """Draw random windows, turn by turn from every game that has one left.

    So the first windows come from different games, as far as there are as many. With a single number of steps, no
    ending interrupts a window (though one may lie at its last step). With several, the windows take turns: each is
    drawn among those that have at least so many steps, and then goes on to the largest number or to the ending that
    comes before. So some reach the largest, and some end. A number of steps for which nothing is left is passed over,
    and each round of the games begins with the next number, so that no game always gets the same.

    Args:
        episodes: real games.
        context_length: frames of a context, L.
        steps: K, or several, of which the largest is K.
        count: the most windows to draw; there may be fewer.
        seed: fixes the draw.
        ending: what interrupts: the end of a life or only of the game.
        begins: given frames uint8 (M, H, W, C), says in which of them a dream may begin, bool (M,); None: in all.

    Raises:
        ValueError: not one window of K steps.
    """
    wanted = [steps] if isinstance(steps, int) else list(steps)
    most = max(wanted)
    rng = np.random.default_rng(seed)
    spans = Spans(episodes, ending=ending)
    # Of each game: (span, first frame in the span, steps from the context's last frame to the span's end).
    candidates: list[list[tuple[int, int, int]]] = [[] for _ in episodes]
    for span in range(len(spans)):
        room = spans.length[span] - (context_length - 1)
        if room < min(wanted):
            continue
        episode, start, first = spans.episode[span], spans.start[span], np.arange(room - min(wanted) + 1)
        if begins is not None:
            first = first[begins(episodes[episode].frames[start + context_length - 1 :][: len(first)])]
        candidates[episode] += [(span, offset, room - offset) for offset in first.tolist()]
    if not any(room >= most for game in candidates for *_, room in game):
        longest = longest_window(episodes, context_length, ending=ending)
        raise ValueError(
            f"not one of {len(episodes)} games has {context_length - 1 + most} steps without an ending"
            + (" after a frame to begin from" if begins else "")
            + (f"; after {context_length - 1} steps of context the longest has {longest}" if longest < most else "")
            + ". Ask for fewer steps, or give more or longer games"
        )
    for game in candidates:
        rng.shuffle(game)
    order = rng.permutation(len(episodes)).tolist()
    drawn: list[tuple[int, int]] = []
    for begin in itertools.count():
        left = max((room for game in candidates for *_, room in game), default=0)
        needs = [need for need in wanted if need <= left]
        if not needs or len(drawn) == count:
            break
        turn = begin
        for episode in order:
            place = next(
                (i for i, (*_, room) in enumerate(candidates[episode]) if room >= needs[turn % len(needs)]), None
            )
            if place is not None and len(drawn) < count:
                drawn.append(candidates[episode].pop(place)[:2])
                turn += 1
    span, first = np.array(drawn).T
    segments = spans.gather(span, first, context_length + most)
    length = context_length
    return Windows(
        contexts=Contexts(segments.frames[:, :length], segments.actions[:, : length - 1], segments.mask[:, :length]),
        actions=segments.actions[:, length - 1 :],
        frames=segments.frames[:, length:],
        episode=spans.episode[span],
        first_step=spans.start[span] + first + length - 1,
        length=segments.mask[:, length:].sum(axis=1),
        rewards=np.sign(segments.rewards[:, length - 1 :]).astype(np.int64),
        terminated=segments.terminated[:, length - 1 :],
    )


def replay(
    dynamics: Dynamics, windows: Windows, *, seed: int = 0, max_batch: int = 64, progress: bool = False
) -> np.ndarray:
    """Dream through the windows under their real actions; what the dream says of rewards and endings is ignored.

    Window i draws its noise from the seed ``seed + i``, whatever the batch. Windows of like length share a batch, which
    ends with the longest of them.

    Args:
        dynamics: what dreams.
        windows: where and under which actions.
        seed: of the noise.
        max_batch: the most dreams at a time.
        progress: show a progress bar.

    Returns:
        uint8 (N, K, H, W, C), to compare with ``windows.frames``; zeros beyond a window's length.
    """
    dreamt = np.zeros_like(windows.frames)
    order = np.argsort(-windows.length, kind="stable")
    with tqdm(total=int(windows.length.sum()), unit="frame", disable=not progress) as bar:
        for begin in range(0, len(windows), max_batch):
            rows = order[begin : begin + max_batch]
            part = windows[rows]
            dream = Dream(
                dynamics, num_dreams=len(part), contexts=part.contexts, horizon=-1, seed=[seed + int(i) for i in rows]
            )
            dream.reset(contexts=part.contexts)
            for step in range(int(part.length.max())):
                going = part.length > step
                observation = dream.step(part.actions[:, step]).observation.cpu().numpy()
                dreamt[rows[going], step] = observation[going]
                bar.update(int(going.sum()))
    return dreamt


def repeat_last_frame(windows: Windows) -> np.ndarray:
    """The plainest forecast, to compare with: nothing changes. uint8 (N, K, H, W, C)."""
    return np.broadcast_to(windows.contexts.frames[:, -1:], windows.frames.shape)
