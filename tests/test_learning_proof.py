"""The proof of the whole loop: from random play to a policy that has only ever been trained in dreams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catch_cells import ENV, LOOP, OPTIMUM, CatchGame
from gymnasium.utils.env_checker import check_env

from gym_dream.agents import AgentPolicy
from gym_dream.trainers.imagination import Imagination
from gym_dream.trainers.outer_loop import train
from gym_dream.trainers.world_model_trainer import WorldModelTrainer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks so small are not faster with more
    yield
    torch.set_num_threads(threads)


def learnt(out: Path, seed: int) -> dict[str, float]:
    """The final test of the whole loop."""
    config = LOOP.config("catch", ENV, seed)
    policy = AgentPolicy.of_size(ENV, config.agent, seed)
    return train(out, config, policy, CatchGame, device="cpu", precision="float32", progress=False)[-1]


def test_the_game_has_a_known_optimum() -> None:
    check_env(CatchGame(), skip_render_check=True)
    env = CatchGame()
    rng = np.random.default_rng(0)
    returns: dict[str, list[float]] = {"best": [], "random": []}
    for name, totals in returns.items():
        for seed in range(200):
            env.reset(seed=seed)
            over = False
            while not over:
                action = env.best_action() if name == "best" else int(rng.integers(3))
                _, reward, over, _, _ = env.step(action)
            totals.append(reward)
    assert np.mean(returns["best"]) == OPTIMUM
    assert np.mean(returns["random"]) < -0.3


def test_the_whole_loop_learns_to_play_in_dreams(tmp_path: Path) -> None:
    final = learnt(tmp_path, seed=0)
    assert final["real/return"] >= 0.9 * OPTIMUM
    assert final["random/return"] < -0.3
    assert final["real_steps"] == 1050  # of which the agent was trained on none


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_does_so_from_other_seeds(tmp_path: Path, seed: int) -> None:
    assert learnt(tmp_path, seed)["real/return"] >= 0.9 * OPTIMUM


def without_world_model(patch: pytest.MonkeyPatch) -> None:
    def skip(self: WorldModelTrainer, progress: float) -> dict[str, torch.Tensor]:
        self.step += 1
        return {}

    patch.setattr(WorldModelTrainer, "update", skip)


def without_actions(patch: pytest.MonkeyPatch) -> None:
    """The denoiser is told that nobody ever moves."""
    segment = WorldModelTrainer._segment

    def still(self: WorldModelTrainer, segments: Any) -> Any:
        frames, actions, mask = segment(self, segments)
        return frames, torch.zeros_like(actions), mask

    patch.setattr(WorldModelTrainer, "_segment", still)


def without_rewards(patch: pytest.MonkeyPatch) -> None:
    losses = WorldModelTrainer._reward_termination_losses

    def unpaid(self: WorldModelTrainer, *arguments: Any) -> torch.Tensor:
        return losses(self, *arguments) * torch.tensor([0.0, 1.0])

    patch.setattr(WorldModelTrainer, "_reward_termination_losses", unpaid)


def without_agent(patch: pytest.MonkeyPatch) -> None:
    def skip(self: Imagination) -> dict[str, torch.Tensor]:
        self.step += 1
        return {}

    patch.setattr(Imagination, "update", skip)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [without_world_model, without_actions, without_rewards, without_agent])
def test_it_does_not_if_a_part_of_it_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any) -> None:
    broken(monkeypatch)
    assert learnt(tmp_path, seed=0)["real/return"] < 0.5 * OPTIMUM
