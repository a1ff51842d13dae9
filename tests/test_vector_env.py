from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from fakes import END, FRAME_SHAPE, LENGTH, FakeWorldModel, contexts
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from gym_dream.env import DreamEnv
from gym_dream.vector_env import DreamVectorEnv

NUM_ENVS = 5
HORIZON = 6


def make(num_envs: int = NUM_ENVS, **kwargs: Any) -> DreamVectorEnv:
    return DreamVectorEnv(FakeWorldModel(), num_envs, **{"max_episode_steps": HORIZON, **kwargs})


def make_reference(mode: AutoresetMode) -> SyncVectorEnv:
    """Gymnasium's own vector environment over single dreams."""
    return SyncVectorEnv(
        [lambda: TimeLimit(DreamEnv(FakeWorldModel()), HORIZON)] * NUM_ENVS, autoreset_mode=mode, copy=True
    )


def random_actions(steps: int) -> np.ndarray:
    """Mostly harmless, now and then an ending."""
    return np.random.default_rng(0).choice([0, 1, 2, END], p=[0.4, 0.25, 0.25, 0.1], size=(steps, NUM_ENVS))


def reset_by_hand(envs: VectorEnv, ended: np.ndarray) -> Any:
    if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
        return envs.reset(options={"reset_mask": ended})
    return None


@pytest.mark.parametrize("mode", AutoresetMode)
def test_agrees_with_gymnasiums_vector_env_over_single_dreams(mode: AutoresetMode) -> None:
    envs, reference = make(autoreset_mode=mode), make_reference(mode)
    (observation, info), (expected, expected_info) = envs.reset(seed=3), reference.reset(seed=3)
    assert np.array_equal(observation, expected)
    assert data_equivalence(info, expected_info, exact=True)
    endings = 0
    for actions in random_actions(40):
        result, wanted = envs.step(actions), reference.step(actions)
        for array, other in zip(result[:4], wanted[:4], strict=True):
            assert np.array_equal(array, other) and array.dtype == other.dtype
        assert result[4].keys() == wanted[4].keys()
        ended = result[2] | result[3]
        endings += ended.sum()
        if "final_obs" in result[4]:
            assert np.array_equal(result[4].pop("final_obs")[ended], np.stack(wanted[4].pop("final_obs")[ended]))
        assert data_equivalence(result[4], wanted[4], exact=True)
        assert data_equivalence(reset_by_hand(envs, ended), reset_by_hand(reference, ended), exact=True)
    assert endings > 10
    reference.close()


def test_spaces_and_types() -> None:
    envs = make()
    observation, _ = envs.reset(seed=0)
    assert envs.single_observation_space == gym.spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
    assert observation in envs.observation_space and observation.dtype == np.uint8
    actions = envs.action_space.sample()
    assert actions.shape == (NUM_ENVS,)
    observation, reward, terminated, truncated, info = envs.step(actions)
    assert observation in envs.observation_space
    assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
    assert info == {}


def test_many_dreams_make_as_many_network_calls_as_one() -> None:
    calls = {}
    for num_envs in (1, 16):
        envs = make(num_envs)
        envs.reset(seed=0)
        for _ in range(3):
            envs.step(np.zeros(num_envs, np.int64))
        calls[num_envs] = envs.dream.dynamics.calls
    assert calls[1] == [("begin", 1)] + [("step", 1)] * 3
    assert calls[16] == [("begin", 16)] + [("step", 16)] * 3


def test_next_step_does_not_dream_on_when_all_have_ended() -> None:
    envs = make()
    envs.reset(seed=0)
    for _ in range(HORIZON + 1):
        envs.step(np.zeros(NUM_ENVS, np.int64))
    assert [kind for kind, _ in envs.dream.dynamics.calls] == ["begin"] + ["step"] * HORIZON + ["begin"]


def test_same_step_gives_the_frames_before_the_reset() -> None:
    envs, unlimited = make(autoreset_mode="SameStep"), make(max_episode_steps=-1, autoreset_mode="Disabled")
    envs.reset(seed=0), unlimited.reset(seed=0)
    actions = np.array([0, END, 0, END, 1])
    observation, _, terminated, _, info = envs.step(actions)
    assert terminated.tolist() == info["_final_obs"].tolist() == (actions == END).tolist()
    assert np.array_equal(info["final_obs"], unlimited.step(actions)[0])
    assert np.array_equal(observation[terminated], info["context"]["frames"][terminated, -1])
    assert np.array_equal(observation[~terminated], info["final_obs"][~terminated])
    assert not info["context"]["frames"][~terminated].any()


def test_disabled_refuses_to_step_what_has_ended() -> None:
    envs = make(autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    envs.step(np.array([0, 0, END, 0, END]))
    with pytest.raises(ResetNeeded, match=r"\[2, 4\] have ended.*reset_mask"):
        envs.step(np.zeros(NUM_ENVS, np.int64))
    envs.reset(options={"reset_mask": np.array([0, 0, 1, 0, 1], np.bool_)})
    envs.step(np.zeros(NUM_ENVS, np.int64))


def test_horizon_is_a_thousand_unless_told_otherwise() -> None:
    assert DreamVectorEnv(FakeWorldModel()).dream.horizon == 1000
    envs = make(max_episode_steps=-1)
    envs.reset(seed=0)
    assert not any(envs.step(np.zeros(NUM_ENVS, np.int64))[3].any() for _ in range(3 * HORIZON))


def test_seeds() -> None:
    envs = make()
    by_number, _ = envs.reset(seed=7)
    by_list, _ = envs.reset(seed=[7, 8, 9, 10, 11])
    assert np.array_equal(by_number, by_list)
    assert np.array_equal(envs.reset(seed=np.int64(7))[0], by_number)
    continued, _ = envs.reset()
    mixed, _ = envs.reset(seed=[7, None, None, None, 11])
    assert np.array_equal(mixed[[0, 4]], by_number[[0, 4]])
    assert not np.array_equal(continued, by_number)


def test_an_unseeded_run_can_be_repeated() -> None:
    envs = make()
    observation, _ = envs.reset()
    assert np.array_equal(make().reset(seed=envs.np_random_seed)[0], observation)


def test_reset_mask_with_seed_and_context() -> None:
    envs, given = make(), contexts(NUM_ENVS)
    before, _ = envs.reset(seed=0)
    mask = np.array([False, True, True, False, False])
    options = {"reset_mask": mask, "context": {"frames": given.frames, "actions": given.actions}}
    observation, info = envs.reset(seed=50, options=options)
    assert np.array_equal(observation[mask], given.frames[mask, -1])
    assert np.array_equal(observation[~mask], before[~mask])
    assert info["_context"].tolist() == mask.tolist()
    assert np.array_equal(info["context"]["frames"][mask], given.frames[mask])
    assert np.array_equal(info["context"]["actions"][mask], given.actions[mask])
    assert info["context"]["real"][mask].all()
    assert set(options) == {"reset_mask", "context"}
    # For that reset only: the next one draws, from the stream of seed 50 + i, and the others stay in theirs.
    drawn, _ = envs.reset()
    for seed, rows in ((50, mask), (0, ~mask)):
        other = make()
        other.reset(seed=seed)
        assert np.array_equal(drawn[rows], other.reset()[0][rows])


def test_replay_contexts_say_what_is_padding() -> None:
    envs = make(reset_from="replay")
    _, info = envs.reset(seed=0)
    assert info["context"]["real"].tolist() == [[False] + [True] * (LENGTH - 1)] * NUM_ENVS


def test_arrays_are_never_shared() -> None:
    envs = make(autoreset_mode="SameStep", max_episode_steps=2, render_mode="rgb_array")
    observation, info = envs.reset(seed=0)
    results: list[Any] = [observation, *info["context"].values(), info["_context"], *envs.render()]
    for _ in range(3):
        observation, reward, terminated, truncated, info = envs.step(np.zeros(NUM_ENVS, np.int64))
        results += [observation, reward, terminated, truncated]
        results += [*info.get("context", {}).values()]
        results += [info[key] for key in ("_context", "final_obs", "_final_obs", "_final_info") if key in info]
    for i, array in enumerate(results):
        assert not any(np.shares_memory(array, other) for other in results[:i])
    expected = make(max_episode_steps=2).reset(seed=0)[0]
    observation[:] = 0
    assert np.array_equal(envs.reset(seed=0)[0], expected)


def test_metadata_is_a_copy() -> None:
    envs = make(autoreset_mode="SameStep")
    assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is AutoresetMode.SAME_STEP
    assert envs.metadata["render_fps"] == 15
    assert "autoreset_mode" not in DreamVectorEnv.metadata
    assert "autoreset_mode" not in VectorEnv.metadata
    assert make().metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_render() -> None:
    envs = make(render_mode="rgb_array")
    with pytest.raises(ResetNeeded):
        envs.render()
    observation, _ = envs.reset(seed=0)
    assert np.array_equal(np.stack(envs.render()), observation)
    assert make().render() is None


def test_names_of_actions() -> None:
    assert make().get_action_meanings()[1] == "FIRE"
    assert make().get_keys_to_action()[("a", " ")] == END


def test_gymnasiums_wrappers_work() -> None:
    envs = DictInfoToList(RecordEpisodeStatistics(make(autoreset_mode="SameStep")))
    _, infos = envs.reset(seed=0)
    assert infos[0]["context"]["frames"].shape == (LENGTH, *FRAME_SHAPE)
    for _ in range(HORIZON):
        *_, infos = envs.step(np.ones(NUM_ENVS, np.int64))
    assert [info["episode"]["r"] for info in infos] == [HORIZON] * NUM_ENVS
    assert infos[0]["final_obs"].shape == FRAME_SHAPE


def test_step_needs_a_reset_and_an_open_environment() -> None:
    envs = make()
    with pytest.raises(ResetNeeded, match=r"reset\(\)"):
        envs.step(np.zeros(NUM_ENVS, np.int64))
    envs.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"Discrete\(4\), got 4 \(row 2 of 5\)"):
        envs.step(np.array([0, 1, 4, 0, 0]))
    envs.close()
    envs.close()
    for call in (envs.reset, lambda: envs.step(np.zeros(NUM_ENVS, np.int64))):
        with pytest.raises(ClosedEnvironmentError):
            call()


FRAMES, ACTIONS = contexts(NUM_ENVS).frames, contexts(NUM_ENVS).actions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contexts": {}}, r"Unknown reset options \['contexts'\]"),
        ({"reset_mask": [True] * 5}, r"NumPy array of type bool and shape \(5,\)"),
        ({"reset_mask": np.ones(4, np.bool_)}, r"shape \(5,\)"),
        ({"reset_mask": np.zeros(5, np.bool_)}, "at least one True"),
        ({"context": FRAMES}, "must be a dictionary.*got ndarray"),
        ({"context": {"frames": FRAMES}}, r"got \['frames'\]"),
        ({"context": {"frames": FRAMES[0], "actions": ACTIONS}}, r"uint8 of shape \(5, 3, 40, 48, 3\), got"),
        ({"context": {"frames": FRAMES.astype(np.float32), "actions": ACTIONS}}, "got float32 of shape"),
        ({"context": {"frames": FRAMES, "actions": ACTIONS[:, 1:]}}, r"between the frames.*\(5, 2\), got \(5, 1\)"),
        ({"context": {"frames": FRAMES, "actions": ACTIONS + 3}}, r"Discrete\(4\), got 4"),
        ({"context": {"frames": FRAMES, "actions": ACTIONS * 1.0}}, "type float64"),
        ({"context": {"frames": FRAMES, "actions": ACTIONS, "real": np.ones((5, 3))}}, "bool of shape"),
        ({"context": {"frames": FRAMES, "actions": ACTIONS, "real": np.zeros((5, 3), np.bool_)}}, "padded only before"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    envs = make()
    expected = envs.reset(seed=0), envs.reset()
    envs.reset(seed=0)
    with pytest.raises((ValueError, InvalidAction), match=message):
        envs.reset(seed=9, options=options)
    assert np.array_equal(envs.reset()[0], expected[1][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "at least 1, got 0"),
        ({"max_episode_steps": 0}, "-1 for none; got 0"),
        ({"autoreset_mode": "Never"}, "'Never' is not a valid AutoresetMode"),
        ({"reset_from": "begin"}, "'start' or 'replay', got 'begin'"),
        ({"render_mode": "human"}, "'rgb_array' or None, got 'human'"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_a_model_without_replay_contexts_says_so() -> None:
    with pytest.raises(ValueError, match="without replay contexts: use reset_from='start'"):
        DreamVectorEnv(FakeWorldModel(replay=None), reset_from="replay")


def test_the_first_reset_must_be_of_all() -> None:
    with pytest.raises(ResetNeeded, match="first reset must be of all"):
        make().reset(options={"reset_mask": np.array([True, False, False, False, False])})
    with pytest.raises(ValueError, match="each of the 5 dreams, got 2"):
        make().reset(seed=[1, 2])
