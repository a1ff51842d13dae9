from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from gym_dream import WorldModel, real
from gym_dream.data import Contexts
from gym_dream.evaluation import compare, evaluate_policy, score_lines
from gym_dream.policy import RandomPolicy, load_policy

SETTINGS: dict[str, Any] = {"horizon": 12, "num_envs": 2, "seed": 5}


@pytest.fixture(scope="module")
def model() -> WorldModel:
    """Of Breakout, with tiny untrained networks and random starts."""
    rng = np.random.default_rng(0)
    frames, actions = rng.integers(0, 256, (4, 4, 64, 64, 3), np.uint8), rng.integers(0, 4, (4, 3))
    return WorldModel.create(tiny.config(real.env_spec("Breakout")), Contexts(frames, actions, np.ones((4, 4), bool)))


def test_it_finds_what_compare_finds(model: WorldModel) -> None:
    """The same episodes, one policy and one world at a time."""
    wanted = compare(["random"], world_model=model, episodes=3, real_episodes=4, **SETTINGS).policies[0]
    policy = RandomPolicy(4)
    assert evaluate_policy(policy, model, "dream", episodes=3, **SETTINGS).length == wanted.dream.length
    found = evaluate_policy(policy, model, episodes=4, **SETTINGS)
    assert (found.returns, found.length, found.points) == (wanted.real.returns, wanted.real.length, wanted.real.points)


def test_who_plays_well_scores_more_in_the_game(model: WorldModel) -> None:
    players = {"random": RandomPolicy(4), "scripted": load_policy("scripted", model.config.env)}
    head, *rows = score_lines(players, model, dream_episodes=0, real_episodes=4, horizon=60)
    assert head.split() == ["world", "player", "return", "[95%", "interval]", "steps", "points", "episodes"]
    assert [row.split()[:2] for row in rows] == [["real", "random"], ["real", "scripted"]]
    returns = [float(row.split()[2]) for row in rows]
    assert returns[0] < returns[1]
    assert [float(row.split()[-2]) >= r for row, r in zip(rows, returns, strict=True)] == [True, True]
    assert len({len(line) for line in [head, *rows]}) == 1  # the columns stand under each other


def test_a_dream_has_no_points_and_takes_the_models_settings(model: WorldModel) -> None:
    settings = {"dream_episodes": 2, "real_episodes": 0, "num_denoising_steps": 1, **SETTINGS}
    _, row = score_lines({"random": RandomPolicy(4)}, model, **settings)
    assert row.split()[-2] == "-" and np.isfinite(float(row.split()[2]))
    with pytest.raises(ValueError, match=r"unknown.*steps_of_denoising"):
        evaluate_policy(RandomPolicy(4), model, "dream", episodes=1, steps_of_denoising=1)


def test_bad_input_is_named(model: WorldModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'dream' or 'real', got 'game'"):
        evaluate_policy(RandomPolicy(4), model, "game")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        evaluate_policy(RandomPolicy(4), model, episodes=0)
    with pytest.raises(FileNotFoundError):
        evaluate_policy(RandomPolicy(4), tmp_path)
