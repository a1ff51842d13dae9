"""The examples run as users run them, end to end, on a small scale and with warnings as errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gym_dream import real
from gym_dream.agents import load_agent
from gym_dream.data import Contexts
from gym_dream.models.denoiser import DenoiserConfig
from gym_dream.models.reward_termination import RewardTerminationConfig
from gym_dream.policy import load_policy
from gym_dream.sb3_policy import SB3Policy
from gym_dream.world_model import WorldModel, WorldModelConfig

EXAMPLES = Path(__file__).parents[1] / "examples"
SPEC = real.env_spec("Breakout")
FRAMES = {"ppo": 4, "recurrent": 1}  # that the agent sees at a time


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model folder with tiny untrained networks and random starts."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    networks: dict[str, Any] = {
        "num_actions": 4,
        "cond_channels": 16,
        "depths": (1,),
        "channels": (32,),
        "attention": (False,),
    }
    starts = Contexts(
        rng.integers(0, 256, (4, 4, 64, 64, 3), np.uint8), rng.integers(0, 4, (4, 3)), np.ones((4, 4), np.bool_)
    )
    config = WorldModelConfig(
        env=SPEC,
        denoiser=DenoiserConfig(**networks, patch_size=4),
        reward_termination=RewardTerminationConfig(**networks, frame_size=(64, 64), lstm_size=16, patch_size=8),
    )
    folder = tmp_path_factory.mktemp("models") / "world_model"
    WorldModel.create(config, starts).save(folder)
    return folder


@pytest.mark.parametrize(
    ("agent", "world"),
    [
        ("ppo", "dream"),
        ("ppo", "real"),
        ("recurrent", "dream"),
        pytest.param("recurrent", "real", marks=pytest.mark.slow),
    ],
)
def test_sb3_ppo(agent: str, world: str, model: Path, tmp_path: Path) -> None:
    if agent == "recurrent":
        pytest.importorskip("sb3_contrib")
    settings = {"num-envs": 4, "rollout": 16, "steps": 128, "horizon": 10, "lives": 4, "seed": 3}
    names = {"agent": agent, "world": world, "model": model, "out": tmp_path}
    options = [f"--{name}={value}" for name, value in (settings | names).items()]
    result = subprocess.run(
        [sys.executable, EXAMPLES / "sb3_ppo.py", *options],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[-4:]]
    trained = {"ppo": "PPO", "recurrent": "RecurrentPPO"}[agent]
    players = ["RandomAgent", trained]
    assert [row[:2] for row in rows] == [[where, player] for where in ("dream", "real") for player in players]
    assert [row[-1] == "nan" for row in rows] == [True, True, False, False]  # a dream has no score of its own
    assert all(0 < float(row[-2]) <= 10 for row in rows)

    (file,) = tmp_path.glob("*.zip")
    assert str(file) in result.stdout
    policy = load_policy(f"sb3:{file}", SPEC)
    assert isinstance(policy, SB3Policy)
    assert policy.num_frames == FRAMES[agent]
    actions, _ = policy.act(policy.begin(5, seed=0), np.zeros((5, 64, 64, 3), np.uint8), {})
    assert actions.shape == (5,) and np.isin(actions, range(4)).all()


@pytest.mark.parametrize("world", ["dream", pytest.param("real", marks=pytest.mark.slow)])
def test_dream_agent(world: str, model: Path, tmp_path: Path) -> None:
    """Two runs, of which the second goes on with the first."""
    run = tmp_path / "run"
    settings = {"num-envs": 2, "lives": 3, "curve-lives": 2, "curve-every": 1, "max-life": 10, "reset-from": "start"}
    names = {"world": world, "model": model, "out": run, "device": "cpu"}
    options = [f"--{name}={value}" for name, value in (settings | names).items()]
    for more in (["--updates=1"], ["--updates=2", "--resume"]):
        result = subprocess.run(
            [sys.executable, EXAMPLES / "dream_agent.py", *options, *more],
            env={**os.environ, "PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        rows = [line.split() for line in result.stdout.splitlines()[-2:]]
        assert [row[0] for row in rows] == ["random", "agent"]
        assert all(np.isfinite(float(row[1])) for row in rows)
    curve = json.loads((run / "curve.json").read_text())
    assert [point["update"] for point in curve] == [0, 1, 2]
    assert all("real/return" in point for point in curve) and (run / "curve.png").stat().st_size > 1000
    policy = load_policy(f"agent:{run / 'agent'}", SPEC, load_agent=load_agent)
    actions, _ = policy.act(policy.begin(5, seed=0), np.zeros((5, 64, 64, 3), np.uint8), {})
    assert actions.shape == (5,)
