from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from cartpole import make_cartpole
from fakes import END, FakeWorldModel, contexts
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor

from gym_dream.env import DreamEnv
from gym_dream.frame_stack import StackFrames
from gym_dream.sb3 import SB3VecEnv
from gym_dream.vector_env import DreamVectorEnv

NUM_ENVS = 4
HORIZON = 5


def make(**kwargs: Any) -> SB3VecEnv:
    return SB3VecEnv(DreamVectorEnv(FakeWorldModel(), NUM_ENVS, **{
        "max_episode_steps": HORIZON, "autoreset_mode": "SameStep", **kwargs
    }))  # fmt: skip


def make_reference() -> DummyVecEnv:
    """Stable-Baselines3's own vector environment over single dreams."""
    return DummyVecEnv([lambda: TimeLimit(DreamEnv(FakeWorldModel(), render_mode="rgb_array"), HORIZON)] * NUM_ENVS)


def make_cartpoles(kind: Callable[..., VectorEnv] = SyncVectorEnv) -> SB3VecEnv:
    return SB3VecEnv(kind([make_cartpole] * 3, autoreset_mode=AutoresetMode.SAME_STEP))


def assert_same_info(info: dict, expected: dict) -> None:
    """`expected` is in `info`; what an ended environment tells beside it is about its reset."""
    assert info.keys() - expected.keys() <= {"context"}
    for key, value in expected.items():
        assert np.array_equal(info[key], value), key


def test_agrees_with_dummy_vec_env_over_single_dreams() -> None:
    envs, reference = make(), make_reference()
    envs.seed(11), reference.seed(11)
    assert np.array_equal(envs.reset(), reference.reset())
    cut_off = ended = 0
    for actions in np.random.default_rng(0).choice([0, 1, 2, END], p=[0.4, 0.25, 0.25, 0.1], size=(30, NUM_ENVS)):
        (*arrays, infos), (*expected, expected_infos) = envs.step(actions), reference.step(actions)
        for array, other in zip(arrays, expected, strict=True):
            assert np.array_equal(array, other) and array.dtype == other.dtype
        for pair in zip(infos, expected_infos, strict=True):
            assert_same_info(*pair)
        for info, wanted in zip(envs.reset_infos, reference.reset_infos, strict=True):
            assert np.array_equal(info["context"]["frames"], wanted["context"]["frames"])
        cut_off += sum(info["TimeLimit.truncated"] for info in infos)
        ended += sum("terminal_observation" in info for info in infos)
    assert 0 < cut_off < ended


@pytest.mark.parametrize("kind", [SyncVectorEnv, partial(AsyncVectorEnv, context="spawn")], ids=["sync", "async"])
def test_bridges_real_environments_too(kind: Callable[..., VectorEnv]) -> None:
    envs, reference = make_cartpoles(kind), DummyVecEnv([make_cartpole] * 3)
    envs.seed(0), reference.seed(0)
    assert np.array_equal(envs.reset(), reference.reset())
    dones = 0
    for actions in np.random.default_rng(0).integers(2, size=(40, 3)):
        (*arrays, infos), (*expected, expected_infos) = envs.step(actions), reference.step(actions)
        for array, other in zip(arrays, expected, strict=True):
            assert np.array_equal(array, other)
        for pair in zip(infos, expected_infos, strict=True):
            assert_same_info(*pair)
        assert envs.reset_infos == reference.reset_infos
        dones += arrays[2].sum()
    assert dones > 5
    envs.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(mode: AutoresetMode) -> None:
    with pytest.raises(ValueError, match=f"expected autoreset mode SAME_STEP, got {mode}.*autoreset_mode='SameStep'"):
        make(autoreset_mode=mode)
    with pytest.raises(ValueError, match="SAME_STEP"):
        SB3VecEnv(SyncVectorEnv([lambda: gym.make("CartPole-v1")], autoreset_mode=mode))


def test_seeds_and_options_serve_one_reset() -> None:
    envs, given = make(), contexts(NUM_ENVS)
    assert envs.seed(3) == [3, 4, 5, 6]
    first = envs.reset()
    assert not np.array_equal(envs.reset(), first)
    envs.set_options({"context": {"frames": given.frames, "actions": given.actions}})
    assert np.array_equal(envs.reset(), given.frames[:, -1])
    assert not np.array_equal(envs.reset(), given.frames[:, -1])
    envs.seed(3)
    assert np.array_equal(envs.reset(), first)
    with pytest.raises(ValueError, match="one dictionary of options for all, got a list"):
        envs.set_options([{}] * NUM_ENVS)


def test_reset_infos_tell_the_contexts() -> None:
    envs = make()
    observations = envs.reset()
    assert all(
        np.array_equal(o, i["context"]["frames"][-1]) for o, i in zip(observations, envs.reset_infos, strict=True)
    )


def test_attributes_and_methods_behind_a_wrapper() -> None:
    inner = DreamVectorEnv(FakeWorldModel(), NUM_ENVS, max_episode_steps=HORIZON, autoreset_mode="SameStep")
    envs = SB3VecEnv(StackFrames(inner, 2))
    assert envs.env_method("get_action_meanings") == [["NOOP", "FIRE", "RIGHT", "LEFTFIRE"]] * NUM_ENVS
    envs.set_attr("note", "hello")
    assert envs.get_attr("note", indices=1) == ["hello"] == [inner.note]
    envs.set_attr("render_mode", "rgb_array")  # which wrappers show and cannot set
    assert envs.get_attr("render_mode") == ["rgb_array"] * NUM_ENVS == [inner.render_mode] * NUM_ENVS
    with pytest.raises(AttributeError, match="paddle"):
        envs.get_attr("paddle")


def test_attributes_and_methods_of_a_dream() -> None:
    envs = make()
    assert envs.get_attr("autoreset_mode", indices=[0, 2]) == [AutoresetMode.SAME_STEP] * 2
    assert envs.env_method("get_action_meanings") == [["NOOP", "FIRE", "RIGHT", "LEFTFIRE"]] * NUM_ENVS
    envs.set_attr("note", "hello")
    assert envs.get_attr("note", indices=1) == ["hello"]
    assert envs.has_attr("single_action_space") and not envs.has_attr("paddle")
    assert envs.env_is_wrapped(Monitor) == [False] * NUM_ENVS
    for call in (lambda: envs.env_method("render", indices=0), lambda: envs.set_attr("note", "", indices=[0, 1])):
        with pytest.raises(ValueError, match="all 4 environments at once"):
            call()


def test_attributes_and_methods_of_sub_environments() -> None:
    envs = make_cartpoles()
    assert envs.get_attr("x_threshold", indices=[0]) == [2.4]
    envs.set_attr("tau", 0.5)
    assert envs.get_attr("tau") == [0.5] * 3
    assert envs.env_method("has_wrapper_attr", "tau") == [True] * 3
    assert envs.env_is_wrapped(TimeLimit, indices=[1, 2]) == [True, True]
    assert envs.env_is_wrapped(Monitor) == [False] * 3


def test_render_tiles_the_dreams() -> None:
    envs = make(render_mode="rgb_array")
    observations = envs.reset()
    tiled = envs.render()
    assert tiled.shape == (80, 96, 3)
    assert np.array_equal(tiled[:40, :48], observations[0])


def test_statistics_reach_the_infos() -> None:
    inner = DreamVectorEnv(FakeWorldModel(), NUM_ENVS, max_episode_steps=HORIZON, autoreset_mode="SameStep")
    for envs in (SB3VecEnv(RecordEpisodeStatistics(inner)), VecMonitor(SB3VecEnv(inner))):
        envs.reset()
        for _ in range(HORIZON):
            *_, infos = envs.step(np.ones(NUM_ENVS, np.int64))
        assert [info["episode"]["r"] for info in infos] == [HORIZON] * NUM_ENVS


def test_ppo_trains_on_stacked_frames() -> None:
    envs = VecFrameStack(make(), n_stack=4)
    model = PPO("CnnPolicy", envs, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(2 * 16 * NUM_ENVS)
    assert model.num_timesteps == 128
    envs.close()
