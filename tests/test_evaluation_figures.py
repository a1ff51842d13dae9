"""Figures of frames, objects and events against numbers worked out by hand."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from gym_dream.data.contexts import Contexts
from gym_dream.data.episode import Episode, EpisodeInfo
from gym_dream.evaluation.events import Judgements, detect, detections, judge
from gym_dream.evaluation.fidelity import compare, compare_at, psnr, table
from gym_dream.evaluation.probes import all_visible, probes_of
from gym_dream.evaluation.rollouts import Windows
from gym_dream.evaluation.sheet import GAP, HEADER, LABELS, contact_sheet, png
from gym_dream.models.denoiser import to_unit
from gym_dream.models.reward_termination import RewardTerminationConfig, RewardTerminationModel

BREAKOUT = probes_of({"game": "Breakout"})
RED = (200, 72, 72)


def court(ball: tuple[int, int] | None, paddle: int = 30) -> np.ndarray:
    """A Breakout frame with nothing but a ball (x, y) and a paddle."""
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[58, paddle - 3 : paddle + 4] = RED
    if ball is not None:
        frame[ball[1], ball[0]] = RED
    return frame


def test_psnr() -> None:
    black = np.zeros((3, 8, 8, 3), np.uint8)
    other = black.copy()
    other[1] = 1
    other[2] = 255
    np.testing.assert_allclose(psnr(black, other), [20 * math.log10(255 * 12**0.5), 20 * math.log10(255), 0], atol=1e-4)


def test_objects_are_counted_where_the_real_one_is_sure() -> None:
    real = np.stack([court((20, 40)), court((20, 40)), court((20, 40)), court((20, 40)), court(None), court((20, 29))])
    dreamt = np.stack(
        [
            court((21, 41)),  # near: sqrt(2) px away
            court((22, 41)),  # too far
            court(None, paddle=33),  # gone; and the paddle is off
            court((20, 40)),
            court((9, 50)),  # false
            court((40, 50)),  # the real one is at the bricks, where nothing is counted
        ]
    )
    figures = compare(real, dreamt, BREAKOUT).objects
    assert figures["ball"].real == pytest.approx(4 / 6)
    assert figures["ball"].present == pytest.approx(3 / 4)
    assert figures["ball"].near == pytest.approx(2 / 4)
    assert figures["ball"].false == 1
    assert figures["paddle"].near == pytest.approx(5 / 6)


def test_shares_of_nothing_are_nan() -> None:
    ball = compare(court(None)[None], court(None)[None], BREAKOUT).objects["ball"]
    assert (ball.real, ball.false) == (0, 0)
    assert math.isnan(ball.present) and math.isnan(ball.near)


def test_figures_by_step_and_their_table() -> None:
    real = np.stack([np.stack([court((20, 40)), court((20, 42))])] * 3)  # 3 windows of 2 steps
    dreamt = real.copy()
    dreamt[:, 1] = court(None)
    rows = compare_at(real, dreamt, BREAKOUT, (1, 2))
    assert [rows[k].objects["ball"].present for k in ("1", "2", "1-2")] == [1, 0, 0.5]
    lines = table({"dream": rows, "perfect": compare_at(real, real, BREAKOUT, (1, 2))}, BREAKOUT).splitlines()
    assert lines[0] == (
        "| k | forecast | PSNR (dB) | ball present | ball within 2 px | false ball | paddle within 2 px |"
    )
    assert lines[2] == "| 1 | dream | 58.9 | 1.00 | 1.00 |  | 1.00 |"
    assert [line.split(" | ")[:2] for line in lines[3:6]] == [["| 1", "perfect"], ["| 2", "dream"], ["| 2", "perfect"]]


def test_a_game_without_probes_still_has_a_table() -> None:
    frames = np.zeros((2, 5, 8, 8, 1), np.uint8)
    assert probes_of({"game": "Qbert"}) == ()
    assert all_visible(())(frames[0]).all()
    lines = table({"dream": compare_at(frames, frames, (), (5,))}, ()).splitlines()
    assert lines == [
        "| k | forecast | PSNR (dB) |",
        "| --- | --- | --- |",
        "| 5 | dream | 58.9 |",
        "| 1-5 | dream | 58.9 |",
    ]


def test_visible_frames_show_ball_and_paddle() -> None:
    lost = court((20, 40))
    lost[58] = 0
    frames = np.stack([court((20, 40)), court(None), court((20, 29)), lost])
    assert all_visible(BREAKOUT)(frames).tolist() == [True, False, False, False]


def test_a_red_haze_is_no_ball() -> None:
    haze = court(None)
    haze[38:43, 18:23, 0] = 20  # redder in all than a ball, but nowhere sharp
    dim = court((20, 40)) // np.uint8(3)
    half = (court((20, 40)) * np.float32(0.6)).astype(np.uint8)
    centres = BREAKOUT[0].locate(np.stack([haze, dim, half]))
    assert np.isnan(centres[:2]).all()
    np.testing.assert_allclose(centres[2], [20, 40])


def test_detection() -> None:
    said = np.array([1, 1, 1, 0, 0], np.bool_)
    real = np.array([1, 1, 0, 1, 0], np.bool_)
    found = detect(said, real)
    assert (found.events, found.precision, found.recall, found.f1) == pytest.approx((3, 2 / 3, 2 / 3, 2 / 3))
    nothing = detect(np.zeros(5, np.bool_), real)
    assert math.isnan(nothing.precision) and (nothing.recall, nothing.f1) == (0, 0)


def test_only_kinds_of_rewards_that_occur_are_listed() -> None:
    none = np.zeros(3, np.bool_)
    assert list(detections(Judgements(np.zeros(3), np.array([0, 1, 0]), none, none))) == ["reward +1", "ending"]
    assert list(detections(Judgements(np.array([0, -1, 0]), np.zeros(3), none, none))) == ["reward -1", "ending"]


@pytest.fixture
def model() -> RewardTerminationModel:
    config = RewardTerminationConfig(
        num_actions=4, frame_size=(16, 16), cond_channels=8, depths=(1, 1), channels=(8, 8), attention=(False,) * 2,
        lstm_size=8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RewardTerminationModel(config)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return network


def test_judging_is_one_pass_a_life(model: RewardTerminationModel) -> None:
    rng = np.random.default_rng(0)
    terminated = np.isin(np.arange(20), (8, 19))
    episode = Episode(
        frames=rng.integers(0, 256, (21, 16, 16, 3), np.uint8),
        actions=rng.integers(0, 4, 20),
        rewards=rng.integers(-2, 8, 20).astype(np.float32),
        terminated=terminated,
        truncated=np.zeros(20, np.bool_),
        lives=(2 - np.cumsum(terminated)).astype(np.int32),
        ram=None,
        info=EpisodeInfo({}, 0, "random"),
    )
    judged = judge(model, [episode], chunk=4)
    np.testing.assert_array_equal(judged.real_reward, np.sign(episode.rewards))
    np.testing.assert_array_equal(judged.really_ends, terminated)

    frames = to_unit(torch.from_numpy(episode.frames)[None], torch.ones(1, 21, dtype=torch.bool))
    actions = torch.from_numpy(episode.actions)[None]
    for first, last in ((0, 9), (9, 20)):
        with torch.no_grad():
            whole = model(frames[:, first:last], actions[:, first:last], frames[:, first + 1 : last + 1])
        np.testing.assert_array_equal(judged.reward[first:last], whole.reward[0].argmax(dim=1) - 1)
        np.testing.assert_array_equal(judged.ends[first:last], whole.termination[0].argmax(dim=1))
    assert len(set(judged.reward.tolist())) > 1


def test_contact_sheet_shows_real_above_dream() -> None:
    real = np.zeros((2, 3, 10, 12, 3), np.uint8)
    real += np.arange(1, 7, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * 20
    windows = Windows(
        contexts=Contexts(real[:, :1], np.zeros((2, 0), np.int64), np.ones((2, 1), np.bool_)),
        actions=np.zeros((2, 3), np.int64),
        frames=real,
        episode=np.array([0, 4]),
        first_step=np.array([7, 9]),
        length=np.array([3, 3]),
        rewards=np.zeros((2, 3), np.int64),
        terminated=np.zeros((2, 3), np.bool_),
    )
    sheet = contact_sheet(windows, {"dream": real + np.uint8(5)}, (1, 3), scale=3)
    assert sheet.shape == (HEADER + 2 * (60 + GAP), LABELS + 2 * (36 + GAP), 3)
    second = LABELS + 36 + GAP
    assert (sheet[HEADER : HEADER + 30, second : second + 36] == 80).all()  # window 1, k = 1
    assert (sheet[HEADER + 60 + GAP + 30 : HEADER + 60 + GAP + 60, LABELS : LABELS + 36] == 65).all()  # k = 3, dreamt
    decoded = cv2.imdecode(np.frombuffer(png(sheet), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], sheet)
