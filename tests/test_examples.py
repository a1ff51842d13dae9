"""The examples run as users run them, end to end, on a small scale and with warnings as errors."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import catch
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3 import PPO

from gym_dream import real
from gym_dream.agents import AgentConfig, AgentPolicy, StackedConfig, load_agent
from gym_dream.data import Contexts, EpisodeStore
from gym_dream.files import load_tensors
from gym_dream.frame_stack import StackedPolicy, StackFrames
from gym_dream.models.denoiser import DenoiserConfig
from gym_dream.models.reward_termination import RewardTerminationConfig
from gym_dream.policy import load_policy
from gym_dream.sb3_policy import SB3Policy
from gym_dream.trainers.bench import made_up_episode
from gym_dream.world_model import WorldModel, WorldModelConfig

EXAMPLES = Path(__file__).parents[1] / "examples"
SPEC = real.env_spec("Breakout")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    sys.modules[name] = found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


cleanrl_ppo: Any = module("cleanrl_ppo")
sb3_ppo: Any = module("sb3_ppo")
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
    WorldModel.create(config, starts, replay=starts).save(folder)
    return folder


def run(example: str, settings: Mapping[str, Any], *more: str, warnings: str = "error") -> str:
    """Run an example as users do; what it printed."""
    result = subprocess.run(
        [sys.executable, EXAMPLES / example, *(f"--{name}={value}" for name, value in settings.items()), *more],
        env={**os.environ, "PYTHONWARNINGS": warnings},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def assert_scores(printed: str, agent: str, most_steps: int) -> None:
    """At the end stands the table of random play and the agent in both worlds."""
    head, *rows = (line.split() for line in printed.splitlines()[-5:])
    assert head[:3] == ["world", "player", "return"]
    assert [row[:2] for row in rows] == [[world, who] for world in ("dream", "real") for who in ("random", agent)]
    assert [row[-2] == "-" for row in rows] == [True, True, False, False]  # a dream has no points
    assert all(np.isfinite(float(row[2])) and 0 < float(row[-3]) <= most_steps for row in rows)


@pytest.mark.parametrize(
    ("agent", "world"),
    [
        pytest.param("ppo", "dream", marks=pytest.mark.slow),  # what is its own lies in the next two
        ("ppo", "real"),
        ("recurrent", "dream"),
        pytest.param("recurrent", "real", marks=pytest.mark.slow),
    ],
)
def test_sb3_ppo(agent: str, world: str, model: Path, tmp_path: Path) -> None:
    if agent == "recurrent":
        pytest.importorskip("sb3_contrib")
    settings = {"num-envs": 4, "rollout": 16, "steps": 128, "horizon": 10, "lives": 4, "dream-lives": 3, "seed": 3}
    names = {"agent": agent, "world": world, "model": model, "out": tmp_path}
    names |= {"denoising-steps": 1} if world == "dream" else {}
    printed = run("sb3_ppo.py", settings | names)
    assert_scores(printed, {"ppo": "PPO", "recurrent": "RecurrentPPO"}[agent], most_steps=10)

    (file,) = tmp_path.glob("*.zip")
    assert str(file) in printed
    policy = load_policy(f"sb3:{file}", SPEC)
    assert isinstance(policy, SB3Policy)
    assert policy.num_frames == FRAMES[agent]
    actions, _ = policy.act(policy.begin(5, seed=0), np.zeros((5, 64, 64, 3), np.uint8), {})
    assert actions.shape == (5,) and np.isin(actions, range(4)).all()


def test_sb3_ppo_dreams_by_as_many_passes_as_asked_and_goes_on_from_an_agent(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    judged: list[Any] = []
    make_vec, learn = gym.make_vec, PPO.learn
    learnt: list[tuple[int, int]] = []

    def recorded(*args: Any, **settings: Any) -> VectorEnv:
        made.append(settings["model_kwargs"])
        return make_vec(*args, **settings)

    def learning(self: PPO, steps: int, **settings: Any) -> PPO:
        before = self.num_timesteps
        learn(self, steps, **settings)
        learnt.append((before, self.num_timesteps))
        return self

    monkeypatch.setattr(gym, "make_vec", recorded)
    monkeypatch.setattr(PPO, "learn", learning)
    monkeypatch.setattr(sb3_ppo, "score_lines", lambda *_, **settings: judged.append(settings) or [])
    brief = sb3_ppo.Args(model=str(model), num_envs=2, rollout=8, steps=16, horizon=5, seed=3, out=tmp_path)
    for args in (
        brief,
        dataclasses.replace(brief, denoising_steps=1, init=tmp_path / "breakout_ppo_dream_seed3.zip", seed=4),
    ):
        sb3_ppo.main(args)
    passes = {"num_denoising_steps": 1}
    assert made == [{}, passes]
    assert [found.items() >= passes.items() for found in judged] == [False, True]
    assert learnt == [(0, 16), (16, 32)]
    monkeypatch.chdir(tmp_path)
    for name in (tmp_path / "breakout_ppo_dream_seed3.zip", Path("breakout_ppo_dream_seed3")):
        with pytest.raises(SystemExit, match=r"seed3\.zip would be overwritten"):
            sb3_ppo.main(dataclasses.replace(brief, init=name))
    first, second = (PPO.load(tmp_path / f"breakout_ppo_dream_seed{seed}.zip", device="cpu") for seed in (3, 4))
    assert (first.seed, second.seed) == (3, 4)


@pytest.mark.parametrize("world", ["dream", pytest.param("real", marks=pytest.mark.slow)])
def test_cleanrl_ppo(world: str, model: Path, tmp_path: Path) -> None:
    settings = {"num-envs": 4, "rollout": 16, "steps": 128, "horizon": 10, "lives": 4, "dream-lives": 3, "seed": 3}
    settings |= {"reset-from": "replay"} if world == "dream" else {}
    printed = run("cleanrl_ppo.py", settings | {"world": world, "model": model, "out": tmp_path, "device": "cpu"})
    assert [line.split()[0] for line in printed.splitlines()[:2]] == ["64", "128"]  # two updates
    assert_scores(printed, "PPO", most_steps=10)
    (file,) = tmp_path.glob("*.safetensors")
    assert str(file) in printed
    weights, _ = load_tensors(file)
    cleanrl_ppo.Agent((64, 64, 12), 4).load_state_dict(
        {name: torch.from_numpy(array) for name, array in weights.items()}
    )


class SameStep(VectorWrapper):
    """The ball game of catch.py, each game begun anew at once, as single-file PPO wants it."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(catch.CatchVectorEnv(num_envs))
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def step(self, actions: np.ndarray) -> Any:
        frames, rewards, terminated, truncated, info = self.env.step(actions)
        ended = terminated | truncated
        if ended.any():
            info = {"final_obs": frames, "_final_obs": ended}
            frames, _ = self.env.reset(options={"reset_mask": ended})
        return frames, rewards, terminated, truncated, info


def catch_ball(steps: int, num_frames: int = 4) -> float:
    """Train the single-file PPO in the ball game; the mean return of games that it then plays."""
    settings = {"num_envs": 32, "rollout": 16, "epochs": 2, "minibatches": 4, "learning_rate": 2e-3, "seed": 0}
    args = cleanrl_ppo.Args(**settings, steps=steps, num_frames=num_frames, device="cpu")
    agent = cleanrl_ppo.learn(SameStep(args.num_envs), args)
    policy, envs = StackedPolicy("ppo", agent.logits, num_frames), catch.CatchVectorEnv(500)
    envs.reset(seed=1000)
    frames, _ = envs.reset()
    state, total = policy.begin(500, seed=0), np.zeros(500)
    for _ in range(catch.STEPS):
        actions, state = policy.act(state, frames, {})
        frames, rewards, *_ = envs.step(actions)
        total += rewards
    return float(total.mean())


def test_cleanrl_ppo_learns_to_catch() -> None:
    """In some seconds, from pixels; only who sees several frames at a time can."""
    assert catch_ball(steps=1) < 0.3  # one update: about what random play reaches
    assert catch_ball(steps=10_000) >= 0.9 * catch.OPTIMUM


@pytest.mark.slow
def test_cleanrl_ppo_cannot_learn_to_catch_from_single_frames() -> None:
    assert catch_ball(steps=10_000, num_frames=1) < 0.6 * catch.OPTIMUM


class Clock(cleanrl_ppo.Agent):
    """Values every observation by its last pixel, and always takes action 0."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = observations[:, -1, -1, -1].float()
        return torch.stack([values * 0, values * 0 - torch.inf], dim=1), values


class Endings(VectorEnv):
    """Two games whose frame shows the steps done; the first terminates after three, the second is cut off then."""

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self) -> None:
        self.num_envs = 2
        self.single_observation_space = Box(0, 255, (4, 4, 3), np.uint8)
        self.single_action_space = Discrete(2)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.frames(), {}

    def step(self, actions: np.ndarray) -> Any:
        self.steps += 1
        info, over = {}, np.array([self.steps == 3] * 2)
        if over.all():
            info, self.steps = {"final_obs": self.frames(), "_final_obs": over}, 0
        return self.frames(), np.ones(2), over & [True, False], over & [False, True], info

    def frames(self) -> np.ndarray:
        return np.full((2, 4, 4, 3), 10 * (1 + self.steps), np.uint8)


def test_cleanrl_ppo_counts_the_final_frame_where_an_episode_was_cut_off_and_nothing_where_it_terminated() -> None:
    """Frames are valued 10, 20, 30, and 40 the final one."""
    collector = cleanrl_ppo.Collector(StackFrames(Endings(), 4), 0, torch.device("cpu"))
    rollout = collector.collect(Clock(), 4)
    assert rollout.values.T.tolist() == [[10, 20, 30, 10]] * 2
    assert rollout.next_values.T.tolist() == [[20, 30, 0, 20], [20, 30, 40, 20]]
    assert rollout.ended.T.tolist() == [[False, False, True, False]] * 2


def test_cleanrl_ppo_advantages_are_those_of_the_definition() -> None:
    """Sums of discounted temporal differences up to the episode's end."""
    generator = torch.Generator().manual_seed(0)
    steps, games, gamma, lam = 12, 5, 0.9, 0.7
    values, next_values, rewards = torch.randn(3, steps, games, generator=generator)
    ended = torch.rand(steps, games, generator=generator) < 0.3
    rollout = cleanrl_ppo.Rollout(*[torch.empty(0)] * 3, values, next_values, rewards, ended)
    found = cleanrl_ppo.advantages(rollout, gamma, lam)
    for game in range(games):
        for first in range(steps):
            expected = 0.0
            for step in range(first, steps):
                delta = rewards[step, game] + gamma * next_values[step, game] - values[step, game]
                expected += (gamma * lam) ** (step - first) * float(delta)
                if ended[step, game]:
                    break
            assert found[first, game] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("world", ["dream", pytest.param("real", marks=pytest.mark.slow)])
def test_torchrl_dream(world: str, model: Path) -> None:
    if importlib.util.find_spec("torchrl") is None:
        pytest.skip("TorchRL is not installed")
    settings = {"num-envs": 4, "rollout": 16, "steps": 128, "horizon": 10, "lives": 4, "dream-lives": 3, "seed": 3}
    # It warns of itself when it is imported.
    printed = run("torchrl_dream.py", settings | {"world": world, "model": model}, warnings="default")
    # It prints messages of its own in between.
    assert [line.split()[0] for line in printed.splitlines() if " steps  return" in line] == [
        "64",
        "128",
    ]  # two updates
    assert_scores(printed, "TorchRL", most_steps=10)


@pytest.mark.parametrize(
    ("world", "agent"),
    [("dream", "stacked"), ("dream", "recurrent"), pytest.param("real", "stacked", marks=pytest.mark.slow)],
)
def test_dream_agent(world: str, agent: str, model: Path, tmp_path: Path) -> None:
    """Two runs, of which the second goes on with the first."""
    out = tmp_path / "run"
    settings = {"num-envs": 2, "curve-lives": 2, "curve-every": 1, "max-life": 10, "reset-from": "start"}
    settings |= {
        "lives": 3,
        "dream-lives": 2,
        "world": world,
        "model": model,
        "out": out,
        "device": "cpu",
        "agent": agent,
    }
    if world == "dream":
        games = EpisodeStore(tmp_path / "data")
        games.add(made_up_episode(SPEC, seed=0))
        settings |= {"data": games.folder}
    for more in (["--updates=1"], ["--updates=2", "--resume"]):
        more += ["--learning", "rollout", "8"]
        assert_scores(run("dream_agent.py", settings, *more), "agent", most_steps=10)
    if world == "dream":  # another world model is another run
        other = shutil.copytree(model, tmp_path / "other")
        (other / "config.json").write_text((model / "config.json").read_text() + "\n")
        with pytest.raises(AssertionError, match=r"setup\.digest"):
            run("dream_agent.py", settings | {"model": other}, "--updates=3", "--resume")
    curve = json.loads((out / "curve.json").read_text())
    assert [point["update"] for point in curve] == [0, 1, 2]
    assert all("real/return" in point for point in curve) and (out / "curve.png").stat().st_size > 1000
    policy = load_policy(f"agent:{out / 'agent'}", SPEC, load_agent=load_agent)
    actions, _ = policy.act(policy.begin(5, seed=0), np.zeros((5, 64, 64, 3), np.uint8), {})
    assert actions.shape == (5,)


def test_dream_agent_goes_on_from_another(model: Path, tmp_path: Path) -> None:
    sizes = StackedConfig(len(SPEC["action_meanings"]), (64, 64), 3)
    before = AgentPolicy.create(AgentConfig(SPEC, sizes), seed=7)
    before.save(tmp_path / "before")
    settings = {"num-envs": 2, "curve-lives": 2, "max-life": 10, "reset-from": "start", "lives": 2, "dream-lives": 2}
    settings |= {"model": model, "out": tmp_path / "run", "device": "cpu", "init": tmp_path / "before"}
    # A step of the optimizer moves no weight by much more than the learning rate.
    run("dream_agent.py", settings, "--updates=1", "--learning", "rollout", "8", "learning_rate", "1e-9")
    after = load_agent(tmp_path / "run" / "agent").network.state_dict()
    for name, tensor in before.network.state_dict().items():
        torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0)
    with pytest.raises(AssertionError, match="as --agent recurrent has it, got StackedConfig"):
        run("dream_agent.py", settings | {"out": tmp_path / "other", "agent": "recurrent"}, "--updates=1")


def test_dream_agent_dreams_by_another_sampler(model: Path, tmp_path: Path) -> None:
    settings = {"num-envs": 2, "curve-lives": 2, "max-life": 10, "reset-from": "start", "lives": 2, "dream-lives": 2}
    settings |= {"model": model, "out": tmp_path / "run", "device": "cpu", "updates": 1}
    assert_scores(run("dream_agent.py", settings, "--sampler", "s_churn", "3"), "agent", most_steps=10)
    with pytest.raises(AssertionError, match="no_such_setting"):
        run("dream_agent.py", settings | {"out": tmp_path / "b"}, "--sampler", "no_such_setting", "3")
    settings |= {"out": tmp_path / "c", "denoising-steps": 1}
    with pytest.raises(AssertionError, match="Say once how many denoising steps"):
        run("dream_agent.py", settings, "--sampler", "num_denoising_steps", "2")
