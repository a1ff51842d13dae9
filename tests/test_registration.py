"""The contracts that every registered id keeps, checked on those whose weights are on the machine."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from fakes import contexts
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from torch.nn.modules.module import register_module_forward_hook

import gym_dream
from gym_dream.data.contexts import Contexts
from gym_dream.games import GAMES
from gym_dream.models.denoiser import DenoiserConfig
from gym_dream.models.reward_termination import RewardTerminationConfig
from gym_dream.sb3 import SB3VecEnv
from gym_dream.vector_env import DreamVectorEnv
from gym_dream.world_model import WorldModel, WorldModelConfig, resolve

GAME_IDS = [f"Dream/{game.name}-v0" for game in GAMES]
IDS = [*GAME_IDS, "DreamEnv-v0"]


def is_shipped(env_id: str) -> bool:
    try:
        resolve(gym.spec(env_id).kwargs["model"])
    except FileNotFoundError:
        return False
    return True


SHIPPED = [env_id for env_id in GAME_IDS if is_shipped(env_id)]
MISSING = [env_id for env_id in GAME_IDS if env_id not in SHIPPED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A world model folder with tiny untrained networks."""
    torch.manual_seed(0)
    drawn = contexts(6)
    model = WorldModel.create(
        WorldModelConfig(
            env={"game": "Breakout", "action_meanings": ["NOOP", "FIRE", "RIGHT", "LEFT"], "keys_to_action": {"d": 2}},
            denoiser=DenoiserConfig(
                num_actions=4, context_length=3, cond_channels=24, depths=(1,), channels=(32,), attention=(False,)
            ),
            reward_termination=RewardTerminationConfig(
                num_actions=4, frame_size=(40, 48), cond_channels=8, depths=(1, 1), channels=(8, 8),
                attention=(False, False), lstm_size=8,
            ),
        ),
        starts=drawn,
        replay=Contexts(drawn.frames, drawn.actions, drawn.real),
    )  # fmt: skip
    for network in (model.denoiser, model.reward_termination):
        for parameter in network.parameters():  # layers that begin at zero included
            torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("runs") / "world_model"
    model.save(path)
    return str(path)


@pytest.fixture(params=[*SHIPPED, "DreamEnv-v0"])
def spec(request: pytest.FixtureRequest, folder: str) -> EnvSpec:
    """Each id that can be made on this machine."""
    made = gym.spec(request.param)
    made = EnvSpec.from_json(made.to_json())
    made.kwargs |= {"device": "cpu", "precision": "float32"}
    if request.param == "DreamEnv-v0":
        made.kwargs |= {"model": folder}
    return made


def rollout(env: Any, steps: int, seed: int = 5) -> list[Any]:
    env.action_space.seed(0)
    observation, info = env.reset(seed=seed)
    return [observation, info["context"]["frames"]] + [
        part for _ in range(steps) for part in env.step(env.action_space.sample())[:4]
    ]


def assert_equal(first: list[Any], second: list[Any]) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_all_games_are_registered() -> None:
    registered = {env_id for env_id, spec in gym.registry.items() if "gym_dream" in str(spec.entry_point)}
    assert registered == set(IDS)
    assert len(IDS) == 27


@pytest.mark.parametrize("env_id", IDS)
def test_specs_are_plain(env_id: str) -> None:
    spec = gym.spec(env_id)
    assert spec.entry_point == "gym_dream.env:DreamEnv"
    assert spec.vector_entry_point == "gym_dream.vector_env:DreamVectorEnv"
    assert spec.additional_wrappers == ()
    assert spec.max_episode_steps == 1000
    assert EnvSpec.from_json(spec.to_json()) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize("env_id", MISSING)
def test_missing_weights_say_how_to_get_them(env_id: str) -> None:
    game = gym.spec(env_id).name
    for make in (gym.make, gym.make_vec):
        with pytest.raises(FileNotFoundError) as error:
            make(env_id)
        for part in (
            game,
            f"gym-dream collect --game {game} --steps 60000 --out data/{game.lower()}",
            f"gym-dream fit --data data/{game.lower()} --out runs/{game.lower()}",
            f"gym.make('DreamEnv-v0', model='runs/{game.lower()}/world_model')",
        ):
            assert part in str(error.value)


def test_an_id_without_a_model_asks_for_one() -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(ValueError, match="Pass model='runs/pong/world_model'"):
            make("DreamEnv-v0")
    with pytest.raises(FileNotFoundError, match="no/such/folder"):
        gym.make("DreamEnv-v0", model="no/such/folder")


def test_an_unknown_game_is_told_from_a_known_one() -> None:
    with pytest.raises(gym.error.NameNotFound, match="Did you mean: `Breakout`"):
        gym.make("Dream/Brakeout-v0")


def test_gymnasiums_checker_has_nothing_to_say(spec: EnvSpec) -> None:
    check_env(gym.make(spec).unwrapped)


def test_stable_baselines_checker_has_nothing_to_say(spec: EnvSpec) -> None:
    check_env_sb3(gym.make(spec, render_mode="rgb_array").unwrapped, skip_render_check=False)


def test_the_same_seed_and_actions_give_the_same_frames(spec: EnvSpec) -> None:
    first, second = gym.make(spec), gym.make(spec)
    assert_equal(rollout(first, 5), rollout(second, 5))
    assert_equal(rollout(first, 5), rollout(second, 5))


def test_a_dream_in_a_batch_is_the_same_within_a_grey_level(spec: EnvSpec) -> None:
    alone, batch = gym.make_vec(spec, num_envs=1), gym.make_vec(spec, num_envs=3)
    observation, _ = alone.reset(seed=7)
    observations, _ = batch.reset(seed=[5, 7, 9])
    assert np.array_equal(observation[0], observations[1])
    observation, *result = alone.step(np.array([1]))
    observations, *results = batch.step(np.array([0, 1, 2]))
    assert abs(observation[0].astype(int) - observations[1]).max() <= 1
    assert [array[0] for array in result[:3]] == [array[1] for array in results[:3]]


def test_sixteen_dreams_make_as_many_network_calls_as_one(spec: EnvSpec) -> None:
    calls = {}
    for num_envs in (1, 16):
        envs = gym.make_vec(spec, num_envs=num_envs)
        envs.reset(seed=0)
        modules: list[str] = []
        hook = register_module_forward_hook(lambda module, *_, seen=modules: seen.append(type(module).__name__))
        envs.step(np.zeros(num_envs, np.int64))
        hook.remove()
        calls[num_envs] = modules
    assert calls[1] == calls[16] != []


def test_agents_may_compute_gradients_with_what_a_dream_returns(spec: EnvSpec) -> None:
    dream = gym.make_vec(spec, num_envs=2).unwrapped.dream
    weight = torch.ones((), requires_grad=True)
    reset = dream.reset()
    step = dream.step(torch.tensor([0, 1]))
    for numbers in (reset.observation.float(), step.observation.float(), step.reward):
        (numbers * weight).sum().backward()
    assert not step.reward.requires_grad


def test_make_vec_takes_its_settings(spec: EnvSpec) -> None:
    envs = gym.make_vec(spec, num_envs=2, autoreset_mode="SameStep", max_episode_steps=1, reset_from="start")
    assert isinstance(envs, DreamVectorEnv)
    assert EnvSpec.from_json(envs.spec.to_json()) == envs.spec
    envs.reset(seed=0)
    *_, truncated, info = envs.step(np.zeros(2, np.int64))
    assert truncated.all() and info["final_obs"].shape == envs.observation_space.shape
    assert gym.make_vec(spec).dream.horizon == 1000
    assert gym.make_vec(spec, max_episode_steps=-1).dream.horizon == -1


def test_make_takes_its_settings(spec: EnvSpec) -> None:
    env = gym.make(spec, max_episode_steps=2, render_mode="rgb_array", model_kwargs={"num_denoising_steps": 1})
    env.reset(seed=0)
    env.step(0)
    assert env.step(0)[3] is True
    assert env.render().shape == env.observation_space.shape
    assert EnvSpec.from_json(env.spec.to_json()) == env.spec
    with pytest.raises(ValueError, match=r"unknown.*'num_dreamy_steps'"):
        gym.make(spec, model_kwargs={"num_dreamy_steps": 1})


def test_statistics_can_be_recorded(spec: EnvSpec) -> None:
    env = RecordEpisodeStatistics(gym.make(spec, max_episode_steps=3))
    env.reset(seed=0)
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step(0)
        ended = terminated or truncated
    assert 1 <= info["episode"]["l"] <= 3


def test_stable_baselines_gets_its_vector_env(spec: EnvSpec) -> None:
    envs = SB3VecEnv(gym.make_vec(spec, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP, max_episode_steps=1))
    observations = envs.reset()
    assert observations.shape == (2, *envs.observation_space.shape)
    *_, dones, infos = envs.step(np.zeros(2, np.int64))
    assert dones.all() and all("terminal_observation" in info for info in infos)


def test_dreams_work_in_spawned_processes(spec: EnvSpec) -> None:
    vector_kwargs = {"context": "spawn"}
    spawned = gym.make_vec(spec, num_envs=1, vectorization_mode="async", vector_kwargs=vector_kwargs)
    here = gym.make_vec(spec, num_envs=1)
    assert np.array_equal(spawned.reset(seed=3)[0], here.reset(seed=3)[0])
    spawned.close()


def test_importing_the_package_is_light() -> None:
    program = """
import sys, gymnasium, gym_dream
assert len([env_id for env_id in gymnasium.registry if env_id.startswith("Dream/")]) == 26
print(sorted({"torch", "ale_py", "cv2", "stable_baselines3", "pygame"} & set(sys.modules)))
assert gym_dream.Dream.__name__ == "Dream" and gym_dream.WorldModel.__name__ == "WorldModel"
assert gym_dream.real.make
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.split("\n")[0] == "[]", result.stderr
    assert result.returncode == 0, result.stderr


def test_gymnasium_imports_the_package_by_itself(folder: str) -> None:
    program = f"import gymnasium; gymnasium.make('gym_dream:DreamEnv-v0', model={folder!r}).reset(); print('reset')"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.stdout.strip(), result.returncode) == ("reset", 0), result.stderr


def test_unknown_attributes_are_refused() -> None:
    with pytest.raises(AttributeError, match="'gym_dream' has no attribute 'Nightmare'"):
        _ = gym_dream.Nightmare
    assert json.loads(gym.spec("Dream/Pong-v0").to_json())["kwargs"] == {"model": "pong"}
    assert Path(gym_dream.__file__).name == "__init__.py"
