"""Real play as data: episodes, the store, segments and contexts."""

from gym_dream.data.contexts import Contexts, ContextSampler, start_contexts
from gym_dream.data.episode import Episode, EpisodeInfo, split_held_out
from gym_dream.data.events import eventful, scene_changes
from gym_dream.data.segments import RECENCY, Emphasis, Places, Segments, SegmentSampler, first_steps
from gym_dream.data.store import EpisodeStore

__all__ = [
    "RECENCY",
    "ContextSampler",
    "Contexts",
    "Emphasis",
    "Episode",
    "EpisodeInfo",
    "EpisodeStore",
    "Places",
    "SegmentSampler",
    "Segments",
    "eventful",
    "first_steps",
    "scene_changes",
    "split_held_out",
    "start_contexts",
]
