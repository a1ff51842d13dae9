"""What a policy is worth: a few episodes of it in the real game, and in the dream beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from gym_dream.dynamics import DreamModel
from gym_dream.evaluation.play import DreamWorld, play, real_world
from gym_dream.evaluation.returns import WorldFigures, world_figures
from gym_dream.policy import Policy
from gym_dream.settings import open_model

WorldName = Literal["dream", "real"]


def evaluate_policy(
    policy: Policy,
    model: str | Path | DreamModel,
    world: WorldName = "real",
    *,
    episodes: int = 100,
    horizon: int = 1000,
    num_envs: int = 8,
    seed: int = 0,
    device: str = "auto",
    **model_kwargs: Any,
) -> WorldFigures:
    """Play a policy in the game that a world model dreams of, or in its dreams.

    An episode is what the model's ``config.env`` calls one (for Atari the first life of a game), begun by the opening
    actions of the model's starts in both worlds; episode i draws from seed + i, whoever plays. To compare many
    policies in both worlds, and keep what was played, see `gym_dream.evaluation.compare`.

    Args:
        policy: what plays.
        model: a world model, a folder, or the name of one that ships.
        world: ``"real"`` or ``"dream"``.
        episodes: how many.
        horizon: steps after which an episode is cut off.
        num_envs: episodes at a time, at most.
        seed: of world and policy. Use others than the policy was trained on.
        device: where dreams run.
        **model_kwargs: the model's own settings, such as ``num_denoising_steps``; of no matter in the game.

    Returns:
        Means with 95% bootstrap intervals over the episodes.

    Raises:
        FileNotFoundError: the model is not on this machine.
        ValueError: another world, no episodes, or a model that names no real game.
    """
    if world not in ("dream", "real"):
        raise ValueError(f"world must be 'dream' or 'real', got {world!r}.")
    if episodes < 1:
        raise ValueError(f"episodes: expected at least 1, got {episodes}.")
    opened = open_model(model)
    rows = min(num_envs, episodes)
    if world == "dream":
        dynamics = opened.dynamics(device=device, **model_kwargs)
        played = play(DreamWorld(dynamics, opened.starts, rows, seed), policy, episodes, horizon, seed)
    else:
        games = real_world(opened.config.env, opened.starts, rows, seed)
        try:
            played = play(games, policy, episodes, horizon, seed)
        finally:
            games.close()
    return world_figures(played, (horizon,))


def score_lines(
    players: Mapping[str, Policy],
    model: str | Path | DreamModel,
    dream_episodes: int = 24,
    real_episodes: int = 100,
    **settings: Any,
) -> Iterator[str]:
    """A table of what policies are worth, each line as soon as it is known.

    Args:
        players: policies, by the names that the table gives them.
        model: see `evaluate_policy`.
        dream_episodes: how many each plays in the dream; 0 leaves it out.
        real_episodes: the same in the real game.
        **settings: others of `evaluate_policy`.
    """
    wide = max(map(len, ["player", *players]))
    yield f"{'world':6} {'player':{wide}} {'return [95% interval]':>24} {'steps':>7} {'points':>8} {'episodes':>9}"
    worlds: tuple[tuple[WorldName, int], ...] = (("dream", dream_episodes), ("real", real_episodes))
    for world, count in worlds:
        if count == 0:
            continue
        for name, policy in players.items():
            found = evaluate_policy(policy, model, world, episodes=count, **settings)
            points = "-" if found.points is None else f"{found.points.mean:.2f}"
            yield f"{world:6} {name:{wide}} {found.returns!s:>24} {found.length.mean:7.1f} {points:>8} {count:9}"
