"""What ships with the package dreams on for as long as anybody may want."""

import numpy as np
import pytest

from gym_dream.breakout import locate_in_frames
from gym_dream.dream import Dream
from gym_dream.world_model import PRETRAINED, WorldModel

STEPS = 1000
PLAYED = 400  # Endings are ignored here: sooner or later the lives run out, and as in the game the paddle goes.
HOLD = 8  # steps that the paddle is pushed one way: enough to cross half the screen
NOOP, RIGHT, LEFT = 0, 2, 3


@pytest.fixture(scope="module")
def long_dream() -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 (STEPS + 1, 64, 64, 3) and the actions between them; endings are ignored."""
    world_model = WorldModel.load("breakout")
    dream = Dream(world_model, 1, world_model.starts, seed=0)
    frames = [dream.reset().observation]
    actions = np.where(np.arange(STEPS) // HOLD % 2 == 0, LEFT, RIGHT)
    actions[::100] = 1  # serve now and then
    for action in actions:
        frames.append(dream.step(np.array([action])).observation)
    return np.concatenate([frame.numpy() for frame in frames]), actions


def test_a_thousand_steps_stay_pictures_that_move(long_dream):
    frames, _ = long_dream
    assert frames.dtype == np.uint8
    assert frames.shape == (STEPS + 1, 64, 64, 3)
    changed = (frames[1:] != frames[:-1]).any(axis=(1, 2, 3))
    assert changed.mean() > 0.9
    # Neither black nor glaring: the mean brightness stays near that of the real frame at the start.
    brightness = frames.mean(axis=(1, 2, 3))
    assert np.abs(brightness - brightness[0]).max() < 0.35 * brightness[0]


def test_the_paddle_follows_the_actions_for_hundreds_of_steps(long_dream):
    frames, actions = long_dream
    _, paddle = locate_in_frames(frames)
    pushes = [slice(start, start + HOLD) for start in range(0, PLAYED, HOLD)]
    for part in (pushes[: len(pushes) // 2], pushes[len(pushes) // 2 :]):
        right = []
        for push in part:
            moved = paddle[push.stop] - paddle[push.start]
            if np.isfinite(moved) and abs(moved) > 1:  # not already at a wall
                right.append((moved > 0) == (actions[push.stop - 1] == RIGHT))
        assert len(right) > 0.5 * len(part)
        assert np.mean(right) > 0.9


def test_the_folder_stays_small():
    size = sum(path.stat().st_size for path in (PRETRAINED / "breakout").iterdir())
    assert size <= 16 * 2**20
