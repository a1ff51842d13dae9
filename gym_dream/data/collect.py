"""Recording games: a policy plays the real game, every game becomes an episode in a store."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from tqdm import tqdm

from gym_dream import real
from gym_dream.data.game import RecordedGame
from gym_dream.data.store import EpisodeStore
from gym_dream.games import find_game
from gym_dream.interrupt import polite_interrupt
from gym_dream.policy import EpsilonPolicy, Policy


@dataclass(frozen=True)
class Collected:
    """What one call of `collect` has recorded.

    Attributes:
        games: number of games, the unfinished last one included.
        steps: number of steps.
        interrupted: whether Ctrl-C ended it early.
    """

    games: int
    steps: int
    interrupted: bool


def collect(
    game: str,
    policy: Policy,
    steps: int,
    out: str | os.PathLike[str],
    *,
    epsilon: float | Sequence[float] = 0.0,
    seed: int = 0,
    max_game_steps: int | None = None,
    wrapper: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None = None,
    repeat_action_probability: float = 0.0,
    progress: bool = True,
) -> Collected:
    """Play `steps` more steps of a game and append them to the store `out`.

    Games are recorded whole, with all their lives, raw rewards and the console's memory. Game number i of the store is
    played with seed ``seed + i``, for the game and the policy alike, so appending goes on with fresh seeds (numbers go
    on from the last game: `EpisodeStore.next_number`). No finished step is lost: a game that is still going on at the
    end, at Ctrl-C or at an error is stored as `in_progress`.

    Args:
        game: one of the 26 games of `gym_dream.games.GAMES`.
        policy: what plays.
        steps: how many steps to record.
        out: the folder of the store; made if there is none.
        epsilon: probability of a random action at each step. Several levels share the steps equally: each game is
            played at the level with the fewest steps so far (a level named twice counts twice).
        seed: see above.
        max_game_steps: cut off (truncate) a game after so many recorded steps; -1 or None for no limit.
        wrapper: what to put around the game, e.g. to change how it begins (`gym_dream.data.last_bricks.LastBricks`).
            Frames and actions must stay of the same kind. One that changes the beginning says how in ``info["start"]``
            of its `reset`, so that no dream takes that for how a game begins (`EpisodeInfo.start`).
        repeat_action_probability: the game's own randomness, see `gym_dream.real.make`.
        progress: show a progress bar.

    Raises:
        ValueError: unknown game, `steps` or `max_game_steps` below 1, an epsilon outside [0, 1], what the wrapper
            refuses, or a store that holds another game or other settings.
        OSError: the folder cannot be written to.
    """
    store = EpisodeStore(out)
    spec = real.env_spec(game, repeat_action_probability=repeat_action_probability)
    levels = [float(epsilon)] if isinstance(epsilon, (int, float)) else list(epsilon)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    limit = None if max_game_steps in (None, -1) else operator.index(max_game_steps)
    if limit is not None and limit < 1:
        raise ValueError(f"max_game_steps must be at least 1, or -1 or None for no limit, got {limit}.")
    if not levels:
        raise ValueError("epsilon must be a number or at least one number, got none.")
    num_actions = find_game(game).actions
    players = [EpsilonPolicy(policy, level, num_actions) if level else policy for level in levels]
    played = [0] * len(players)
    games = 0
    with ExitStack() as opened:
        env: gym.Env[Any, Any] = opened.enter_context(
            real.make(game, ending="game", repeat_action_probability=repeat_action_probability)
        )
        if wrapper is not None:
            env = opened.enter_context(wrapper(env))
        if limit is not None:  # outermost: steps that a wrapper takes to begin a game are none of its own
            env = TimeLimit(env, limit)
        prepare_store(store, spec)
        with polite_interrupt() as interrupted, tqdm(total=steps, unit="step", disable=not progress) as bar:
            while sum(played) < steps and not interrupted():
                level = int(np.argmin(played))
                game_seed = seed + store.next_number
                game_in_play = RecordedGame(env, spec, game_seed)
                try:
                    for _ in _play(game_in_play, players[level]):
                        bar.update()
                        if sum(played) + len(game_in_play) == steps or interrupted():
                            break
                finally:
                    if len(game_in_play):
                        recorded = game_in_play.episode(players[level].name)
                        store.add(recorded)
                        played[level] += len(recorded)
                        games += 1
                bar.set_postfix(games=games, score=f"{recorded.rewards.sum():g}")
    return Collected(games, sum(played), interrupted())


def _play(game: RecordedGame, policy: Policy) -> Iterator[None]:
    """Play one game to its end, step by step."""
    state = policy.begin(num_envs=1, seed=game.seed)
    while not game.over:
        actions, state = policy.act(state, game.frame[None], game.info)
        step = game.step(actions[0])
        if step.life_lost or step.game_over:
            state = policy.reset(state, np.array([True]))
        yield


def prepare_store(store: EpisodeStore, spec: Mapping[str, Any]) -> None:
    """Make sure that games of an environment can be added to a store: it is found out before the first step is played.

    Raises:
        ValueError: the store holds episodes of another environment.
        OSError: its folder cannot be made or written to.
    """
    there = store.env
    if there is not None and there != spec:
        differences = ", ".join(f"{key} {there.get(key)!r}" for key in spec if there.get(key) != spec[key])
        raise ValueError(
            f"{store.folder} holds episodes of another environment, with {differences}: choose another folder for "
            f"{spec['id']} with these settings."
        )
    store.folder.mkdir(parents=True, exist_ok=True)
    if not os.access(store.folder, os.W_OK):
        raise PermissionError(f"Cannot write to {store.folder}: choose a folder of your own.")
