"""Gymnasium ids: ``Dream/<Game>-v0`` for the games of the Atari 100k benchmark, ``DreamEnv-v0`` for any world model."""

from __future__ import annotations

import gymnasium as gym

from gym_dream.games import GAMES

HORIZON = 1000  # steps until a dream is truncated, unless told otherwise


def register_envs() -> None:
    """Register all ids, by strings: nothing heavy is imported before an environment is made."""
    _register("DreamEnv-v0")
    for game in GAMES:
        _register(f"Dream/{game.name}-v0", model=game.name.lower())


def model_of(env_id: str) -> str:
    """The world model that an id stands for.

    Raises:
        ValueError: it stands for none.
        gymnasium.error.Error: there is no such id.
    """
    model: str | None = gym.spec(env_id).kwargs.get("model")
    if model is None:
        raise ValueError(f"{env_id} needs a world model: name one (model), or choose an id such as Dream/Breakout-v0.")
    return model


def _register(env_id: str, **kwargs: str) -> None:
    gym.register(
        id=env_id,
        entry_point="gym_dream.env:DreamEnv",
        vector_entry_point="gym_dream.vector_env:DreamVectorEnv",
        max_episode_steps=HORIZON,
        kwargs=kwargs,
    )
