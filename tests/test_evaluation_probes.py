"""Probes against the console's memory on real frames, and against pictures drawn by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gym_dream import breakout, pong, real
from gym_dream.data import Episode, EpisodeStore
from gym_dream.data.collect import collect
from gym_dream.digits import Digit, read_number
from gym_dream.evaluation.probes import DETAILS, Pieces, Probe, details_of, validate
from gym_dream.policy import load_policy

STEPS = {"Breakout": 900, "Pong": 700}
POLICY = {"Breakout": "scripted(noise=0.03)", "Pong": "random"}


@pytest.fixture(scope="module", params=["Breakout", "Pong"])
def games(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    """Real play with the console's memory."""
    name, folder = request.param, tmp_path_factory.mktemp("games")
    policy = load_policy(POLICY[name], real.env_spec(name), source="ram")
    collect(name, policy, STEPS[name], folder, epsilon=0.1, seed=3, max_game_steps=450, progress=False)
    return EpisodeStore(folder).load_all()


def test_every_probe_agrees_with_the_consoles_memory(games: list[Episode]) -> None:
    details = details_of(games[0].info.env)
    for name, validation in validate(details, games).items():
        print(f"{games[0].info.env['game']}, {name}: {validation.right:.2%} of {validation.frames} frames")
        assert validation.right >= 0.99, name
        assert validation.frames >= 250, name


def test_a_probe_that_looks_elsewhere_does_not_agree(games: list[Episode]) -> None:
    details = details_of(games[0].info.env)
    moved = [replace(game, frames=np.roll(game.frames, 3, axis=1)) for game in games]
    later = [replace(game, ram=np.roll(game.ram, 40, axis=0)) for game in games]
    for name, validation in validate(details, moved).items():
        assert validation.right < 0.9, name
    assert validate(details, later)["ball"].right < 0.5


def test_no_memory_no_validation(games: list[Episode]) -> None:
    blind = [replace(game, ram=None) for game in games]
    for validation in validate(details_of(games[0].info.env), blind).values():
        assert validation.frames == 0 and np.isnan(validation.right)


def test_games_that_nobody_has_looked_at_have_no_details() -> None:
    assert details_of({"game": "Qbert"}) == details_of({}) != DETAILS["Pong"]


def test_what_the_probes_of_a_game_are() -> None:
    assert [p.name for p in DETAILS["Breakout"].objects] == ["ball", "paddle"]
    assert [p.name for p in DETAILS["Pong"].objects] == ["ball", "player's paddle", "opponent's paddle"]
    assert isinstance(DETAILS["Breakout"].pieces[0], Pieces) and isinstance(DETAILS["Pong"].objects[0], Probe)


def test_digits() -> None:
    digits = (Digit(8, top=10, row_height=2, blank=True), Digit(24, top=10, row_height=2))
    ink = np.zeros((4, 64, 64))
    console = np.zeros((210, 160))
    console[10:20, 12:16] = 1  # a one
    console[10:20, 24:36] = 1
    console[12:14, 28:32] = console[16:18, 28:32] = 0  # an eight
    import cv2

    both = cv2.resize(console, (64, 64), interpolation=cv2.INTER_AREA)
    ink[0], ink[1], ink[2] = both, both, 0.3 * both
    ink[1][:, :8] = 0  # the one is gone
    ink[3, 3:6, :20] = 0.5  # a smear
    assert read_number(ink, digits).tolist() == [18, 8, -1, -1]


def test_a_missing_brick_is_seen_and_a_ball_is_no_brick() -> None:
    ram = np.zeros((1, 128), np.uint8)
    ram[0, :36] = 255
    ram[0, 34] = 0  # the first brick of the second row
    standing = breakout.bricks_in_ram(ram)
    assert standing.sum() == 107 and not standing[0, 18]

    frame = np.zeros((1, 64, 64, 3), np.uint8)
    for row, level in zip(breakout.BRICK_ROWS, breakout.BRICK_LEVELS, strict=True):
        frame[0, row, 3:61] = level
    frame[0, 20, 4:6] = 0
    np.testing.assert_array_equal(breakout.bricks_in_frames(frame), standing)
    frame[0, 20, 5] = 200  # a ball in the gap covers some of its pixels
    np.testing.assert_array_equal(breakout.bricks_in_frames(frame), standing)
    frame[0, 20, 4:6] = 40  # nor is a shadow of a brick one
    np.testing.assert_array_equal(breakout.bricks_in_frames(frame), standing)


def test_a_wall_is_taken_down_to_any_of_its_bricks_and_its_points_are_in_the_score() -> None:
    rng = np.random.default_rng(0)
    ram = rng.integers(0, 256, 128).astype(np.uint8)
    ram[:36] = 255
    for left in (np.zeros(108, np.bool_), np.ones(108, np.bool_), *(rng.random((20, 108)) < rng.random((20, 1)))):
        after = breakout.without_bricks(ram, left)
        np.testing.assert_array_equal(breakout.bricks_in_ram(after[None])[0], left)
        gone = ~left.reshape(6, 18)
        points = (gone * np.array(breakout.BRICK_POINTS)[:, None]).sum()
        assert breakout.score_in_ram(after[None]).tolist() == [points]
        # Both halves of each brick, and nothing else: not the upper half of the score's first byte either.
        assert np.unpackbits(ram[:36] ^ after[:36]).sum() == 2 * gone.sum()
        assert not set(np.flatnonzero(after != ram)) - {*range(36), 76, 77}
        assert after[76] & 0xF0 == ram[76] & 0xF0


def test_an_empty_pong_court_has_neither_ball_nor_paddles() -> None:
    court = np.full((1, 64, 64, 3), pong.BACKGROUND, np.uint8)
    assert np.isnan(pong.ball_in_frames(court)).all()
    for whose in ("player", "opponent"):
        assert np.isnan(pong.paddle_in_frames(court, whose)).all()
        assert pong.score_in_frames(court, whose).tolist() == [-1]
    court[0, 30, 20] = pong.INKS["ball"]
    np.testing.assert_allclose(pong.ball_in_frames(court), [[20, 30]], atol=0.05)


def test_recorded_games_are_where_they_should_be(games: list[Episode], tmp_path: Path) -> None:
    assert sum(map(len, games)) == STEPS[games[0].info.env["game"]]
