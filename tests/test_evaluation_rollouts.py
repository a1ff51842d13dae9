"""Windows are stretches of one life; replays follow the real actions, each dream by itself."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FRAME_SHAPE, LENGTH, FakeDynamics

from gym_dream.data.episode import Episode, EpisodeInfo
from gym_dream.evaluation.rollouts import draw_windows, longest_window, repeat_last_frame, replay


def game(number: int, lives: list[int]) -> Episode:
    """A game whose frames tell game and position; each life ends after so many steps."""
    steps = sum(lives)
    frames = np.zeros((steps + 1, *FRAME_SHAPE), np.uint8)
    frames[:, :, :, 0] = number
    frames[:, :, :, 1] = np.arange(steps + 1)[:, None, None]
    terminated = np.zeros(steps, np.bool_)
    terminated[np.cumsum(lives) - 1] = True
    return Episode(
        frames=frames,
        actions=np.arange(steps) % 4,
        rewards=np.zeros(steps, np.float32),
        terminated=terminated,
        truncated=np.zeros(steps, np.bool_),
        lives=(len(lives) - np.cumsum(terminated)).astype(np.int32),
        ram=None,
        info=EpisodeInfo({"game": "Fake"}, number, "random"),
    )


GAMES = [game(1, [12, 40]), game(2, [30, 9, 30]), game(3, [5, 5]), game(4, [25])]


def test_windows_are_what_happened_within_one_life() -> None:
    windows = draw_windows(GAMES, LENGTH, 20, 1000, seed=0)
    for i in range(len(windows)):
        episode, step = GAMES[windows.episode[i]], windows.first_step[i]
        np.testing.assert_array_equal(windows.frames[i], episode.frames[step + 1 : step + 21])
        np.testing.assert_array_equal(windows.actions[i], episode.actions[step : step + 20])
        np.testing.assert_array_equal(windows.contexts.frames[i], episode.frames[step - LENGTH + 1 : step + 1])
        np.testing.assert_array_equal(windows.contexts.actions[i], episode.actions[step - LENGTH + 1 : step])
        assert not episode.terminated[step - LENGTH + 1 : step + 19].any()
    assert windows.contexts.real.all()
    # Every window there is, once each: a life of n steps has n - 21 places for 2 + 20 steps.
    assert len(windows) == (40 - 21) + (30 - 21) * 2 + (25 - 21)
    assert len({(e, s) for e, s in zip(windows.episode, windows.first_step, strict=True)}) == len(windows)


def test_lives_do_not_interrupt_where_only_the_game_does() -> None:
    assert longest_window(GAMES, LENGTH) == 38
    assert longest_window(GAMES, LENGTH, ending="game") == 67
    assert len(draw_windows(GAMES, LENGTH, 60, 1000, seed=0, ending="game")) == 69 - 61


def test_the_first_windows_come_from_different_games() -> None:
    assert sorted(draw_windows(GAMES, LENGTH, 20, 3, seed=1).episode) == [0, 1, 3]
    assert sorted(draw_windows(GAMES, LENGTH, 20, 6, seed=1).episode) == [0, 0, 1, 1, 3, 3]


def test_windows_of_several_lengths_are_drawn_until_none_is_left() -> None:
    windows = draw_windows(GAMES, LENGTH, (5, 20, 38), 1000, seed=0)
    # Each life of n steps has n - 6 places for 2 + 5 steps.
    assert len(windows) == 6 + 34 + 24 + 3 + 24 + 19
    assert len({(e, s) for e, s in zip(windows.episode, windows.first_step, strict=True)}) == len(windows)
    assert len(draw_windows(GAMES, LENGTH, (5, 20, 38), 107, seed=0)) == 107


@pytest.mark.parametrize("games", [2, 3, 4])
def test_every_game_gets_windows_of_every_length(games: int) -> None:
    alike = [game(i, [33]) for i in range(games)]  # each has two windows of 30 steps, and many shorter ones
    windows = draw_windows(alike, LENGTH, (1, 30), 2 * games, seed=0)
    assert np.bincount(windows.episode).tolist() == [2] * games
    assert set(windows.episode[windows.length == 30]) == set(range(games))


def test_the_seed_fixes_the_windows() -> None:
    first, again, other = (draw_windows(GAMES, LENGTH, 20, 9, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert (first.first_step != other.first_step).any()


def test_windows_begin_where_asked() -> None:
    windows = draw_windows(GAMES, LENGTH, 10, 1000, seed=0, begins=lambda frames: frames[:, 0, 0, 1] % 5 == 0)
    assert len(windows) > 5
    assert (windows.contexts.frames[:, -1, 0, 0, 1] % 5 == 0).all()
    with pytest.raises(ValueError, match="4 games has 12 steps without an ending after a frame to begin from"):
        draw_windows(GAMES, LENGTH, 10, 5, seed=0, begins=lambda frames: np.zeros(len(frames), np.bool_))


def test_no_window_long_enough() -> None:
    with pytest.raises(ValueError, match="Ask for fewer steps"):
        draw_windows(GAMES, LENGTH, 39, 5, seed=0)


def test_replay_goes_on_past_endings() -> None:
    windows = draw_windows(GAMES, LENGTH, 8, 5, seed=0)
    assert (windows.actions == 3).any()  # which ends a fake dream
    dreamt = replay(FakeDynamics(), windows)
    assert dreamt.shape == windows.frames.shape and dreamt.dtype == np.uint8
    expected = windows.contexts.frames[:, -1]
    for step in range(8):
        expected = (expected * np.float32(0.9)).astype(np.uint8)
        np.testing.assert_array_equal(dreamt[:, step, 1:], expected[:, 1:])


def test_dreams_do_not_depend_on_their_batch() -> None:
    windows = draw_windows(GAMES, LENGTH, 4, 5, seed=0)
    together = replay(FakeDynamics(), windows, seed=7)
    np.testing.assert_array_equal(together, replay(FakeDynamics(), windows, seed=7, max_batch=2))
    assert (together != replay(FakeDynamics(), windows, seed=8)).any()


def test_repeating_the_last_frame() -> None:
    windows = draw_windows(GAMES, LENGTH, 4, 5, seed=0)
    repeated = repeat_last_frame(windows)
    assert repeated.shape == windows.frames.shape
    np.testing.assert_array_equal(repeated[:, 3], windows.contexts.frames[:, -1])
