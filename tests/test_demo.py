from __future__ import annotations

import errno
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import imageio.v3
import numpy as np
import pytest
from fakes import LENGTH, FakeDynamics

from gym_dream import real
from gym_dream.data import Contexts
from gym_dream.demo import demo, opening
from gym_dream.policy import RandomPolicy
from gym_dream.video import GREEN, Panel, compose, write_video

FRAME = (real.FRAME_SIZE, real.FRAME_SIZE, 3)


def white_start() -> Contexts:
    frames = np.full((1, LENGTH, *FRAME), 255, np.uint8)
    return Contexts(frames, np.zeros((1, LENGTH - 1), np.int64), np.ones((1, LENGTH), np.bool_))


@dataclass
class FakeBreakout:
    """The dream of `fakes`, in the format of Breakout: action 1 pays, 2 costs, 3 ends; its own starts are all white."""

    starts: Contexts = field(default_factory=white_start)
    replay: Contexts | None = None
    config: Any = field(default_factory=lambda: SimpleNamespace(env=real.env_spec("Breakout")))

    def dynamics(self, device: str = "auto", precision: str = "auto", compile: bool = False) -> FakeDynamics:
        return FakeDynamics(frame_shape=FRAME)


@dataclass
class Script:
    """Plays a list of actions; keeps what it sees and which contexts it is reset on."""

    actions: list[int]
    name: str = "script"
    seen: list[np.ndarray] = field(default_factory=list)
    contexts: list[Contexts | None] = field(default_factory=list)

    def begin(self, num_envs: int, seed: int) -> int:
        return 0

    def reset(self, state: int, mask: np.ndarray, contexts: Contexts | None = None) -> int:
        self.contexts.append(contexts)
        return state

    def act(self, state: int, observations: np.ndarray, info: Any) -> tuple[np.ndarray, int]:
        self.seen.append(observations[0])
        return np.array(self.actions[state : state + 1]), state + 1


def test_both_worlds_begin_alike_and_the_dream_begins_anew_after_an_ending(tmp_path: Path) -> None:
    script = Script(actions=[1, 1, 2, 3, 1])
    played = demo(FakeBreakout(), script, tmp_path / "demo.gif", steps=5, seed=3, progress=False)

    assert (played["dream"].total_return, played["dream"].lives) == (2, 1)
    assert (played["real"].total_return, played["real"].lives) == (0, 0)
    assert all(world.steps_per_second > 0 for world in played.values())
    with real.make("Breakout") as game:
        start = opening(game, LENGTH, seed=3)
    dream, game_seen = script.seen[0::2], script.seen[1::2]
    np.testing.assert_array_equal(dream[0], start.frames[0, -1])
    np.testing.assert_array_equal(game_seen[0], start.frames[0, -1])
    assert (dream[4] == 255).all()  # the fake's own start, from which the policy is told to go on
    begin_dream, begin_real, anew = script.contexts
    assert begin_dream is begin_real is not None and anew is not None
    np.testing.assert_array_equal(anew.frames, white_start().frames)


@pytest.mark.parametrize("name", ["demo.gif", "demo.mp4"])
def test_the_video_shows_every_step(tmp_path: Path, name: str) -> None:
    demo(FakeBreakout(), RandomPolicy(4), tmp_path / name, steps=12, progress=False)
    video = cv2.VideoCapture(str(tmp_path / name))
    assert sum(iter(lambda: video.read()[0], False)) == 12
    assert [video.get(side) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)] == [368, 560]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_real_lives_go_on_where_they_ended(tmp_path: Path) -> None:
    serve_and_wait = Script(actions=[1, *[0] * 149])
    played = demo(FakeBreakout(), serve_and_wait, tmp_path / "demo.gif", steps=60, progress=False)
    assert played["real"].lives == 1
    assert serve_and_wait.contexts[-1] is None


def test_bad_requests_are_refused_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.gif or \.mp4"):
        demo(FakeBreakout(), RandomPolicy(4), tmp_path / "demo.avi")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        demo(FakeBreakout(), RandomPolicy(4), tmp_path / "demo.gif", steps=0)
    nameless = FakeBreakout(config=SimpleNamespace(env={}))
    with pytest.raises(ValueError, match="names no game"):
        demo(nameless, RandomPolicy(4), tmp_path / "demo.gif")


def test_a_video_that_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "demo.gif"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=r"demo\.gif"):
        write_video(path, np.zeros((1, 4, 4, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["demo.gif"]
    assert path.read_bytes() == b"old"


def test_pictures_of_a_film_are_not_kept(tmp_path: Path) -> None:
    made: list[weakref.ref[np.ndarray]] = []

    def pictures() -> Iterator[np.ndarray]:
        for shade in range(0, 200, 20):
            assert all(earlier() is None for earlier in made[:-1])
            picture = np.full((32, 48, 3), shade, np.uint8)
            made.append(weakref.ref(picture))
            yield picture

    write_video(tmp_path / "a.mp4", pictures())
    film = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    shown = [film.read()[1].mean() for _ in made]
    assert len(shown) == 10 and not film.read()[0]
    np.testing.assert_allclose(shown, range(0, 200, 20), atol=5)


def test_a_panel_shows_its_frame_enlarged_and_marked() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[3, 5] = 200, 10, 20
    picture = compose([Panel("one", frame), Panel("two", frame, (("left", "right"),), GREEN)], scale=4)
    assert picture.shape[0] % 16 == picture.shape[1] % 16 == 0
    assert (picture == (200, 10, 20)).all(axis=-1).sum() == 2 * 4 * 4
    assert (picture == GREEN).all(axis=-1).any()


def test_a_gif_keeps_colours_within_a_few_levels(tmp_path: Path) -> None:
    picture = np.zeros((2, 32, 32, 3), np.uint8)
    picture[:, 8:, 8:] = 200, 72, 73
    write_video(tmp_path / "a.gif", picture)
    shown = imageio.v3.imread(tmp_path / "a.gif")[..., :3].astype(int)
    assert abs(shown - picture).max() <= 4
