"""Open-loop replays: a dream begins at a real moment and follows the actions that were really taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from gym_dream.data.contexts import Contexts
from gym_dream.data.episode import Episode
from gym_dream.data.segments import Ending, Spans
from gym_dream.dream import Dream
from gym_dream.dynamics import Dynamics


@dataclass(frozen=True, eq=False)
class Windows:
    """N stretches of real play, each within one span: a context of L frames and the K steps that followed it.

    Attributes:
        contexts: what the dreams begin from.
        actions: int64 (N, K), or float32 (N, K, A).
        frames: uint8 (N, K, H, W, C), where these actions really led.
        episode: int64 (N,), the game of each, counted from 0 in the given episodes.
        first_step: int64 (N,), the first of the K steps, counted from the start of its game.
    """

    contexts: Contexts
    actions: np.ndarray
    frames: np.ndarray
    episode: np.ndarray
    first_step: np.ndarray

    def __len__(self) -> int:
        """The number of windows, N."""
        return len(self.frames)

    def __getitem__(self, rows: slice) -> Windows:
        """Some of the windows."""
        return Windows(
            self.contexts[rows], self.actions[rows], self.frames[rows], self.episode[rows], self.first_step[rows]
        )


def longest_window(episodes: Sequence[Episode], context_length: int, *, ending: Ending = "life") -> int:
    """The most steps K that a window can have in these games; below 1 if there is none."""
    return int(Spans(episodes, ending=ending).length.max()) - (context_length - 1)


def draw_windows(
    episodes: Sequence[Episode],
    context_length: int,
    steps: int,
    count: int,
    seed: int,
    *,
    ending: Ending = "life",
    begins: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Windows:
    """Draw random windows that no ending interrupts, turn by turn from every game that has one left.

    So the first windows come from different games, as far as there are as many.

    Args:
        episodes: real games.
        context_length: frames of a context, L.
        steps: K.
        count: the most windows to draw; there may be fewer.
        seed: fixes the draw.
        ending: what interrupts: the end of a life or only of the game.
        begins: given frames uint8 (M, H, W, C), says in which of them a dream may begin, bool (M,); None: in all.

    Raises:
        ValueError: not one such window.
    """
    rng = np.random.default_rng(seed)
    spans = Spans(episodes, ending=ending)
    candidates: list[list[tuple[int, int]]] = [[] for _ in episodes]  # of each game: (span, first frame in the span)
    for span in range(len(spans)):
        episode, start, room = spans.episode[span], spans.start[span], spans.length[span] - (context_length - 1) - steps
        if room < 0:
            continue
        first = np.arange(room + 1)
        if begins is not None:
            first = first[begins(episodes[episode].frames[start + context_length - 1 :][: room + 1])]
        candidates[episode] += [(span, offset) for offset in first.tolist()]
    for game in candidates:
        rng.shuffle(game)
    order = rng.permutation(len(episodes)).tolist()
    deepest = max(len(game) for game in candidates)
    drawn = [candidates[game][turn] for turn in range(deepest) for game in order if turn < len(candidates[game])]
    if not drawn:
        raise ValueError(
            f"not one of {len(episodes)} games has {context_length - 1 + steps} steps without an ending"
            + (" after a frame to begin from" if begins else "")
            + ". Ask for fewer steps, or give more or longer games"
        )
    span, first = np.array(drawn[:count]).T
    segments = spans.gather(span, first, context_length + steps)
    length = context_length
    return Windows(
        contexts=Contexts(segments.frames[:, :length], segments.actions[:, : length - 1], segments.mask[:, :length]),
        actions=segments.actions[:, length - 1 :],
        frames=segments.frames[:, length:],
        episode=spans.episode[span],
        first_step=spans.start[span] + first + length - 1,
    )


def replay(
    dynamics: Dynamics, windows: Windows, *, seed: int = 0, max_batch: int = 64, progress: bool = False
) -> np.ndarray:
    """Dream through the windows under their real actions; what the dream says of rewards and endings is ignored.

    Window i draws its noise from the seed ``seed + i``, whatever the batch.

    Args:
        dynamics: what dreams.
        windows: where and under which actions.
        seed: of the noise.
        max_batch: the most dreams at a time.
        progress: show a progress bar.

    Returns:
        uint8 (N, K, H, W, C), to compare with ``windows.frames``.
    """
    dreamt = np.empty_like(windows.frames)
    steps = windows.actions.shape[1]
    with tqdm(total=len(windows) * steps, unit="frame", disable=not progress) as bar:
        for begin in range(0, len(windows), max_batch):
            part = windows[begin : begin + max_batch]
            seeds = range(seed + begin, seed + begin + len(part))
            dream = Dream(dynamics, num_dreams=len(part), contexts=part.contexts, horizon=-1, seed=seeds)
            dream.reset(contexts=part.contexts)
            for step in range(steps):
                dreamt[begin : begin + len(part), step] = dream.step(part.actions[:, step]).observation.cpu().numpy()
                bar.update(len(part))
    return dreamt


def repeat_last_frame(windows: Windows) -> np.ndarray:
    """The plainest forecast, to compare with: nothing changes. uint8 (N, K, H, W, C)."""
    return np.broadcast_to(windows.contexts.frames[:, -1:], windows.frames.shape)
