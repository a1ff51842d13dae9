import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import VecFrameStack

from gym_dream import real
from gym_dream.breakout import FIRE, LEFT, RIGHT, ScriptedBreakout, ball_events, locate_in_frames, locate_in_ram
from gym_dream.data import Contexts
from gym_dream.policy import EpsilonPolicy, RandomPolicy, load_policy
from gym_dream.sb3 import SB3VecEnv

ENV = {"game": "Breakout", "action_meanings": ["NOOP", "FIRE", "RIGHT", "LEFT"], "frame_shape": [64, 64, 3]}


def observations(num_envs, step=0):
    return np.random.default_rng(step).integers(0, 256, (num_envs, 64, 64, 3), dtype=np.uint8)


def act_often(policy, num_envs, steps=50, seed=0):
    """Actions (steps, num_envs) in environments that show noise; row i sees the same whatever num_envs."""
    state = policy.begin(num_envs, seed)
    actions = []
    for step in range(steps):
        chosen, state = policy.act(state, observations(8, step)[:num_envs], {})
        assert chosen.shape == (num_envs,) and chosen.dtype == np.int64
        actions.append(chosen)
    return np.stack(actions)


@pytest.fixture(scope="module")
def game():
    """A game: frames (T + 1, ...), actions (T,), memory after each step (T, 128), and its return."""
    return play(ScriptedBreakout("ram"), steps=500)


def play(policy, steps, seed=0):
    frames, actions, memory, score = [], [], [], 0.0
    with real.make("Breakout", ending="game", rewards="raw") as env:
        frame, info = env.reset(seed=seed)
        state = policy.begin(1, seed)
        frames.append(frame)
        for _ in range(steps):
            action, state = policy.act(state, frame[None], {"ram": info["ram"][None]})
            frame, reward, terminated, _, info = env.step(action[0])
            frames.append(frame), actions.append(action[0]), memory.append(info["ram"])
            score += reward
            if terminated:
                break
    return np.stack(frames), np.array(actions), np.stack(memory), score


@pytest.mark.parametrize(
    "policy",
    [RandomPolicy(4), EpsilonPolicy(RandomPolicy(4), 0.3, 4), EpsilonPolicy(ScriptedBreakout(noise=0.2), 0.3, 4)],
    ids=lambda policy: policy.name,
)
def test_every_environment_has_a_stream_of_its_own(policy):
    actions = act_often(policy, num_envs=5)
    np.testing.assert_array_equal(actions[:, :2], act_often(policy, num_envs=2))
    np.testing.assert_array_equal(actions, act_often(policy, num_envs=5))
    assert not np.array_equal(actions[:, 0], actions[:, 1])
    assert not np.array_equal(actions, act_often(policy, num_envs=5, seed=1))


def test_random_actions_are_uniform():
    counts = np.bincount(act_often(RandomPolicy(4), num_envs=8, steps=200).ravel(), minlength=4)
    assert counts.sum() == 1600 and (np.abs(counts - 400) < 80).all()


def test_epsilon_is_how_often_the_policy_is_overruled():
    class Never:
        name = "never"

        def begin(self, num_envs, seed):
            return None

        def act(self, state, observations, info):
            return np.full(len(observations), 7), state

    for epsilon in (0.0, 0.25, 1.0):
        actions = act_often(EpsilonPolicy(Never(), epsilon, 4), num_envs=8, steps=200)
        assert abs((actions != 7).mean() - epsilon) < 0.04
        assert actions[actions != 7].max(initial=0) < 4
    for epsilon in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            EpsilonPolicy(RandomPolicy(4), epsilon, 4)


def test_ball_and_paddle_in_frames_are_where_the_memory_says(game):
    frames, _, memory, _ = game
    (ball, paddle), (true_ball, true_paddle) = locate_in_frames(frames[1:]), locate_in_ram(memory)
    below_bricks = (true_ball[:, 1] > 30) & (true_ball[:, 1] < 55)
    assert below_bricks.sum() > 200 and not np.isnan(ball[below_bricks]).any()
    assert np.linalg.norm(ball - true_ball, axis=1)[below_bricks].max() < 1.5
    assert np.isnan(ball[np.isnan(true_ball[:, 0])]).all()
    before = np.roll(true_ball, 1, axis=0)
    still_falling = below_bricks & (before[:, 1] > 30) & (np.abs(true_ball - before).max(axis=1) < 4)
    assert np.abs(ball + (true_ball - before) / 8 - true_ball)[still_falling].max() < 0.45

    at_rest = np.append(False, np.diff(true_paddle) == 0) & (true_paddle > 7) & (true_paddle < 57)
    at_rest &= ~(true_ball[:, 1] > 45)  # nor touched by the ball
    error = np.abs(paddle - true_paddle)[at_rest]  # a paddle seen at one place twice may have moved in between
    assert len(error) > 50 and np.quantile(error, 0.9) < 0.03 and error.max() < 1.5


def test_events_are_where_the_ball_turns_comes_and_goes(game):
    *_, memory, _ = game
    ball, _ = locate_in_ram(memory)
    events = ball_events(memory)
    steps = np.diff(ball, axis=0)
    for axis in (0, 1):  # a change of direction
        turns = 2 + np.flatnonzero(steps[1:, axis] * steps[:-1, axis] < 0)
        assert len(turns) > 10 and events[turns].all()
    there = ~np.isnan(ball[:, 0])
    assert events[1 + np.flatnonzero(there[1:] != there[:-1])].all()
    gone = ~there[2:] & ~there[1:-1] & ~there[:-2]
    assert not events[2:][gone].any()
    assert 0.05 < events.mean() < 0.5


def test_nothing_is_found_in_an_empty_frame():
    ball, paddle = locate_in_frames(np.full((2, 64, 64, 3), 142, np.uint8))
    assert np.isnan(ball).all() and np.isnan(paddle).all()


@pytest.mark.parametrize("source", ["pixels", "ram"])
def test_the_scripted_player_keeps_the_ball_in_play(source):
    *_, memory, score = play(ScriptedBreakout(source), steps=400)
    assert memory[-1, 57] == 5 and score >= 8


@pytest.mark.parametrize("handicap", [{"noise": 0.5}, {"lag": 8}])
def test_noise_and_lag_cost_lives(game, handicap):
    *_, memory, _ = game
    *_, handicapped, _ = play(ScriptedBreakout("ram", **handicap), steps=500)
    assert handicapped[-1, 57] < memory[-1, 57]


def test_the_scripted_player_catches_up_on_contexts(game):
    """Reset on a context it acts as if it had been there, if it knows all that counts: where the falling ball was."""
    frames, actions, *_ = game
    ball, _ = locate_in_frames(frames)
    falling = np.flatnonzero((ball[3:-1, 1] > ball[2:-2, 1]) & (ball[2:-2, 1] > ball[1:-3, 1])) + 3
    policy, agreed = ScriptedBreakout(), 0
    for t in falling[::5]:
        context = Contexts(frames[None, t - 3 : t + 1], actions[None, t - 3 : t], np.ones((1, 4), bool))
        state = policy.reset(policy.begin(1, seed=0), np.array([True]), context)
        caught_up, _ = policy.act(state, frames[t : t + 1], {})

        state = policy.begin(1, seed=0)
        for step in range(t - 3, t):
            _, state = policy.act(state, frames[step : step + 1], {})
        agreed += caught_up[0] == policy.act(state, frames[t : t + 1], {})[0][0]
    assert len(falling[::5]) > 20 and agreed / len(falling[::5]) > 0.7

    padded = Contexts(context.frames, context.actions, np.array([[False, False, False, True]]))
    np.testing.assert_array_equal(
        policy.reset(policy.begin(1, 0), np.array([True]), padded).sights, policy.begin(1, 0).sights
    )


def test_reset_forgets_only_what_ended(game):
    frames, *_ = game
    policy = ScriptedBreakout()
    state = policy.begin(2, seed=0)
    for frame in frames[20:60]:
        _, state = policy.act(state, np.stack([frame, frame]), {})
    after = policy.reset(state, np.array([True, False]))
    assert np.isnan(after.sights[:, 0]).all()
    np.testing.assert_array_equal(after.sights[:, 1], state.sights[:, 1])


def test_it_serves_and_follows():
    policy = ScriptedBreakout()
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[57:60, 30:36, 0] = 200
    state = policy.begin(1, seed=0)
    served = []
    for _ in range(100):
        action, state = policy.act(state, frame[None], {})
        served.append(action[0] == FIRE)
    assert 8 < sum(served) < 35
    for column, expected in ((10, LEFT), (54, RIGHT)):
        state = policy.begin(1, seed=0)
        for row in (40, 43, 46):
            falling = frame.copy()
            falling[row : row + 2, column, 0] = 200
            action, state = policy.act(state, falling[None], {})
        assert action[0] == expected


@pytest.mark.parametrize(
    "spec, name",
    [
        ("random", "random"),
        ("random+epsilon=0.5", "random+epsilon=0.5"),
        ("random+epsilon=0.12345678", "random+epsilon=0.12345678"),
        ("persistent(repeat=0.9999999)", "persistent(repeat=0.9999999)"),
        ("scripted", "scripted(noise=0)"),
        ("scripted(noise=1.0)", "scripted(noise=1)"),
        ("scripted(noise=0.1,lag=2)+epsilon=0.3", "scripted(noise=0.1,lag=2)+epsilon=0.3"),
    ],
)
def test_policies_by_name(spec, name):
    policy = load_policy(spec, ENV)
    assert policy.name == name and load_policy(name, ENV) == policy
    assert load_policy("scripted", ENV, source="ram") == ScriptedBreakout("ram")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("clever", "expected 'random', 'persistent"),
        ("scripted(speed=2)", "Unknown setting 'speed=2'.*noise=NUMBER or lag=STEPS"),
        ("scripted(noise=much)", "Expected a number of type float.*got 'much'"),
        ("scripted(noise=-1)", "must not be negative"),
        ("random+epsilon=2", "between 0 and 1"),
        ("persistent(repeat=1)", "below 1"),
        ("persistent(hold=1)", "Unknown policy"),
        ("random+epsilon=", "Expected a number"),
    ],
)
def test_bad_names(spec, message):
    with pytest.raises(ValueError, match=message):
        load_policy(spec, ENV)


def test_other_games_have_no_scripted_player():
    with pytest.raises(
        ValueError, match=r"Breakout only, not for Pong: use 'random', 'agent:FOLDER' or 'sb3:FILE\.zip'"
    ):
        load_policy("scripted", {**ENV, "game": "Pong"})


def test_reading_memory_where_there_is_none():
    policy = ScriptedBreakout("ram")
    with pytest.raises(ValueError, match=r"info\['ram'\]"):
        policy.act(policy.begin(1, 0), observations(1), {})


@pytest.fixture(scope="module")
def vec_env():
    return SB3VecEnv(real.make_vec("Breakout", 2, autoreset_mode="SameStep"))


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_sb3_sees_the_stack_that_it_was_trained_on(vec_env, tmp_path, algorithm):
    stacked = VecFrameStack(vec_env, 4)
    settings = {"n_steps": 8, "batch_size": 8} if algorithm is PPO else {"buffer_size": 10}
    model = algorithm("CnnPolicy", stacked, seed=0, **settings)
    model.save(tmp_path / "model.zip")
    policy = load_policy(f"sb3:{tmp_path / 'model.zip'}", ENV)
    assert policy.num_frames == 4
    for name, parameter in model.policy.state_dict().items():
        torch.testing.assert_close(policy.network.state_dict()[name], parameter)

    state, seen = policy.begin(2, seed=0), stacked.reset()
    ended = 0
    for step in range(80):
        frames = seen[..., -3:]
        actions, state = policy.act(state, frames, {})
        np.testing.assert_array_equal(state.stack, seen)
        assert actions.dtype == np.int64 and actions.shape == (2,)
        seen, _, dones, _ = stacked.step(np.where(np.arange(2) + step % 5 == 0, 1, 3))
        state = policy.reset(state, dones)
        ended += dones.sum()
    assert ended


def test_sb3_recurrent_memories_are_kept_merged_and_burnt_in(vec_env, tmp_path):
    model = RecurrentPPO(
        "CnnLstmPolicy", vec_env, n_steps=8, batch_size=8, seed=0, policy_kwargs={"lstm_hidden_size": 16}
    )
    model.save(tmp_path / "model.zip")
    policy = load_policy(f"sb3:{tmp_path / 'model.zip'}", ENV)
    assert policy.num_frames == 1

    state = policy.begin(3, seed=0)
    for step in range(4):
        before = state
        _, state = policy.act(state, observations(3, step), {})
    _, expected = model.policy.predict(observations(3, 3), before.recurrent, np.zeros(3, bool))
    for ours, theirs in zip(state.recurrent, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)

    # Row 1 begins a new episode with nothing before it, row 2 with a context, row 0 goes on.
    frames = np.stack([observations(3, step) for step in range(4)], axis=1)
    seen = np.array([[1, 1, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]], bool)
    contexts = Contexts(frames, np.zeros((3, 3), np.int64), seen)
    reset = policy.reset(state, np.array([False, True, True]), contexts)
    _, after = policy.act(reset, frames[:, 3], {})

    _, going_on = policy.act(state, frames[:, 3], {})
    _, fresh = policy.act(policy.begin(3, seed=0), frames[:, 3], {})
    burnt_in = policy.begin(3, seed=0)
    for step in (1, 2, 3):
        _, burnt_in = policy.act(burnt_in, frames[:, step], {})
    for row, expected in ((0, going_on), (1, fresh), (2, burnt_in)):
        for ours, theirs in zip(after.recurrent, expected.recurrent, strict=True):
            np.testing.assert_allclose(ours[:, row], theirs[:, row], atol=1e-6)


def test_sb3_draws_are_reproducible_and_leave_torchs_stream_alone(vec_env, tmp_path):
    PPO("CnnPolicy", vec_env, n_steps=8, batch_size=8, seed=0).save(tmp_path / "model.zip")
    policy = load_policy(f"sb3:{tmp_path / 'model.zip'}+epsilon=0.1", ENV)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = act_often(policy, num_envs=2, steps=20)
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(first, act_often(policy, num_envs=2, steps=20))
    assert not np.array_equal(first, act_often(policy, num_envs=2, steps=20, seed=1))


class Shapes(SB3VecEnv):
    """A vector environment of any shapes, to build models with."""

    def __init__(self, observation_space, action_space):
        super().__init__(real.make_vec("Breakout", 1, autoreset_mode="SameStep"))
        self.observation_space, self.action_space = observation_space, action_space


def test_sb3_models_of_other_environments_are_refused(tmp_path):
    path = tmp_path / "model.zip"
    for observation_shape, num_actions, message in [
        ((84, 84, 4), 4, "expected images of 64x64 with 3 channels"),
        ((64, 64, 4), 4, "expected images of 64x64 with 3 channels"),
        ((64, 64, 3), 6, r"takes Discrete\(4\)"),
    ]:
        space = Box(0, 255, observation_shape, np.uint8)
        PPO("CnnPolicy", Shapes(space, Discrete(num_actions)), n_steps=8, batch_size=8).save(path)
        with pytest.raises(ValueError, match=message):
            load_policy(f"sb3:{path}", ENV)


def test_files_that_are_no_sb3_models(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_policy(f"sb3:{tmp_path / 'nothing.zip'}", ENV)
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(ValueError, match="wasn't a zip-file"):
        load_policy(f"sb3:{tmp_path / 'text.zip'}", ENV)
