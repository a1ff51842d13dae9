"""A loop of some seconds on the game of one dot, and what processes of their own do with it."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from dot_game import DotGame

import gym_dream.files
from gym_dream.agents import AgentPolicy
from gym_dream.data.game import RecordedGame
from gym_dream.models.sampler import SamplerConfig
from gym_dream.trainers import outer_loop
from gym_dream.trainers.imagination import Imagination, ImaginationConfig
from gym_dream.trainers.outer_loop import train
from gym_dream.trainers.schedules import LoopConfig, LoopPreset, Schedule
from gym_dream.trainers.world_model_trainer import WorldModelTrainer
from gym_dream.world_model import WorldModelConfig

SCHEDULE = Schedule(
    first_steps=30,
    most_first_steps=40,
    rare_rewards=0,
    steps=15,
    total_steps=60,
    first_world_model_updates=6,
    world_model_updates=3,
    first_agent_updates=4,
    agent_updates=2,
    extra_epochs=1,
    test_every=2,
    test_games=2,
    final_games=3,
    max_game_steps=30,
)


def world_model(env: dict[str, Any]) -> WorldModelConfig:
    return replace(tiny.config(env), sampler=SamplerConfig(num_denoising_steps=1))


PRESET = LoopPreset(
    world_model,
    replace(tiny.PRESET.training, reward_interval=1),
    SCHEDULE,
    {"channels": (8, 8), "lstm_size": 16},
    ImaginationConfig(rollout=5),
    num_dreams=2,
    horizon=6,
)
CONFIG = PRESET.config("tiny", tiny.ENV, seed=3)


def run(out: Path, config: LoopConfig = CONFIG, **settings: Any) -> list[dict[str, float]]:
    torch.set_num_threads(1)
    policy = AgentPolicy.of_size(config.world_model.env, config.agent, config.seed)
    return train(out, config, policy, DotGame, **{"device": "cpu", "progress": False} | settings)


def ctrl_c_at(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, call: int, action: Any) -> None:
    original, calls = getattr(owner, method), []

    def patched(self: Any, *arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            action()
        return original(self, *arguments, **more)

    monkeypatch.setattr(owner, method, patched)


def doomed(out: str, owner: str, method: str, call: int, checkpoint_minutes: float) -> None:
    """A process that is killed at one call of a function, or ends the run."""
    targets = {"step": RecordedGame, "update": WorldModelTrainer, "dream": Imagination, "test": outer_loop._Run}
    if owner == "file":
        original, calls = gym_dream.files._sync, []

        def patched(path: Path) -> None:
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            original(path)

        gym_dream.files._sync = patched  # within atomic_write, where the file has not its name yet
    else:
        ctrl_c_at(pytest.MonkeyPatch(), targets[owner], method, call, lambda: os.kill(os.getpid(), signal.SIGKILL))
    resume = (Path(out) / "config.json").exists()
    run(Path(out), resume=resume, checkpoint_minutes=checkpoint_minutes)


def member(rank: int, count: int, port: int, out: str, report: str) -> None:
    """One of the processes that torchrun would start; it tells the weights that it ends with."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    update, told = Imagination.update, {}

    def spy(self: Imagination) -> Any:
        losses = update(self)
        told["dreams"] = self.world.num_dreams  # type: ignore[attr-defined]
        told["agent"] = sum(p.double().abs().sum().item() for p in self.agent.parameters())  # type: ignore[attr-defined]
        told["frames"] = int(self.world.observation.long().sum())  # type: ignore[union-attr]
        return losses

    Imagination.update = spy  # type: ignore[method-assign]
    if rank:
        for name in ("save_checkpoint", "deliver"):
            setattr(outer_loop._Run, name, lambda self: pytest.fail("only the first process writes"))
    schedule = replace(SCHEDULE, total_steps=45, extra_epochs=0)
    run(Path(out), replace(CONFIG, schedule=schedule))
    Path(report).write_text(json.dumps(told))
