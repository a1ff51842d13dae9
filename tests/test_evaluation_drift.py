"""Drift: figures worked out by hand, and dreams broken on purpose, which must be caught."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from gym_dream import real
from gym_dream.data import Contexts, EpisodeStore
from gym_dream.data.collect import collect
from gym_dream.evaluation.drift import (
    Forecast,
    Series,
    at_steps,
    curve,
    event_series,
    half_life,
    on_real_frames,
    series,
)
from gym_dream.evaluation.events import Judgements
from gym_dream.evaluation.probes import Details, Number, Pieces, all_visible, details_of
from gym_dream.evaluation.rollouts import Windows, draw_windows, repeat_last_frame
from gym_dream.policy import load_policy

STEPS = (1, 5, 15, 40)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Stretches of real Breakout."""
    folder = tmp_path_factory.mktemp("games")
    policy = load_policy("scripted(noise=0.03)", real.env_spec("Breakout"), source="ram")
    collect("Breakout", policy, 600, folder, epsilon=0.2, seed=5, max_game_steps=300, progress=False)
    begins = all_visible(details_of({"game": "Breakout"}).objects)
    return draw_windows(EpisodeStore(folder).load_all(), 4, STEPS, 24, seed=0, begins=begins)


def figures(windows: Windows, forecast: Forecast, k: str = "1-40") -> dict[str, float]:
    found = series(windows, forecast, details_of({"game": "Breakout"}))
    return {name: at_steps(figure, windows.episode, STEPS)[k].mean for name, figure in found.items()}


def perfect(windows: Windows) -> Forecast:
    return Forecast(windows.frames, windows.rewards, windows.terminated)


def test_what_really_happened_is_a_perfect_forecast(windows: Windows) -> None:
    assert (windows.rewards.sum(), windows.terminated.sum()) > (5, 2)  # or the test shows nothing
    found = figures(windows, perfect(windows))
    assert found["PSNR"] > 58
    for name in ("SSIM", "ball present", "ball within 2 px", "paddle within 2 px", "reward +1: F1", "ending: F1"):
        assert found[name] == pytest.approx(1), name
    assert found["bricks unlike the real ones"] == 0 and found["score as in the game"] == 1
    # What the probes say of the game itself is what a dream can be held to.
    assert found["bricks that come back"] < 5
    assert found["bricks: rewards that take one"] > 0.9
    assert found["bricks: losses that pay"] > 0.9
    assert found["score: changes without a reward"] < 5


def test_a_dream_that_stands_still_is_caught(windows: Windows) -> None:
    broken = figures(windows, replace(perfect(windows), frames=np.array(repeat_last_frame(windows))), "40")
    assert broken["PSNR"] < 40
    assert broken["ball within 2 px"] < 0.3
    assert broken["ball present"] == 1  # presence alone would not have shown it
    assert broken["bricks: rewards that take one"] < 0.1
    assert broken["SSIM"] < 0.99


def test_shuffled_rewards_are_caught(windows: Windows) -> None:
    inside, rewards = windows.inside, windows.rewards.copy()
    rewards[inside] = np.random.default_rng(0).permutation(rewards[inside])
    broken = figures(windows, replace(perfect(windows), rewards=rewards))
    assert broken["reward +1: F1"] < 0.3
    assert broken["reward +1: F1 within a step"] < 0.5
    assert broken["bricks: rewards that take one"] < 0.5
    assert broken["bricks: losses that pay"] < 0.5
    assert broken["score: changes without a reward"] > 5
    assert broken["PSNR"] > 58  # the frames are as before


def test_missing_endings_are_caught(windows: Windows) -> None:
    broken = figures(windows, replace(perfect(windows), ends=np.zeros_like(windows.terminated)))
    assert broken["ending: recall"] == broken["ending: F1"] == 0
    assert math.isnan(broken["ending: precision"])
    always = figures(windows, replace(perfect(windows), ends=np.ones_like(windows.terminated)))
    assert always["ending: recall"] == 1 and always["ending: precision"] < 0.2


def test_a_dream_without_a_ball_is_caught(windows: Windows) -> None:
    frames = windows.frames.copy()
    frames[:, :, 29:57, 3:61] = 0
    broken = figures(windows, replace(perfect(windows), frames=frames))
    assert broken["ball present"] == broken["ball within 2 px"] == 0
    assert broken["paddle within 2 px"] == 1


def small(lengths: list[int], steps: int = 4, side: int = 8) -> Windows:
    """Windows of black frames."""
    count = len(lengths)
    return Windows(
        contexts=Contexts(np.zeros((count, 1, side, side, 3), np.uint8), np.zeros((count, 0), np.int64),
                          np.ones((count, 1), np.bool_)),
        actions=np.zeros((count, steps), np.int64),
        frames=np.zeros((count, steps, side, side, 3), np.uint8),
        episode=np.arange(count),
        first_step=np.zeros(count, np.int64),
        length=np.array(lengths),
        rewards=np.zeros((count, steps), np.int64),
        terminated=np.zeros((count, steps), np.bool_),
    )  # fmt: skip


def marks(frames: np.ndarray) -> np.ndarray:
    """Three pieces: which of the first three pixels are lit."""
    return frames[:, 0, :3, 0] > 0


PIECES = Details(pieces=(Pieces("stones", marks, marks),))
NUMBER = Details(numbers=(Number("count", lambda f: f[:, 0, 0, 0].astype(np.int64) - 1, lambda ram: ram[:, 0]),))


def test_pieces_that_go_and_come_back() -> None:
    windows = small([4, 3])
    windows.contexts.frames[:, 0, 0, :3, 0] = 255
    windows.frames[:, :, 0, :3, 0] = 255
    frames, rewards = windows.frames.copy(), windows.rewards.copy()
    frames[0, 1:, 0, 0, 0] = 0  # gone at step 2, paid at step 3: within a step
    rewards[0, 2] = 1
    rewards[0, 3] = 1  # at the edge of the window: what it takes may go a step later, so it does not count
    frames[1, 1, 0, 1:, 0] = 0  # two gone at step 2, unpaid; back at step 3
    found = series(windows, Forecast(frames, rewards, windows.terminated), PIECES)
    rows = {name: at_steps(found[name], windows.episode, (2, 4)) for name in found if name.startswith("stones")}
    assert rows["stones unlike the real ones"]["2"].mean == 1.5
    assert rows["stones that come back"]["4"].mean == pytest.approx(1000 * 2 / 3)  # 2 stones, 3 frames after step 2
    assert rows["stones that come back"]["2"].mean == 0
    assert rows["stones: rewards that take one"]["1-4"].mean == 1
    assert rows["stones: losses that pay"]["1-4"].mean == 0.5
    assert found["stones that come back"].of_itself and not found["PSNR"].of_itself


def test_numbers_that_change_without_a_reward() -> None:
    windows = small([4])
    windows.contexts.frames[:, 0, 0, 0, 0] = 11
    windows.frames[:, :, 0, 0, 0] = 11
    frames, rewards = windows.frames.copy(), windows.rewards.copy()
    frames[0, :, 0, 0, 0] = (11, 0, 12, 13)  # 10, unreadable, 11, 12
    rewards[0, 2] = 1
    found = series(windows, Forecast(frames, rewards, windows.terminated), NUMBER)
    assert curve(found["count readable"]) == [1, 0, 1, 1]
    assert curve(found["count as in the game"]) == [1, 0, 0, 0]
    changes = found["count: changes without a reward"]
    assert at_steps(changes, windows.episode, (4,))["1-4"].mean == 0  # both are within a step of the reward
    unpaid = series(windows, Forecast(frames, windows.rewards, windows.terminated), NUMBER)
    assert at_steps(unpaid["count: changes without a reward"], windows.episode, (4,))["1-4"].mean == pytest.approx(
        2000 / 3
    )


def test_a_number_that_could_not_be_read_for_a_while_was_paid_before() -> None:
    windows = small([6, 6, 6], steps=6)
    windows.contexts.frames[:, 0, 0, 0, 0] = 11
    frames, rewards = windows.frames.copy(), windows.rewards.copy()
    frames[0, :, 0, 0, 0] = (11, 0, 0, 0, 12, 12)  # paid at its second step, read anew at its fifth
    frames[1, :, 0, 0, 0] = (11, 0, 12, 12, 12, 13)  # the first change was paid, the second was not
    frames[2, :, 0, 0, 0] = (0, 0, 12, 12, 12, 12)  # a reward of the context may have paid for it
    rewards[0, 1] = rewards[1, 1] = 1
    found = series(windows, Forecast(frames, rewards, windows.terminated), NUMBER)
    changes = at_steps(found["count: changes without a reward"], windows.episode, (5, 6))
    assert changes["5"].mean == 0
    assert changes["6"].mean == pytest.approx(1000 / 3)
    unpaid = series(windows, Forecast(frames, windows.rewards, windows.terminated), NUMBER)
    rows = at_steps(unpaid["count: changes without a reward"], windows.episode, (5, 6))
    assert rows["5"].mean == pytest.approx(2000 / 12)


def test_psnr_and_ssim_are_scikit_images() -> None:
    windows, rng = small([4, 2], side=16), np.random.default_rng(0)
    windows.frames[:] = rng.integers(0, 256, windows.frames.shape)
    frames = np.clip(windows.frames + rng.integers(-20, 21, windows.frames.shape), 0, 255).astype(np.uint8)
    found = series(windows, Forecast(frames, windows.rewards, windows.terminated), Details())
    for name, function in (
        ("PSNR", lambda a, b: peak_signal_noise_ratio(a, b, data_range=255)),
        ("SSIM", lambda a, b: structural_similarity(a, b, channel_axis=2, data_range=255)),
    ):
        first, second, third = (
            [function(windows.frames[row, k], frames[row, k]) for row in rows]
            for k, rows in enumerate(((0, 1), (0, 1), (0,)))  # the second window has ended after two steps
        )
        means = curve(found[name])
        assert means[:3] == pytest.approx([np.mean(step) for step in (first, second, third)], abs=1e-4)
        over_all = at_steps(found[name], windows.episode, (1, 3))["1-3"].mean  # those between the k, too
        assert over_all == pytest.approx(np.mean([*first, *second, *third]), abs=1e-4)


def test_frames_are_looked_at_window_by_window() -> None:
    windows = small([1] * 16, steps=50, side=32)
    forecast = Forecast(windows.frames, windows.rewards, windows.terminated)
    tracemalloc.start()
    try:
        series(windows, forecast, PIECES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < windows.frames.size  # a quarter of what all windows together take in floating point


def test_windows_of_one_game_are_one_sample() -> None:
    figure = Series("", np.array([[1.0], [1.0], [4.0]]), np.ones((3, 1)))
    estimate = at_steps(figure, np.array([0, 0, 1]), (1,))["1"]
    assert (estimate.mean, estimate.count, estimate.low, estimate.high) == (2, 2, 1, 4)


def test_event_figures() -> None:
    said = np.array([[1, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]], np.bool_)
    real_ = np.array([[1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]], np.bool_)
    inside = np.ones_like(said)
    inside[1, 3:] = False
    found = event_series("x", said, real_, inside, tolerant=True)
    means = {name: at_steps(figure, np.arange(2), (6,))["1-6"].mean for name, figure in found.items()}
    assert means["x: precision"] == pytest.approx(1 / 4)
    assert means["x: recall"] == pytest.approx(1 / 2)
    assert means["x: F1"] == pytest.approx(2 / 6)
    assert means["x: F1 within a step"] == pytest.approx(5 / 6)
    # Over the steps since the k before.
    rows = at_steps(found["x: precision"], np.arange(2), (1, 3, 6))
    assert (rows["1"].mean, rows["3"].mean, rows["6"].mean) == (1, 0, 0)


def test_events_on_real_frames_are_weighed_by_how_many_there_are() -> None:
    none = np.zeros(4, np.bool_)
    good = Judgements(np.array([1, 1, 1, 0]), np.array([1, 1, 1, 0]), none, none)
    bad = Judgements(np.array([1, 0]), np.array([0, 0]), none[:2], np.array([False, True]))
    found = on_real_frames([good, bad])
    assert set(found) == {"reward +1", "ending"}
    assert found["reward +1"]["precision"].mean == pytest.approx(3 / 4)
    assert found["reward +1"]["recall"].mean == 1
    assert found["ending"]["recall"].mean == 0


def test_half_life() -> None:
    psnr = np.array([[30.0, 26, 24, 30], [30, 28, 20, 30], [30, 24, 10, 30]])
    lengths = np.array([4, 4, 2])
    weights = (np.arange(4) < lengths[:, None]).astype(float)
    life = half_life(Series("dB", psnr, weights), np.array([3, 5, 9]))
    assert (life.steps, life.low, life.high, life.within) == (3, 2, 3, 4)
    assert str(life) == "3 [2, 3]"
    lasting = half_life(Series("dB", psnr + 20, weights), np.array([3, 5, 9]))
    assert lasting.steps is None and str(lasting).startswith("not within 4")
