from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from fakes import END, FRAME_SHAPE, LENGTH, FakeWorldModel, contexts
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import DependencyNotInstalled, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from gym_dream.env import DreamEnv
from gym_dream.window import Window


def make(**kwargs: Any) -> DreamEnv:
    return DreamEnv(FakeWorldModel(), **kwargs)


def fake_spec() -> EnvSpec:
    return EnvSpec("Fake-v0", entry_point="gym_dream.env:DreamEnv", kwargs={"model": FakeWorldModel()})


def test_passes_both_checkers() -> None:
    check_env(gym.make(fake_spec()).unwrapped)
    check_env_sb3(make(render_mode="rgb_array"), skip_render_check=False)


def test_spaces_and_types() -> None:
    env = make()
    observation, info = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape == FRAME_SHAPE
    assert observation.dtype == np.uint8
    observation, reward, terminated, truncated, info = env.step(1)
    assert observation.shape == FRAME_SHAPE
    assert [type(value) for value in (reward, terminated, truncated)] == [float, bool, bool]
    assert (reward, terminated, truncated, info) == (1.0, False, False, {})
    assert env.step(np.int64(END))[2] is True
    assert env.step(np.array(2))[1] == -1.0  # and the dream goes on


def test_the_context_is_told_at_a_reset() -> None:
    env = make(reset_from="replay")
    observation, info = env.reset(seed=0)
    context = info["context"]
    assert np.array_equal(observation, context["frames"][-1])
    assert (context["frames"].shape, context["frames"].dtype) == ((LENGTH, *FRAME_SHAPE), np.uint8)
    assert (context["actions"].tolist(), context["actions"].dtype) == ([0, 1], np.int64)
    assert context["real"].tolist() == [False, True, True]


def test_a_dream_from_frames_of_your_own() -> None:
    env, given = make(), contexts(1)
    expected = env.reset(seed=0)[0]
    frames, actions = given.frames[0], given.actions[0].astype(np.int32)
    options = {"context": {"frames": frames, "actions": actions, "real": np.array([False, True, True])}}
    observation, info = env.reset(seed=0, options=options)
    assert np.array_equal(observation, frames[-1])
    assert info["context"]["real"].tolist() == [False, True, True]
    assert np.array_equal(env.reset(seed=0)[0], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_mask": np.ones(1, np.bool_)}, r"Unknown reset options \['reset_mask'\]: expected 'context'"),
        ({"context": {"frames": contexts(1).frames, "actions": [0, 1]}}, r"uint8 of shape \(3, 40, 48, 3\)"),
        ({"context": {"frames": contexts(1).frames[0], "actions": [0, 9]}}, r"Discrete\(4\), got 9"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises((ValueError, InvalidAction), match=message):
        make().reset(options=options)


def test_an_unseeded_run_can_be_repeated() -> None:
    env = make()
    first, second = env.reset()[0], env.reset()[0]
    again = make()
    assert np.array_equal(again.reset(seed=env.np_random_seed)[0], first)
    assert np.array_equal(again.reset()[0], second)


@pytest.mark.parametrize("action", [4, -1, 1.0, np.array([1]), "1", None])
def test_impossible_actions_are_refused(action: object) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"Discrete\(4\)"):
        env.step(action)


def test_nothing_goes_before_reset() -> None:
    env = make(render_mode="rgb_array")
    for call in (lambda: env.step(0), env.render):
        with pytest.raises(ResetNeeded, match=r"reset\(\)"):
            call()


def test_render_gives_the_frame_as_it_is() -> None:
    env = make(render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    frame = env.render()
    assert np.array_equal(frame, observation)
    frame[:] = observation[:] = 0
    assert env.render().any()
    with pytest.raises(ValueError, match=r"render_mode must be one of .* got 'ansi'"):
        make(render_mode="ansi")


def test_render_without_a_mode_warns() -> None:
    env = make()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert env.render() is None


def test_metadata_is_a_copy() -> None:
    env = make()
    assert env.metadata is not DreamEnv.metadata
    assert env.metadata["render_fps"] == 15


def test_a_model_must_be_named() -> None:
    with pytest.raises(ValueError, match="Pass model='runs/pong/world_model'"):
        DreamEnv()


def test_the_model_checks_its_own_settings() -> None:
    make(model_kwargs={"num_denoising_steps": 1})
    with pytest.raises(TypeError, match="num_dreamy_steps"):
        make(model_kwargs={"num_dreamy_steps": 1})


def test_time_limit_and_statistics_wrap_a_dream() -> None:
    env = RecordEpisodeStatistics(gym.make(fake_spec(), max_episode_steps=4))
    env.reset(seed=0)
    *_, truncated, info = [env.step(1) for _ in range(4)][-1]
    assert truncated
    assert (info["episode"]["r"], info["episode"]["l"]) == (4, 4)


def test_videos_can_be_recorded(tmp_path: Any) -> None:
    pytest.importorskip("moviepy")
    env = gym.wrappers.RecordVideo(
        gym.make(fake_spec(), render_mode="rgb_array", max_episode_steps=4), str(tmp_path / "videos")
    )
    env.reset(seed=0)
    for _ in range(4):
        env.step(0)
    env.close()
    assert list(tmp_path.glob("videos/*.mp4"))


@pytest.fixture
def pygame(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return pytest.importorskip("pygame")


def test_a_window_shows_the_dream_enlarged(pygame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(render_mode="human")
    env.metadata["render_fps"] = 1000
    env.close()  # with no window open
    observation, _ = env.reset(seed=0)
    screen = pygame.display.get_surface()
    assert screen.get_size() == (13 * FRAME_SHAPE[1], 13 * FRAME_SHAPE[0])
    shown = pygame.surfarray.array3d(screen).swapaxes(0, 1)
    assert np.array_equal(shown[::13, ::13], observation)
    assert env.render() is None
    env.step(0)
    env.close()
    assert not pygame.display.get_init()


def test_a_window_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(DependencyNotInstalled, match=r"gym-dream\[play\]"):
        Window("", fps=15).show(np.zeros(FRAME_SHAPE, np.uint8))


def test_a_person_can_play(pygame: Any) -> None:
    from gymnasium.utils.play import play

    pressed: list[int] = []

    def press(*step: Any) -> None:
        pressed.append(step[2])
        key = pygame.K_d if len(pressed) < 3 else pygame.K_ESCAPE
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))

    play(gym.make(fake_spec(), render_mode="rgb_array"), fps=1000, callback=press, seed=0)
    assert pressed == [0, 2, 2]


@pytest.mark.parametrize("name", ["get_action_meanings", "get_keys_to_action"])
def test_a_model_that_names_no_actions_says_so(name: str) -> None:
    model = FakeWorldModel()
    model.config.env.clear()
    ask: Callable[[], Any] = getattr(DreamEnv(model), name)
    with pytest.raises(ValueError, match=r"config does not say its \w+: add it under 'env'"):
        ask()
