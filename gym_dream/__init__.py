"""Trained world models as ordinary Gymnasium environments.

Importing this package registers ``Dream/<Game>-v0`` and ``DreamEnv-v0`` with Gymnasium and loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gym_dream.registration import register_envs

if TYPE_CHECKING:
    from gym_dream import real
    from gym_dream.dream import Dream
    from gym_dream.world_model import WorldModel

__all__ = ["Dream", "WorldModel", "real"]

register_envs()


def __getattr__(name: str) -> Any:
    """Import what needs torch or ALE when it is first used."""
    match name:
        case "Dream":
            return importlib.import_module("gym_dream.dream").Dream
        case "WorldModel":
            return importlib.import_module("gym_dream.world_model").WorldModel
        case "real":
            return importlib.import_module("gym_dream.real")
    raise AttributeError(f"module 'gym_dream' has no attribute {name!r}")
