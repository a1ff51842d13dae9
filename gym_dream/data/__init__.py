"""Real play as data: episodes, the store, segments and contexts."""

from gym_dream.data.episode import Episode, EpisodeInfo, split_held_out
from gym_dream.data.store import EpisodeStore

__all__ = ["Episode", "EpisodeInfo", "EpisodeStore", "split_held_out"]
