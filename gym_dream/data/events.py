"""Which steps of a game are worth a second look: they are rare, and a model that misses them is of no use."""

from __future__ import annotations

import numpy as np

from gym_dream import breakout
from gym_dream.data.episode import Episode

SCENE_SHARE = 0.1  # of the pixels; Breakout's next wall is 0.15 of them, a ball, a brick and a digit 0.01
SCENE_LEVELS = 32  # of 255, by which some channel of theirs changes


def eventful(episode: Episode) -> np.ndarray:
    """The steps of a game at which something happens, bool (T,).

    Of any game: a reward or an ending. Where the console's memory is recorded and understood, also what the objects do:
    see `gym_dream.breakout.ball_events`.
    """
    events = (episode.rewards != 0) | episode.terminated
    if episode.info.env.get("game") == "Breakout" and episode.ram is not None:
        events |= breakout.ball_events(episode.ram)
    return events


def scene_changes(episode: Episode) -> np.ndarray:
    """The steps at which much of the picture changes at once, bool (T,): a new level, the next room, another wall."""
    changes = np.zeros(len(episode), np.bool_)
    for step in range(len(changes)):
        before, after = episode.frames[step : step + 2].astype(np.int16)
        changes[step] = (np.abs(after - before).max(axis=-1) > SCENE_LEVELS).mean() > SCENE_SHARE
    return changes
