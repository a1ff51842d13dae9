"""Scores of whole real games, as papers report them."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from gym_dream import real
from gym_dream.cli import main
from gym_dream.evaluation.returns import world_figures
from gym_dream.evaluation.whole_games import MAX_STEPS, play_whole_games
from gym_dream.policy import RandomPolicy


def games(**settings: float):
    return functools.partial(real.make, "Breakout", ending="game", **settings)


def by_hand(seed: int, policy_seed: int) -> tuple[float, int]:
    """A game of random play, alone: its points and its steps."""
    env = real.make("Breakout", ending="game")
    policy = RandomPolicy(4)
    observation, _ = env.reset(seed=seed)
    state = policy.begin(1, policy_seed)
    points, steps, over = 0.0, 0, False
    while not over:
        actions, state = policy.act(state, observation[None], {})
        observation, _, over, _, info = env.step(actions[0])
        points, steps = points + info["raw_reward"], steps + 1
    env.close()
    return points, steps


def test_a_game_is_played_to_its_end_and_all_its_points_count():
    played = play_whole_games(games(), RandomPolicy(4), 1, seed=3)
    points, steps = by_hand(3, 3)
    assert [(game.points, game.length, game.terminated) for game in played] == [(points, steps, True)]


def test_games_differ_and_come_again_from_their_seeds():
    first, again = (play_whole_games(games(), RandomPolicy(4), 3, seed=0) for _ in range(2))
    assert first == again
    assert len({game.length for game in first}) == 3
    score = world_figures(first, (MAX_STEPS,)).points
    assert score.low <= score.mean == np.mean([game.points for game in first]) <= score.high


def test_sticky_actions_make_other_games():
    plain = play_whole_games(games(), RandomPolicy(4), 2, seed=0)
    sticky = play_whole_games(games(repeat_action_probability=0.25), RandomPolicy(4), 2, seed=0)
    assert plain != sticky


def test_a_game_that_is_cut_off_is_counted_as_such():
    played = play_whole_games(games(), RandomPolicy(4), 2, seed=0, max_steps=10)
    assert [game.length for game in played] == [10, 10]
    assert not any(game.terminated for game in played)


def test_so_is_one_that_the_game_itself_cuts_off():
    played = play_whole_games(games(max_episode_steps=10), RandomPolicy(4), 2, seed=0)
    assert [game.length for game in played] == [10, 10]
    assert not any(game.terminated for game in played)


@pytest.mark.parametrize(("number", "max_steps"), [(0, 10), (1, 0)])
def test_nothing_to_play_is_refused(number, max_steps):
    with pytest.raises(ValueError, match="at least 1 game of at least 1 step"):
        play_whole_games(games(), RandomPolicy(4), number, seed=0, max_steps=max_steps)


def test_the_command_writes_what_the_suite_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scores = tmp_path / "scores" / "Breakout" / "0.json"
    assert (
        main(["score", "--game", "breakout", "--policy", "random", "--games", "2", "--seed", "0", "--out", str(scores)])
        == 0
    )
    assert json.loads(scores.read_text()) == [
        game.points for game in play_whole_games(games(), RandomPolicy(4), 2, seed=0)
    ]
    printed = capsys.readouterr().out
    row = printed.splitlines()[1].split()
    assert row[:4] == ["random", "0", "2", "0"] and row[-2] == "30.5"
    folder = str(tmp_path / "scores")
    assert main(["evaluate", "--suite", "atari100k", "--results", folder, "--out", str(tmp_path / "report")]) == 0


def test_the_command_knows_the_game_and_the_policy(capsys: pytest.CaptureFixture[str]):
    assert main(["score", "--game", "Breakfast", "--policy", "random"]) == 2
    assert "Breakfast" in capsys.readouterr().err
    assert main(["score", "--game", "Pong", "--policy", "agent:breakout"]) == 2
    assert "learnt in another environment" in capsys.readouterr().err
