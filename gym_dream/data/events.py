"""Which steps of a game are worth a second look: they are rare, and a model that misses them is of no use."""

from __future__ import annotations

import numpy as np

from gym_dream import breakout
from gym_dream.data.episode import Episode


def eventful(episode: Episode) -> np.ndarray:
    """The steps of a game at which something happens, bool (T,).

    Of any game: a reward or an ending. Where the console's memory is recorded and understood, also what the objects do:
    see `gym_dream.breakout.ball_events`.
    """
    events = (episode.rewards != 0) | episode.terminated
    if episode.info.env.get("game") == "Breakout" and episode.ram is not None:
        events |= breakout.ball_events(episode.ram)
    return events
