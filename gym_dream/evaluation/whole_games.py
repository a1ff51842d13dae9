"""Scores as papers report them: whole games, all lives, the game's own points, nothing clipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from gym_dream.evaluation.play import EpisodeResult, RealWorld, play
from gym_dream.policy import Policy

MAX_STEPS = 27_000  # half an hour of play at 15 steps a second, after which ALE's own environments cut a game off
GAMES_AT_A_TIME = 8


def play_whole_games(
    make: Callable[[], gym.Env[np.ndarray, Any]],
    policy: Policy,
    games: int,
    seed: int,
    max_steps: int = MAX_STEPS,
    on_game: Callable[[], object] = lambda: None,
) -> list[EpisodeResult]:
    """Let a policy play whole games; the agent's memory begins anew with each life, as where it learnt.

    Args:
        make: one game, which ends with the game and not with a life: `gym_dream.real.make` with ``ending="game"``. Its
            info tells of ``lives`` and ``raw_reward``, the game's own points.
        policy: what plays, from the game's first frame on.
        games: how many; game i is begun with seed + i.
        seed: of the games and of the policy. Use others than the policy was trained on.
        max_steps: after which a game is cut off.
        on_game: called after each.

    Returns:
        The games in the order of their seeds; `gym_dream.evaluation.returns.world_figures` makes figures of them.

    Raises:
        ValueError: no games, or games of no steps.
    """
    if games < 1 or max_steps < 1:
        raise ValueError(f"Expected at least 1 game of at least 1 step, got {games} of {max_steps}.")
    no_opening = np.zeros((1, 0), np.int64)
    world = RealWorld(make, no_opening, min(games, GAMES_AT_A_TIME), seed)
    try:
        return play(world, policy, games, max_steps, seed, on_game)
    finally:
        world.close()
