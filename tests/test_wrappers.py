"""Gymnasium's wrappers and the usual training loops work on dreams and on the real games alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
from fakes import FakeWorldModel
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation, RecordEpisodeStatistics
from gymnasium.wrappers import vector as wrappers

from gym_dream import real
from gym_dream.env import DreamEnv
from gym_dream.vector_env import DreamVectorEnv

NUM_ENVS = 4
HORIZON = 30  # some lives of Breakout end sooner, some are cut off
MODES = list(AutoresetMode)


@pytest.fixture(params=["dream", "real"])
def world(request: pytest.FixtureRequest) -> str:
    return request.param


def make_vec(world: str, **settings: Any) -> VectorEnv:
    settings = {"max_episode_steps": HORIZON, **settings}
    if world == "real":
        return real.make_vec("Breakout", NUM_ENVS, **settings)
    return DreamVectorEnv(FakeWorldModel(), NUM_ENVS, **settings)


def make(world: str, **settings: Any) -> gym.Env:
    return real.make("Breakout", **settings) if world == "real" else DreamEnv(FakeWorldModel(), **settings)


def choose(rng: np.random.Generator) -> np.ndarray:
    """Random actions; the rarest ends a fake dream."""
    return rng.choice(4, p=[0.2, 0.4, 0.37, 0.03], size=NUM_ENVS)


@pytest.mark.parametrize("mode", MODES)
def test_statistics_are_those_of_the_episodes(world: str, mode: AutoresetMode) -> None:
    envs = wrappers.RecordEpisodeStatistics(make_vec(world, autoreset_mode=mode))
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    returns, lengths, ended = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, int), np.zeros(NUM_ENVS, bool)
    recorded: list[tuple[float, int]] = []
    for _ in range(100):
        if mode is AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended})
        _, rewards, terminated, truncated, infos = envs.step(choose(rng))
        resets = ended if mode is AutoresetMode.NEXT_STEP else np.zeros_like(ended)
        assert not (rewards[resets].any() or (terminated | truncated)[resets].any())
        returns += rewards
        lengths += ~resets
        ended = terminated | truncated
        assert infos.get("_episode", np.zeros_like(ended)).tolist() == ended.tolist()
        for i in np.flatnonzero(ended):
            recorded.append((infos["episode"]["r"][i], infos["episode"]["l"][i]))
            assert recorded[-1] == (returns[i], lengths[i])
        returns[ended] = lengths[ended] = 0
    assert len(recorded) > 2 * NUM_ENVS
    assert len({length for _, length in recorded}) > 2
    assert envs.episode_count == len(recorded)


def test_episodes_are_the_same_in_every_autoreset_mode(world: str) -> None:
    """Played by a loop of each mode, as its users write it; action k of an episode is always the same."""
    actions = np.stack([choose(np.random.default_rng(k)) for k in range(HORIZON)])
    actions[0] = 1  # serve
    played: dict[AutoresetMode, list[list[tuple[Any, ...]]]] = {}
    for mode in MODES:
        envs = make_vec(world, autoreset_mode=mode)
        episodes: list[list[tuple[Any, ...]]] = [[] for _ in range(NUM_ENVS)]
        observation, _ = envs.reset(seed=0)
        steps, ended = np.zeros(NUM_ENVS, int), np.zeros(NUM_ENVS, bool)
        for _ in range(80):
            if mode is AutoresetMode.DISABLED and ended.any():
                observation, _ = envs.reset(options={"reset_mask": ended})
            following, reward, terminated, truncated, info = envs.step(actions[steps % HORIZON, range(NUM_ENVS)])
            resets = ended if mode is AutoresetMode.NEXT_STEP else np.zeros_like(ended)
            ended = terminated | truncated
            led_to = info["final_obs"] if mode is AutoresetMode.SAME_STEP and ended.any() else following
            for i in np.flatnonzero(~resets):
                step = (observation[i].tobytes(), led_to[i].tobytes(), reward[i], terminated[i], truncated[i])
                episodes[i].append(step)
            observation = following
            steps = np.where(ended | resets, 0, steps + 1)
        played[mode] = episodes
        envs.close()
    for i in range(NUM_ENVS):
        lists = [played[mode][i] for mode in MODES]
        shared = min(map(len, lists))
        assert sum(terminated or truncated for *_, terminated, truncated in lists[0][:shared]) >= 2
        assert lists[0][:shared] == lists[1][:shared] == lists[2][:shared]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.filterwarnings("ignore:.*autoreset mode is same-step")
def test_videos_show_all_environments(world: str, mode: AutoresetMode, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    envs = make_vec(world, autoreset_mode=mode, render_mode="rgb_array")
    height, width, _ = envs.single_observation_space.shape
    envs = wrappers.RecordVideo(envs, str(tmp_path / "videos"), step_trigger=lambda step: step == 2, video_length=5)
    envs.reset(seed=0)
    for _ in range(10):
        envs.step(np.ones(NUM_ENVS, np.int64))
    envs.close()
    (file,) = (tmp_path / "videos").glob("*.mp4")
    assert shape_of(file) == (2 * height, 2 * width)


def test_a_video_shows_an_episode(world: str, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = gym.wrappers.RecordVideo(make(world, render_mode="rgb_array"), str(tmp_path / "videos"))
    env.reset(seed=0)
    for _ in range(4):
        env.step(1)
    shape = env.render().shape
    env.close()
    (file,) = (tmp_path / "videos").glob("*.mp4")
    assert shape_of(file) == shape[:2]


def shape_of(video: Path) -> tuple[int, ...]:
    frame = cv2.VideoCapture(str(video)).read()[1]
    return frame.shape[:2]


def test_observations_can_be_transformed(world: str) -> None:
    envs = wrappers.GrayscaleObservation(wrappers.ResizeObservation(make_vec(world), (32, 32)))
    observation, _ = envs.reset(seed=0)
    assert observation in envs.observation_space
    observation, *_ = envs.step(np.ones(NUM_ENVS, np.int64))
    assert observation.shape == (NUM_ENVS, 32, 32) and observation.any()


def test_rewards_can_be_transformed(world: str) -> None:
    envs = wrappers.NormalizeReward(wrappers.ClipReward(make_vec(world), 0.0, 1.0))
    envs.reset(seed=0)
    rewards = np.concatenate([envs.step(choose(np.random.default_rng(k)))[1] for k in range(10)])
    assert np.isfinite(rewards).all() and rewards.min() == 0.0


def test_single_environments_can_be_wrapped(world: str) -> None:
    env = make(world)
    height, width, _ = env.observation_space.shape
    env = gym.wrappers.TimeLimit(FrameStackObservation(GrayscaleObservation(env), stack_size=4), 5)
    env = RecordEpisodeStatistics(env)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4, height, width) and observation in env.observation_space
    for _ in range(5):
        observation, _, _, truncated, info = env.step(1)
    assert truncated and info["episode"]["l"] == 5
    assert not np.array_equal(observation[0], observation[3])


def test_keys_are_those_that_a_person_plays_with(world: str) -> None:
    """`gymnasium.utils.play` asks the innermost environment for them."""
    env = make(world)
    keys = env.unwrapped.get_keys_to_action()
    assert keys and all(action in env.action_space for action in keys.values())
