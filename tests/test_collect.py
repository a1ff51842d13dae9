import os
import signal
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from gym_dream import real
from gym_dream.breakout import (
    BRICK_POINTS,
    ScriptedBreakout,
    bricks_in_frames,
    bricks_in_ram,
    score_in_frames,
    score_in_ram,
)
from gym_dream.data import EpisodeStore
from gym_dream.data.collect import collect
from gym_dream.data.last_bricks import LastBricks
from gym_dream.policy import RandomPolicy, streams

RANDOM = RandomPolicy(4)


@dataclass(frozen=True)
class Interrupting:
    """Does something at its step number `at`, counted over all games."""

    at: int
    what: Any
    name: str = "interrupting"

    def begin(self, num_envs, seed):
        return 0

    def reset(self, state, mask, contexts=None):
        return state

    def act(self, state, observations, info):
        if state == self.at:
            self.what()
        return np.array([1]), state + 1


def test_records_whole_games_and_exactly_as_many_steps_as_asked(tmp_path):
    summary = collect("breakout", RANDOM, 500, tmp_path, progress=False)
    episodes = EpisodeStore(tmp_path).load_all()
    assert summary.steps == sum(map(len, episodes)) == 500
    assert summary.games == len(episodes) > 1 and not summary.interrupted
    *whole, last = episodes
    assert all(
        episode.game_over and episode.terminated.sum() == 5 and not episode.info.in_progress for episode in whole
    )
    assert last.info.in_progress and not last.truncated.any()
    for number, episode in enumerate(episodes):
        assert episode.info.seed == number and episode.info.policy == "random"
        assert episode.info.env == real.env_spec("Breakout")
        np.testing.assert_array_equal(episode.ram[:, 57], episode.lives)  # the memory is that after the step
        np.testing.assert_array_equal(
            np.flatnonzero(episode.terminated), np.flatnonzero(np.diff(episode.lives, prepend=5))
        )


def test_a_recorded_game_can_be_played_again(tmp_path):
    collect("Breakout", ScriptedBreakout("ram"), 150, tmp_path, epsilon=0.2, seed=5, progress=False)
    (episode,) = EpisodeStore(tmp_path).load_all()
    with real.make("Breakout", ending="game", rewards="raw") as env:
        frame, _ = env.reset(seed=episode.info.seed)
        np.testing.assert_array_equal(frame, episode.frames[0])
        for step, action in enumerate(episode.actions):
            frame, reward, *_ = env.step(action)
            np.testing.assert_array_equal(frame, episode.frames[step + 1])
            assert reward == episode.rewards[step]


def test_appending_goes_on_with_fresh_seeds_and_equals_nothing_before(tmp_path):
    for _ in range(2):
        collect("Breakout", RANDOM, 50, tmp_path, seed=7, progress=False)
    first, second = EpisodeStore(tmp_path).load_all()
    assert (first.info.seed, second.info.seed) == (7, 8)
    assert not np.array_equal(first.actions, second.actions)


def test_seeds_go_on_from_the_last_game_where_one_was_deleted(tmp_path):
    collect("Breakout", RANDOM, 60, tmp_path, max_game_steps=20, seed=7, progress=False)
    store = EpisodeStore(tmp_path)
    store.paths[1].unlink()
    assert (len(store), store.next_number) == (2, 3)
    collect("Breakout", RANDOM, 20, tmp_path, max_game_steps=20, seed=7, progress=False)
    assert [episode.info.seed for episode in store.load_all()] == [7, 9, 10]


def test_levels_of_epsilon_share_the_steps(tmp_path):
    collect("Breakout", RANDOM, 240, tmp_path, epsilon=[0.0, 0.5, 1.0], max_game_steps=40, progress=False)
    steps = {}
    for episode in EpisodeStore(tmp_path).load_all():
        steps[episode.info.policy] = steps.get(episode.info.policy, 0) + len(episode)
    assert steps == {"random": 80, "random+epsilon=0.5": 80, "random+epsilon=1": 80}


def test_long_games_are_cut_off(tmp_path):
    collect("Breakout", RANDOM, 40, tmp_path, max_game_steps=np.int64(20), progress=False)
    for episode in EpisodeStore(tmp_path).load_all():
        assert len(episode) == 20 and episode.truncated[-1] and not episode.info.in_progress


def last_bricks(env):
    return LastBricks(env, most=2)


def test_games_begin_with_the_last_bricks_and_go_on_to_a_second_wall(tmp_path):
    play = {"wrapper": last_bricks, "max_game_steps": 200, "progress": False}
    collect("Breakout", ScriptedBreakout("ram"), 400, tmp_path / "games", seed=3, **play)
    episodes = EpisodeStore(tmp_path / "games").load_all()
    # The steps until the bricks are gone are none of the game's.
    assert [(len(episode), bool(episode.truncated[-1])) for episode in episodes] == [(200, True), (200, True)]
    assert {bricks_in_frames(episode.frames[:1]).sum() for episode in episodes} == {1, 2}
    for episode in episodes:
        assert episode.info.start == "last_bricks=2"
        seen, standing, score = bricks_in_frames(episode.frames), bricks_in_ram(episode.ram), score_in_ram(episode.ram)
        # The score is that of the bricks taken, before and after, so the next wall comes when it should.
        np.testing.assert_array_equal(score, episode.rewards.cumsum() + score_in_frames(episode.frames[:1]))
        points = ~standing.reshape(-1, 6, 18) @ np.ones(18, np.int64) @ np.array(BRICK_POINTS)
        (wall,) = np.flatnonzero(np.diff(standing.sum(axis=1).astype(int)) > 100)
        np.testing.assert_array_equal(score[: wall + 1], points[: wall + 1])
        assert score[wall] == 432 and not standing[wall].any() and standing[wall + 1].all() and seen[wall + 2].all()

    collect("Breakout", ScriptedBreakout("ram"), 100, tmp_path / "again", seed=3, **play)
    again = EpisodeStore(tmp_path / "again").load_all()[0]
    np.testing.assert_array_equal(again.frames, episodes[0].frames[: len(again) + 1])


@pytest.mark.parametrize("ending", ["life", "game"])
def test_bricks_are_taken_of_a_new_game_only_and_the_score_is_no_reward(ending):
    with last_bricks(real.make("Breakout", ending=ending)) as env:
        for seed in (5, None):
            frame, info = env.reset(seed=seed)
            assert 1 <= bricks_in_frames(frame[None]).sum() <= 2
            assert info["raw_reward"] == 0 and info["lives"] == 5 and info["start"] == "last_bricks=2"
            assert score_in_ram(info["ram"][None]) > 400
            lives = 1
            while info["lives"]:
                last, _, terminated, _, info = env.step(1)
                if terminated and info["lives"]:
                    memory = info["ram"]
                    frame, info = env.reset()
                    lives += 1
                    np.testing.assert_array_equal(frame, last)
                    np.testing.assert_array_equal(info["ram"], memory)
                    assert info["start"] == "last_bricks=2"
            assert lives == {"life": 5, "game": 1}[ending]


@pytest.mark.parametrize(
    ("game", "most", "message"),
    [
        ("Breakout", 0, "from 1 to 108, got 0"),
        ("Breakout", 109, "from 1 to 108, got 109"),
        ("Pong", 3, "for Breakout only, got ALE/Pong-v5"),
    ],
)
def test_last_bricks_that_cannot_be_are_refused_before_a_folder_is_made(game, most, message, tmp_path):
    policy = RandomPolicy(6 if game == "Pong" else 4)
    with pytest.raises(ValueError, match=f"Last bricks .*: .*{message}"):
        collect(game, policy, 5, tmp_path / "data", wrapper=lambda env: LastBricks(env, most), progress=False)
    assert not list(tmp_path.iterdir())


def test_a_wrapper_is_closed(tmp_path):
    closed = []

    class Noting(gym.Wrapper):
        def close(self):
            closed.append(True)
            super().close()

    collect("Breakout", RANDOM, 5, tmp_path, wrapper=Noting, progress=False)
    assert closed


def test_which_bricks_are_left_is_drawn_apart_from_what_policies_draw():
    """Streams of equal numbers would tie the bricks to the actions; a purpose is named by the module that uses it."""
    with last_bricks(real.make("Breakout")) as env:
        env.reset(seed=5)
        left = bricks_in_ram(env.unwrapped.ale.getRAM()[None])[0]
    for purpose in range(12):
        (random,) = streams(1, 5, purpose)
        assert np.array_equal(random.permutation(108) < random.integers(1, 3), left) == (purpose == 7)


def test_a_game_without_lives(tmp_path):
    collect("Pong", RandomPolicy(6), 200, tmp_path, progress=False)
    (episode,) = EpisodeStore(tmp_path).load_all()
    assert not episode.lives.any() and not episode.terminated.any() and (episode.rewards == -1).any()


def test_ctrl_c_loses_no_finished_step(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    policy = Interrupting(at=30, what=lambda: signal.raise_signal(signal.SIGINT))
    summary = collect("Breakout", policy, 1000, tmp_path, progress=False)
    (episode,) = EpisodeStore(tmp_path).load_all()
    assert summary.interrupted and summary.steps == len(episode) == 31
    assert episode.info.in_progress
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("times, error", [(1, RuntimeError), (2, KeyboardInterrupt)])
def test_neither_does_an_error_or_ctrl_c_pressed_twice(tmp_path, times, error):
    def fail():
        if error is RuntimeError:
            raise error
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(error):
        collect("Breakout", Interrupting(at=30, what=fail), 1000, tmp_path, progress=False)
    (episode,) = EpisodeStore(tmp_path).load_all()
    assert len(episode) == 30 and episode.info.in_progress


def test_bad_input_is_refused_before_the_first_step(tmp_path, monkeypatch):
    collect("Breakout", RANDOM, 5, tmp_path, progress=False)
    for arguments, message in [
        (("Pong", RandomPolicy(6), 5), "another environment, with id 'ALE/Breakout-v5'"),
        (("Brekout", RANDOM, 5), "Did you mean Breakout"),
        (("Breakout", RANDOM, 0), "steps must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            collect(*arguments, tmp_path, progress=False)
    for epsilon in (1.5, []):
        with pytest.raises(ValueError, match="epsilon"):
            collect("Breakout", RANDOM, 5, tmp_path, epsilon=epsilon, progress=False)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="Cannot write"):
        collect("Breakout", RANDOM, 5, tmp_path, progress=False)
    assert EpisodeStore(tmp_path).num_steps == 5
