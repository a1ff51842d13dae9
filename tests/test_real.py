import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv

from gym_dream import real
from gym_dream.games import GAMES, find_game
from gym_dream.sb3 import SB3VecEnv

SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED


@pytest.fixture
def no_idle_frames(monkeypatch):
    """ALE and Gymnasium draw the idle frames at a game's start differently."""
    monkeypatch.setattr(real, "NOOP_MAX", 0)


def ale_vec(num_envs, **kwargs):
    """ALE's own vector environment, with the settings that `make_vec` is said to have."""
    return gym.make_vec(
        "ALE/Breakout-v5",
        num_envs=num_envs,
        img_height=64,
        img_width=64,
        grayscale=False,
        stack_num=1,
        frameskip=4,
        noop_max=30,
        repeat_action_probability=0.0,
        use_fire_reset=False,
        reward_clipping=False,
        **kwargs,
    )


def losing_actions(seed, steps, num_envs):
    """Serve now and then and otherwise flee to one side, so that lives are lost often."""
    return np.where(np.random.default_rng(seed).random((steps, num_envs)) < 0.2, 1, 3)


@pytest.mark.parametrize("game", GAMES, ids=lambda game: game.name)
def test_every_game_is_the_same_single_and_vectorised(game, no_idle_frames):
    rng = np.random.default_rng(0)
    env, envs = real.make(game.name, rewards="raw"), real.make_vec(game.name, autoreset_mode=SAME_STEP, rewards="raw")
    with env:
        assert env.action_space == envs.single_action_space == gym.spaces.Discrete(game.actions)
        assert env.observation_space == envs.single_observation_space
        observation, info = env.reset(seed=1)
        observations, infos = envs.reset(seed=1)
        for _ in range(30):
            np.testing.assert_array_equal(observation, observations[0])
            assert observation.dtype == observations.dtype == np.uint8 and observation.shape == (64, 64, 3)
            assert info["lives"] == infos["lives"][0] and info["raw_reward"] == infos["raw_reward"][0]
            assert info["ram"].shape == (128,) and info["ram"].dtype == np.uint8
            action = rng.integers(game.actions)
            observation, reward, terminated, truncated, info = env.step(action)
            observations, rewards, terminations, truncations, infos = envs.step(np.array([action]))
            assert (reward, terminated, truncated) == (rewards[0], terminations[0], truncations[0])
            if terminated:
                observation, info = env.reset()
                info["raw_reward"] = infos["raw_reward"][0]
    envs.close()


@pytest.mark.parametrize("ending", ["life", "game"])
def test_single_and_vectorised_agree_over_lives_and_games(ending, no_idle_frames):
    envs = real.make_vec("Breakout", ending=ending, autoreset_mode=SAME_STEP)
    observations, _ = envs.reset(seed=3)
    lives_lost = []
    with real.make("Breakout", ending=ending) as env:
        observation, _ = env.reset(seed=3)
        for action in losing_actions(seed=3, steps=500, num_envs=1)[:, 0]:
            np.testing.assert_array_equal(observation, observations[0])
            observation, _, terminated, _, info = env.step(action)
            observations, _, terminations, _, infos = envs.step(np.array([action]))
            assert terminated == terminations[0]
            if terminated:
                np.testing.assert_array_equal(observation, infos["final_obs"][0])
                assert infos["final_info"]["lives"][0] == info["lives"]
                lives_lost.append(info["lives"])
                observation, info = env.reset()
            assert info["lives"] == infos["lives"][0]
    assert lives_lost[:6] == ([4, 3, 2, 1, 0, 4] if ending == "life" else [0] * len(lives_lost)) and lives_lost


def test_is_ales_vector_environment():
    """Pixels, rewards, endings and seeds over several games, idle frames included."""
    theirs, ours = (
        ale_vec(3, autoreset_mode="SameStep"),
        real.make_vec("Breakout", 3, ending="game", autoreset_mode="SameStep", rewards="raw"),
    )
    expected, _ = theirs.reset(seed=5)
    observations, _ = ours.reset(seed=5)
    games = 0
    for actions in losing_actions(seed=5, steps=250, num_envs=3):
        np.testing.assert_array_equal(observations, expected[:, 0])
        expected, their_rewards, their_ends, _, their_infos = theirs.step(actions)
        observations, rewards, terminated, truncated, infos = ours.step(actions)
        np.testing.assert_array_equal(rewards, their_rewards)
        np.testing.assert_array_equal(terminated, their_ends)
        np.testing.assert_array_equal(infos["lives"], their_infos["lives"])
        if terminated.any():
            np.testing.assert_array_equal(infos["final_obs"][terminated], their_infos["final_obs"][terminated, 0])
            np.testing.assert_array_equal(infos["_final_obs"], terminated)
            games += terminated.sum()
        assert not truncated.any()
    assert games >= 3


def wrong_final_observations(envs, steps=200):
    """Lost lives whose final observation is not that at which the next life begins."""
    envs.reset(seed=0)
    wrong = lost = 0
    for actions in losing_actions(seed=0, steps=steps, num_envs=envs.num_envs):
        observations, _, terminated, _, infos = envs.step(actions)
        rows = np.flatnonzero(terminated & (infos["lives"] < 5))  # 5 lives: a new game has begun
        lost += len(rows)
        wrong += sum(not np.array_equal(infos["final_obs"][row], observations[row]) for row in rows)
    assert lost > 5
    return wrong


def test_final_observations_of_lives_hold_in_same_step_mode():
    assert wrong_final_observations(real.make_vec("Breakout", 3, autoreset_mode=SAME_STEP)) == 0


def test_which_ales_own_do_not():
    """Why `RealVectorEnv` handles lives itself. Should this ever fail, ALE has mended it and ours can be simpler."""
    assert wrong_final_observations(ale_vec(3, autoreset_mode="SameStep", life_loss_info=True)) > 0


def ignored_action_matters(envs, steps=120):
    """Whether the action after an ending, which starts the next episode and is to be ignored, changes anything."""

    def play(at_reset):
        observations, _ = envs.reset(seed=2)
        ended, frames, resets = np.zeros(envs.num_envs, bool), [], 0
        for actions in losing_actions(seed=2, steps=steps, num_envs=envs.num_envs):
            before, resets = observations, resets + ended.sum()
            observations, rewards, terminated, truncated, infos = envs.step(np.where(ended, at_reset, actions))
            assert not rewards[ended].any() and not terminated[ended].any() and not truncated[ended].any()
            same_game = ended & (infos["lives"] < 5)
            frames.append(observations)
            frames.append(np.where(same_game[(..., *[None] * (observations.ndim - 1))], observations - before, 0))
            ended = terminated | truncated
        assert resets > 4
        return np.stack(frames)

    left, right = play(at_reset=3), play(at_reset=2)
    return not np.array_equal(left, right) or left[1::2].any()


def test_the_action_after_a_life_is_ignored_in_next_step_mode():
    assert not ignored_action_matters(real.make_vec("Breakout", 2, autoreset_mode=NEXT_STEP))


def test_which_ale_itself_plays():
    """As `test_which_ales_own_do_not`."""
    assert ignored_action_matters(ale_vec(2, autoreset_mode="NextStep", life_loss_info=True))


def test_without_autoreset_the_ended_are_reset_by_mask():
    envs = real.make_vec("Breakout", 2, autoreset_mode=DISABLED)
    envs.reset(seed=0)
    resets = 0
    for actions in losing_actions(seed=4, steps=200, num_envs=2):
        observations, _, terminated, _, infos = envs.step(actions)
        if terminated.any():
            with pytest.raises(ResetNeeded, match="reset_mask"):
                envs.step(actions)
            after, after_infos = envs.reset(options={"reset_mask": terminated})
            np.testing.assert_array_equal(after[~terminated], observations[~terminated])
            going_on = infos["lives"] > 0
            np.testing.assert_array_equal(after[going_on], observations[going_on])
            np.testing.assert_array_equal(after_infos["lives"], np.where(going_on, infos["lives"], 5))
            resets += 1
    assert resets > 5


def test_a_seed_begins_a_new_game_whatever_was_played():
    envs = real.make_vec("Breakout", 2, ending="game")
    first, _ = envs.reset(seed=[11, 12])
    trajectory = [envs.step(actions)[0] for actions in losing_actions(0, 40, 2)]
    again, infos = envs.reset(seed=11)
    np.testing.assert_array_equal(first, again)
    assert infos["lives"].tolist() == [5, 5]
    for observations, actions in zip(trajectory, losing_actions(0, 40, 2), strict=True):
        np.testing.assert_array_equal(observations, envs.step(actions)[0])

    with real.make("Breakout", ending="game") as env:
        trajectories = []
        for _ in range(2):
            trajectories.append([env.reset(seed=11)[0]])
            trajectories[-1] += [env.step(action)[0] for action in losing_actions(0, 40, 1)[:, 0]]
        np.testing.assert_array_equal(*trajectories)


def test_rewards_are_signs_or_points():
    signs, points = (real.make_vec("MsPacman", autoreset_mode=SAME_STEP, rewards=kind) for kind in ("sign", "raw"))
    signs.reset(seed=0), points.reset(seed=0)
    total = 0.0
    for _ in range(120):
        _, sign, *_, info = signs.step(np.array([3]))
        _, point, *_ = points.step(np.array([3]))
        assert sign[0] == np.sign(point[0]) and info["raw_reward"][0] == point[0]
        assert sign.dtype == np.float64 and info["raw_reward"].dtype == np.float32
        total += point[0]
    assert total >= 20


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP])
def test_long_episodes_are_cut_off(mode):
    envs = real.make_vec("Breakout", 2, max_episode_steps=5, autoreset_mode=mode)
    envs.reset(seed=0)
    cuts = [envs.step(np.zeros(2, int))[3].all() for _ in range(12)]
    assert np.flatnonzero(cuts).tolist() == ([4, 9] if mode == SAME_STEP else [4, 10])
    with real.make("Breakout", max_episode_steps=5) as env:
        env.reset(seed=0)
        assert [env.step(0)[3] for _ in range(5)] == [False] * 4 + [True]


def test_observations_belong_to_the_caller():
    envs, untouched = real.make_vec("Breakout", 2), real.make_vec("Breakout", 2)
    mine, expected = envs.reset(seed=0)[0], untouched.reset(seed=0)[0]
    for actions in losing_actions(0, 40, 2):
        np.testing.assert_array_equal(mine, expected)
        mine[:] = 0
        mine, *_, info = envs.step(actions)
        expected, *_ = untouched.step(actions)
        info["lives"][:] = 0


def test_modes_are_each_environments_own():
    environments = [real.make_vec("Breakout", autoreset_mode=mode) for mode in AutoresetMode]
    assert [envs.metadata["autoreset_mode"] for envs in environments] == list(AutoresetMode)
    assert [envs.autoreset_mode for envs in environments] == list(AutoresetMode)
    assert "autoreset_mode" not in VectorEnv.metadata


def test_renders_what_it_shows():
    envs = real.make_vec("Breakout", 2, render_mode="rgb_array")
    observations, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(envs.render(), observations)
    assert real.make_vec("Breakout").render() is None
    with real.make("Breakout", render_mode="rgb_array") as env:
        env.reset(seed=0)
        assert env.render().shape == (210, 160, 3)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_gymnasium_approves():
    with real.make("Breakout", render_mode="rgb_array") as env:
        check_env(env, skip_render_check=True)


def test_stable_baselines_can_step_it():
    envs = SB3VecEnv(real.make_vec("Breakout", 2, autoreset_mode=SAME_STEP))
    envs.reset()
    for actions in losing_actions(0, 60, 2):
        observations, _, dones, infos = envs.step(actions)
        for row in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[row]["terminal_observation"], observations[row])
            assert not infos[row]["TimeLimit.truncated"]


def test_spec_makes_the_same_environment_again():
    with real.make("Breakout", ending="game", rewards="raw", max_episode_steps=7) as env:
        spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
        with gym.make(spec) as again:
            for made in (env, again):
                made.reset(seed=1)
            for action in losing_actions(1, 7, 1)[:, 0]:
                left, right = env.step(action), again.step(action)
                np.testing.assert_array_equal(left[0], right[0])
                assert left[1:4] == right[1:4]
            assert left[3]


def test_env_spec_is_plain_data():
    spec = real.env_spec("ms_pacman", repeat_action_probability=0.25)
    assert json.loads(json.dumps(spec)) == spec
    assert spec["id"] == "ALE/MsPacman-v5" and spec["game"] == "MsPacman" and len(spec["action_meanings"]) == 9
    assert spec["repeat_action_probability"] == 0.25 and spec["ending"] == "life"
    assert real.env_spec("Breakout")["keys_to_action"] == {"e": 0, " ": 1, "d": 2, "a": 3}


def test_games_are_found_by_any_spelling():
    assert len(GAMES) == 26
    for name in ("MsPacman", "ms_pacman", "ms-pacman", "MSPACMAN"):
        assert find_game(name).name == "MsPacman"
    with pytest.raises(ValueError, match=r"'Brekout'.*Did you mean Breakout"):
        real.make("Brekout")
    with pytest.raises(ValueError, match=r"26 Atari 100k games\. Known: Alien"):
        real.make_vec("zzz")


def test_bad_input_is_refused():
    envs = real.make_vec("Breakout", 2)
    with pytest.raises(ResetNeeded, match=r"reset\(\)"):
        envs.step(np.zeros(2, int))
    envs.reset(seed=0)
    for actions in (np.array([0, 4]), np.array([-1, 0]), np.zeros(3, int), np.zeros(2)):
        with pytest.raises(InvalidAction):
            envs.step(actions)
    for mask in (np.ones(3, bool), np.ones(2, int)):
        with pytest.raises(ValueError, match="reset_mask"):
            envs.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="got 3"):
        envs.reset(seed=[1, 2, 3])
    with real.make("Breakout") as env:
        with pytest.raises(ResetNeeded):
            env.step(0)
        env.reset(seed=0)
        for action in (-1, 4):
            with pytest.raises(InvalidAction, match=r"Discrete\(4\)"):
                env.step(action)
        while not env.step(1)[2]:
            pass
        with pytest.raises(ResetNeeded, match="ended with a life"):
            env.step(0)
    for bad in ({"ending": "lives"}, {"rewards": "clip"}):
        for make in (real.make, real.make_vec):
            with pytest.raises(ValueError, match="must be"):
                make("Breakout", **bad)
    with pytest.raises(ValueError, match="num_envs"):
        real.make_vec("Breakout", 0)
    with pytest.raises(ValueError, match="render_mode"):
        real.make_vec("Breakout", render_mode="human")


def test_limits_options_and_closing_are_those_of_dreams():
    envs = real.make_vec("Breakout", 2, max_episode_steps=-1)
    envs.reset(seed=0)
    assert not envs.step(np.zeros(2, np.int64))[3].any()
    assert envs.get_action_meanings() == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    with pytest.raises(ValueError, match="'contxt'"):
        envs.reset(options={"contxt": 1})
    envs.close()
    for call in (lambda: envs.step(np.zeros(2, np.int64)), envs.render, envs.reset):
        with pytest.raises(gym.error.ClosedEnvironmentError):
            call()
    for make in (real.make, real.make_vec):
        with pytest.raises(ValueError, match="at least 1"):
            make("Breakout", max_episode_steps=0)


def test_closing_ends_the_games_threads():
    def threads():
        return len(list(Path("/proc/self/task").iterdir()))

    if not Path("/proc/self/task").is_dir():
        pytest.skip("counts threads as Linux lists them")
    envs = real.make_vec("Breakout", 4)
    envs.reset(seed=0)
    before = threads()
    envs.close()
    assert threads() <= before - 4


def test_any_seed_from_zero_on_is_one_and_an_unseeded_run_can_be_repeated():
    envs, others = (real.make_vec("Breakout", 2, render_mode="rgb_array") for _ in range(2))
    with pytest.raises(ResetNeeded, match=r"reset\(\)"):
        envs.render()
    for seed in (2**31 - 1, 2**31, 2**40, [2**32, 3]):
        observations = [made.reset(seed=seed)[0] for made in (envs, others)]
        np.testing.assert_array_equal(*observations)
    hashed = [real._ale_seed(seed) for seed in (2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**40)]
    assert hashed[0] == 2**31 - 1 and len(set(hashed)) == 5 and max(hashed) < 2**31
    assert others.reset(seed=2**40) and others.np_random_seed == 2**40
    for seed in (-1, [3, -4]):
        frames = envs.render()
        with pytest.raises(ValueError, match="must not be negative, got -"):
            envs.reset(seed=seed)
        np.testing.assert_array_equal(frames, envs.render())  # before a game was touched

    unseeded, again = (real.make_vec("Breakout", 2) for _ in range(2))
    first, _ = unseeded.reset()
    np.testing.assert_array_equal(first, again.reset(seed=unseeded.np_random_seed)[0])
    for actions in losing_actions(0, 40, 2):
        np.testing.assert_array_equal(unseeded.step(actions)[0], again.step(actions)[0])
