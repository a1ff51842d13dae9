"""Fitting learns: the small preset recovers the ten lives that it was trained on, and broken code does not.

What has to come back are all rewards, all endings, and the frames of 15-step rollouts under the real actions, from the
midst of a life and from its beginning, where half of the context is padding. A break is put in for the fit alone; what
it made is judged by the same measure, with sound code.

A game of 16 pixels, which the small preset's own networks learn from nothing in a minute of one core, shows that breaks
are caught. Lives of Breakout in its full size are slow tests: rewards and endings from nothing, frames from the weights
that ship. Not caught, since the model recovers its lives all the same: a loss that counts padding, padding of another
shade, real frames in the history of later targets. `test_models.py` and `test_fit.py` hold those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import bricks
import numpy as np
import pytest
import torch
from torch import Tensor

from gym_dream import breakout
from gym_dream.data import Episode, EpisodeStore, Segments, split_held_out
from gym_dream.data.collect import collect
from gym_dream.data.contexts import Contexts
from gym_dream.data.segments import Spans
from gym_dream.evaluation.events import judge
from gym_dream.evaluation.probes import DETAILS
from gym_dream.evaluation.rollouts import Windows, draw_windows, repeat_last_frame, replay
from gym_dream.models.denoiser import Denoiser, TrainingNoise, denoiser_loss
from gym_dream.trainers import fit as fitting
from gym_dream.trainers import run
from gym_dream.trainers import world_model_trainer as updating
from gym_dream.world_model import WorldModel

TRAINED, HELD_OUT = 10, 2  # lives
CONTEXT, STEPS = 4, 15
BREAKOUT_STEPS = 28  # of a life of Breakout, its last: the ball rises to the bricks, takes one and is missed
BREAKOUT_SCORE = slice(8)  # rows of pixels

EVENTS = {"denoiser_interval": 0, "reward_interval": 1, "warmup_steps": 20, "average_decay": 0.95, "cooldown": 0.0}
FRAMES = {"reward_interval": 0, "warmup_steps": 20, "average_decay": 0.97, "cooldown": 0.4, "event_share": 0.0}

Break = Callable[[pytest.MonkeyPatch], None]


class Thing(NamedTuple):
    """An object that has to be where it really is."""

    locate: Callable[[np.ndarray], np.ndarray]  # frames uint8 (N, H, W, C) to (x, y) float (N, 2), NaN: not to be seen
    counts: Callable[[np.ndarray], np.ndarray]  # from real places to bool (N,)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that sums have the same order, and the outcome does not hang on the machine
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bricks_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("bricks"), [bricks.life(seed) for seed in range(TRAINED + HELD_OUT)])


@pytest.fixture(scope="module")
def breakout_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    games = tmp_path_factory.mktemp("games")
    collect("Breakout", breakout.ScriptedBreakout(noise=0.25), 5000, games, progress=False)
    lives = ends_of_lives(EpisodeStore(games).load_all(), BREAKOUT_STEPS)
    return store(tmp_path_factory.mktemp("breakout"), lives[: TRAINED + HELD_OUT])


def store(folder: Path, lives: Sequence[Episode]) -> Path:
    assert len(lives) == TRAINED + HELD_OUT
    for life in lives:
        assert life.rewards.any() and life.terminated.sum() == 1 and life.terminated[-1]
        EpisodeStore(folder).add(life)
    return folder


def ends_of_lives(games: Sequence[Episode], steps: int) -> list[Episode]:
    """The last steps of all lives that have so many and are paid for something in them, each as an episode.

    Only lives whose last frame shows that one fewer is left: the console changes that digit a step late at every fourth
    ending or so, and not at all at the last.
    """
    lives = []
    for game in games:
        before = -1
        for end in np.flatnonzero(game.terminated).tolist():
            cut = slice(end + 1 - steps, end + 1)
            shows = (game.frames[end + 1, BREAKOUT_SCORE] != game.frames[end, BREAKOUT_SCORE]).any()
            if end - before >= steps and game.rewards[cut].any() and shows:
                arrays = ("actions", "rewards", "terminated", "truncated", "lives", "ram")
                lives.append(
                    replace(
                        game,
                        frames=game.frames[cut.start : cut.stop + 1],
                        info=replace(game.info, in_progress=False),
                        **{name: getattr(game, name)[cut] for name in arrays},
                    )
                )
            before = end
    return lives


def fit(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, broken: Break | None = None, **settings: Any) -> Any:
    """Fit the small preset to ten lives. Returns the model and the lives."""
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "HELD_OUT_BATCHES", 1)  # to spend the time on what is tested
        if broken is not None:
            broken(patch)
        folder = run.fit(
            data,
            out,
            preset="small",
            held_out_fraction=HELD_OUT / (TRAINED + HELD_OUT),
            device="cpu",
            precision="float32",
            checkpoint_minutes=60,
            progress=False,
            **settings,
        )
    trained, _ = split_held_out(EpisodeStore(data).load_all(), HELD_OUT / (TRAINED + HELD_OUT), seed=0)
    assert len(trained) == TRAINED
    return WorldModel.load(folder), trained


# What has to come back


def event_faults(model: WorldModel, lives: Sequence[Episode]) -> list[str]:
    """What the model gets wrong about the rewards and endings of real transitions, by argmax."""
    said = judge(model.reward_termination, lives)
    signs = np.sign(np.concatenate([life.rewards for life in lives])).astype(np.int64)
    ends = np.concatenate([life.terminated for life in lives])
    faults = {
        "rewards missed": (signs != 0) & (said.reward != signs),
        "rewards invented": (signs == 0) & (said.reward != 0),
        "endings missed": ends & ~said.ends,
        "endings invented": ~ends & said.ends,
    }
    return [f"{int(where.sum())} {name}" for name, where in faults.items() if where.any()]


def beginnings(lives: Sequence[Episode]) -> Windows:
    """Windows that begin at the second frame of each life, so that half of the context is padding."""
    spans = Spans(lives)
    every = np.arange(len(spans))
    cut = spans.gather(every, np.full(len(every), -CONTEXT // 2), CONTEXT + STEPS)
    return replace(
        draw_windows(lives, CONTEXT, STEPS, len(spans), seed=0),
        contexts=Contexts(cut.frames[:, :CONTEXT], cut.actions[:, : CONTEXT - 1], cut.mask[:, :CONTEXT]),
        actions=cut.actions[:, CONTEXT - 1 :],
        frames=cut.frames[:, CONTEXT:],
    )


def rollouts(model: WorldModel, lives: Sequence[Episode]) -> dict[str, tuple[Windows, np.ndarray]]:
    """Windows of the lives, and what the model dreams there: uint8 (N, STEPS, H, W, C)."""
    dynamics = model.dynamics("cpu", "float32")
    windows = {"midst": draw_windows(lives, CONTEXT, STEPS, 2 * TRAINED, seed=0), "beginning": beginnings(lives)}
    return {name: (drawn, replay(dynamics, drawn)) for name, drawn in windows.items()}


def psnr(frames: np.ndarray, real: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, of the mean square error of all pixels."""
    return float(10 * np.log10(255**2 / np.mean((frames.astype(np.float64) - real) ** 2)))


def frame_faults(model: WorldModel, lives: Sequence[Episode], things: Mapping[str, Thing], above: float) -> list[str]:
    """Where rollouts are less than ``above`` dB better than repeating the last frame, or things out of place.

    All frames of the rollouts count. In 9 of 10 that show a thing it has to be within 2 pixels of where it really is.
    """
    faults = []
    for name, (windows, dreamt) in rollouts(model, lives).items():
        ours, plain = psnr(dreamt, windows.frames), psnr(repeat_last_frame(windows), windows.frames)
        if ours < plain + above:
            faults.append(f"{name}: {ours:.1f} dB, repeating the last frame {plain:.1f} dB")
        flat, real = (frames.reshape(-1, *frames.shape[2:]) for frames in (dreamt, windows.frames))
        for thing, (locate, counts) in things.items():
            there = locate(real)
            away = np.linalg.norm(locate(flat) - there, axis=1)[counts(there)]
            right = float((away <= 2).mean())
            if right < 0.9:
                faults.append(f"{name}: {thing} in place in {right:.2f} of the frames")
    return faults


# What a bug could do


def endings_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a segment reaches beyond the end of a life, it does not say that the life ended."""

    def change(segments: Segments) -> Segments:
        return replace(segments, terminated=segments.terminated & segments.mask[:, -1:])

    _change_segments(monkeypatch, change)


def endings_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A life ends a step before it does."""

    def change(segments: Segments) -> Segments:
        terminated = np.zeros_like(segments.terminated)
        terminated[:, :-1] = segments.terminated[:, 1:]
        return replace(segments, terminated=terminated)

    _change_segments(monkeypatch, change)


def final_frame_is_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A life of n steps is taken to have n frames, not n + 1: its last frame is padding, and so is its last step."""
    gather = Spans.gather

    def broken(self: Spans, spans: np.ndarray, first: np.ndarray, num_frames: int) -> Segments:
        segments = gather(self, spans, first, num_frames)
        mask = segments.mask & (first[:, None] + np.arange(num_frames) < self.length[spans][:, None])
        real = mask[:, :-1] & mask[:, 1:]
        return Segments(
            frames=segments.frames * mask[..., None, None, None],
            actions=segments.actions * real,
            rewards=segments.rewards * real,
            terminated=segments.terminated & real,
            mask=mask,
        )

    monkeypatch.setattr(Spans, "gather", broken)


def stuck_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second target on, the history is still that of the first."""

    def broken(
        denoiser: Denoiser,
        frames: Tensor,
        actions: Tensor,
        mask: Tensor,
        noise: Sequence[TrainingNoise],
        **settings: Any,
    ) -> Tensor:
        length = denoiser.config.context_length

        def first(tensor: Tensor, i: int) -> Tensor:
            return torch.cat([tensor[:, :length], tensor[:, length + i : length + i + 1]], dim=1)

        losses = [
            denoiser_loss(denoiser, first(frames, i), actions[:, i : i + length], first(mask, i), [draw], **settings)
            for i, draw in enumerate(noise)
        ]
        return torch.stack(losses).mean()

    monkeypatch.setattr(updating, "denoiser_loss", broken)


def _change_segments(monkeypatch: pytest.MonkeyPatch, change: Callable[[Segments], Segments]) -> None:
    gather = Spans.gather
    monkeypatch.setattr(Spans, "gather", lambda self, *arguments: change(gather(self, *arguments)))


# Lives of 16 pixels

BRICKS_EVENTS = EVENTS | {"reward_batch_size": 8, "learning_rate": 1e-3}
BRICKS_EVENT_UPDATES = 200
BRICKS_FRAMES = FRAMES | {
    "batch_size": 8,
    "targets": 3,
    "learning_rate": 1e-3,
    "context_noise": 0.0,
    "sigma_loc": 1.0,
    "sigma_scale": 2.0,
}
BRICKS_FRAME_UPDATES = 250
BRICKS_ABOVE = 9.0  # dB: sound code reaches 11.9 to 12.8, with a history that stands still 0.0 to 0.5
BRICKS_THINGS = {"ball": Thing(bricks.locate_ball, lambda places: ~np.isnan(places[:, 0]))}


def test_ten_lives_of_bricks_come_back(bricks_data, tmp_path, monkeypatch):
    model, lives = fit(
        bricks_data, tmp_path / "events", monkeypatch, steps=BRICKS_EVENT_UPDATES, training=BRICKS_EVENTS
    )
    assert event_faults(model, lives) == []
    model, lives = fit(
        bricks_data, tmp_path / "frames", monkeypatch, steps=BRICKS_FRAME_UPDATES, training=BRICKS_FRAMES
    )
    assert frame_faults(model, lives, BRICKS_THINGS, BRICKS_ABOVE) == []


@pytest.mark.parametrize(
    "broken",
    [
        endings_dropped,
        pytest.param(endings_early, marks=pytest.mark.slow),
        pytest.param(final_frame_is_padding, marks=pytest.mark.slow),
    ],
)
def test_endings_of_bricks_do_not_come_back_if_broken(broken, bricks_data, tmp_path, monkeypatch):
    model, lives = fit(
        bricks_data, tmp_path / "run", monkeypatch, broken, steps=BRICKS_EVENT_UPDATES, training=BRICKS_EVENTS
    )
    assert any("endings" in fault for fault in event_faults(model, lives))


@pytest.mark.slow
def test_frames_of_bricks_do_not_come_back_if_history_stands_still(bricks_data, tmp_path, monkeypatch):
    model, lives = fit(
        bricks_data, tmp_path / "run", monkeypatch, stuck_history, steps=BRICKS_FRAME_UPDATES, training=BRICKS_FRAMES
    )
    assert any("dB" in fault for fault in frame_faults(model, lives, BRICKS_THINGS, BRICKS_ABOVE))


# Lives of Breakout in its full size

BREAKOUT_EVENTS = EVENTS | {
    "reward_batch_size": 6,
    "learning_rate": 1e-3,
    "cooldown": 0.3,
    "reward_max_grad_norm": 1.0,
}
BREAKOUT_EVENT_UPDATES = 500
# Frames are learnt from the weights that ship, which have never seen these lives and lose their balls: from nothing it
# takes hours until there is a ball at all.
BREAKOUT_FRAMES = FRAMES | {
    "batch_size": 4,
    "targets": 4,
    "learning_rate": 5e-4,
    "average_decay": 0.98,
    "cooldown": 0.5,
    "context_noise": 0.03,
    "sigma_loc": 1.0,
    "sigma_scale": 1.5,
    "event_share": 0.5,
}
BREAKOUT_FRAME_UPDATES = 400
BREAKOUT_ABOVE = 2.0  # dB: from an earlier model 4.2 and 3.1 were reached, with the ball in its place in 99.6% and all
# Not the paddle: in the frames that padding hides lies whether it was still moving.
BREAKOUT_THINGS = {p.name: Thing(p.locate, p.reliable) for p in DETAILS["Breakout"].objects if p.name == "ball"}


@pytest.mark.slow
def test_rewards_and_endings_of_ten_lives_of_breakout_come_back(breakout_data, tmp_path, monkeypatch):
    model, lives = fit(
        breakout_data, tmp_path / "run", monkeypatch, steps=BREAKOUT_EVENT_UPDATES, training=BREAKOUT_EVENTS
    )
    assert event_faults(model, lives) == []


@pytest.mark.slow
def test_endings_of_breakout_do_not_come_back_if_dropped(breakout_data, tmp_path, monkeypatch):
    model, lives = fit(
        breakout_data,
        tmp_path / "run",
        monkeypatch,
        endings_dropped,
        steps=BREAKOUT_EVENT_UPDATES,
        training=BREAKOUT_EVENTS,
    )
    assert any("endings" in fault for fault in event_faults(model, lives))


@pytest.mark.slow
def test_frames_of_ten_lives_of_breakout_come_back(breakout_data, tmp_path, monkeypatch):
    model, lives = fit(
        breakout_data,
        tmp_path / "run",
        monkeypatch,
        steps=BREAKOUT_FRAME_UPDATES,
        training=BREAKOUT_FRAMES,
        init="breakout",
    )
    assert frame_faults(WorldModel.load("breakout"), lives, BREAKOUT_THINGS, BREAKOUT_ABOVE)
    assert frame_faults(model, lives, BREAKOUT_THINGS, BREAKOUT_ABOVE) == []
