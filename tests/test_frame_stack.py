from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from fakes import END, FRAME_SHAPE, FakeWorldModel, contexts
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.vec_env import VecFrameStack

from gym_dream.env import DreamEnv
from gym_dream.frame_stack import StackedPolicy, StackFrames
from gym_dream.sb3 import SB3VecEnv
from gym_dream.vector_env import DreamVectorEnv

NUM_ENVS = 3


def dreams(mode: str = "SameStep") -> VectorEnv:
    return DreamVectorEnv(FakeWorldModel(), NUM_ENVS, max_episode_steps=5, autoreset_mode=mode)


def single_dreams() -> VectorEnv:
    def make() -> gym.Env:
        return gym.wrappers.TimeLimit(DreamEnv(FakeWorldModel()), 5)

    return SyncVectorEnv([make] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)


def actions(steps: int) -> np.ndarray:
    return np.random.default_rng(0).choice([0, 1, 2, END], p=[0.4, 0.25, 0.25, 0.1], size=(steps, NUM_ENVS))


@pytest.mark.parametrize("make", [dreams, single_dreams])
def test_stacks_are_those_of_stable_baselines3(make: Callable[[], VectorEnv]) -> None:
    """In every step, and in the final observations."""
    stacked, reference = StackFrames(make(), 4), VecFrameStack(SB3VecEnv(make()), 4)
    reference.seed(7)
    assert np.array_equal(stacked.reset(seed=7)[0], reference.reset())
    endings = 0
    for action in actions(30):
        frames, rewards, terminated, truncated, info = stacked.step(action)
        expected, expected_rewards, dones, infos = reference.step(action)
        assert np.array_equal(frames, expected) and frames.dtype == np.uint8
        assert np.array_equal(rewards, expected_rewards) and np.array_equal(terminated | truncated, dones)
        for row in np.flatnonzero(dones):
            assert np.array_equal(info["final_obs"][row], infos[row]["terminal_observation"])
        endings += dones.sum()
    assert endings > 10
    assert stacked.observation_space.contains(frames)
    assert stacked.single_observation_space.shape == (40, 48, 12)


def test_next_step_and_disabled_reset_show_the_same_frames_as_same_step() -> None:
    """The frames that each game shows, one episode after the other, are stacked alike in every mode."""
    shown: dict[str, list[list[np.ndarray]]] = {}
    for mode in ("SameStep", "NextStep", "Disabled"):
        envs = StackFrames(dreams(mode), 3)
        frames, _ = envs.reset(seed=1)
        assert envs.autoreset_mode is AutoresetMode(mode)
        seen = [[frame] for frame in frames]
        for _ in range(14):
            frames, _, terminated, truncated, info = envs.step(np.ones(NUM_ENVS, np.int64))
            ended = terminated | truncated
            if "final_obs" in info:
                for row in np.flatnonzero(ended):
                    seen[row].append(info["final_obs"][row])
            if mode == "Disabled" and ended.any():
                for row in range(NUM_ENVS):
                    seen[row].append(frames[row])
                frames, _ = envs.reset(options={"reset_mask": ended})
            for row in range(NUM_ENVS):
                seen[row].append(frames[row])
        shown[mode] = seen
    for row in range(NUM_ENVS):
        length = min(len(seen[row]) for seen in shown.values())
        assert length > 12
        for frames in zip(*(seen[row][:length] for seen in shown.values()), strict=True):
            assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[0], frames[2])


def test_what_cannot_be_stacked_is_refused() -> None:
    with pytest.raises(ValueError, match="images"):
        StackFrames(gym.make_vec("CartPole-v1", 2))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        StackFrames(dreams(), 0)


def test_a_policy_sees_what_it_was_trained_on() -> None:
    """It is shown the stacks of `StackFrames`, forgets what ended, and catches up on a context."""
    stacks: list[np.ndarray] = []

    def logits(stack: np.ndarray) -> np.ndarray:
        stacks.append(stack)
        return np.zeros((len(stack), 4))

    policy, envs = StackedPolicy("test", logits, 4), StackFrames(dreams(), 4)
    frames, _ = envs.reset(seed=3)
    state = policy.begin(NUM_ENVS, seed=0)
    for action in actions(20):
        _, state = policy.act(state, frames[..., -3:], {})
        assert np.array_equal(stacks[-1], frames)
        frames, _, terminated, truncated, _ = envs.step(action)
        state = policy.reset(state, terminated | truncated)

    given = contexts(NUM_ENVS, padded=1)
    _, state = policy.act(state, frames[..., -3:], {})
    state = policy.reset(state, np.array([True, False, True]), given)
    policy.act(state, given.frames[:, -1], {})
    expected = np.zeros((*FRAME_SHAPE[:2], 12), np.uint8)
    expected[..., 6:9], expected[..., 9:] = given.frames[2, 1], given.frames[2, 2]
    assert np.array_equal(stacks[-1][2], expected)
    assert np.array_equal(stacks[-1][1, ..., :9], stacks[-2][1, ..., 3:]) and stacks[-2][1].any()  # that one goes on


def test_a_policy_draws_as_the_network_says() -> None:
    probabilities = np.array([0.1, 0.6, 0.3])
    policy = StackedPolicy("test", lambda stack: np.tile(np.log(probabilities), (len(stack), 1)), 1)
    frames = np.zeros((4, *FRAME_SHAPE), np.uint8)

    def draw(rows: int, seed: int) -> np.ndarray:
        state: Any = policy.begin(rows, seed)
        drawn = []
        for _ in range(1000):
            action, state = policy.act(state, frames[:rows], {})
            drawn.append(action)
        return np.array(drawn)

    many = draw(4, seed=0)
    assert np.allclose(np.bincount(many.ravel()) / many.size, probabilities, atol=0.03)
    assert np.array_equal(draw(2, seed=0), many[:, :2])  # a row's draws do not depend on its neighbours
    assert not np.array_equal(draw(4, seed=1), many)
