"""DDPM beside EDM, dynamics of frames alone, and the two studies: what they measure, and whole small runs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
import torch

from gym_dream.data import EpisodeStore, SegmentSampler
from gym_dream.dream import Dream
from gym_dream.evaluation.rollouts import draw_windows, replay
from gym_dream.evaluation.strips import strips
from gym_dream.models import ddpm
from gym_dream.models.denoiser import Denoiser, to_unit
from gym_dream.models.frame_dynamics import FrameDynamics
from gym_dream.trainers.frames import ddpm_loss, edm_loss, fit_frames, load_frames, save_frames

EXAMPLES = Path(__file__).parents[1] / "examples"


def program(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


drift, modes = program("study_drift"), program("study_modes")


# DDPM


def test_ddpm_schedule() -> None:
    left = ddpm.alpha_bar()
    assert left.shape == (1000,) and (left.diff() < 0).all()
    assert left[0] == pytest.approx(1 - 1e-4) and left[-1] == pytest.approx(4.04e-5, rel=0.01)  # as published
    assert ddpm.timesteps(1) == [500]
    assert ddpm.timesteps(1000) == list(reversed(range(1000)))
    for n in (2, 3, 10):
        t = np.array(ddpm.timesteps(n))
        assert len(t) == n and (np.diff(t) < 0).all() and t.max() < 1000 and t.min() >= 0
    for n in (0, 1001):
        with pytest.raises(ValueError, match="num_steps: expected from 1 to 1000"):
            ddpm.timesteps(n)


def perfect(x_0: torch.Tensor, visited: list[tuple[int, torch.Tensor]] | None = None) -> Any:
    """The network that knows the frame and so the noise."""

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if visited is not None:
            visited.append((int(t[0]), x_t))
        left = ddpm.alpha_bar()[t][:, None, None, None]
        return (x_t - left.sqrt() * x_0) / (1 - left).sqrt()

    return predict


@pytest.mark.parametrize("n", [1, 3, 10])
def test_perfect_noise_prediction_gives_the_frame_along_the_true_path(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    x_0 = torch.full((2, 3, 96, 96), 0.6)
    x_0[1] = -1.0

    def normal() -> torch.Tensor:
        return torch.randn(x_0.shape, generator=generator)

    first = ddpm.alpha_bar()[ddpm.timesteps(n)[0]]
    visited: list[tuple[int, torch.Tensor]] = []
    frame = ddpm.sample(perfect(x_0, visited), first.sqrt() * x_0 + (1 - first).sqrt() * normal(), n, normal)
    torch.testing.assert_close(frame, x_0, atol=1e-3, rtol=0)
    assert [t for t, _ in visited] == ddpm.timesteps(n)
    for t, x_t in visited:  # each is distributed as training's x_t is
        left, rest = ddpm.alpha_bar()[t], x_t - ddpm.alpha_bar()[t].sqrt() * x_0
        assert rest.mean(dim=(1, 2, 3)).abs().max() < 0.02
        assert (rest.std(dim=(1, 2, 3)) / (1 - left).sqrt() - 1).abs().max() < 0.02


def test_sampling_is_fixed_by_its_noise() -> None:
    def draw(seed: int) -> tuple[torch.Tensor, int]:
        generator, calls = torch.Generator().manual_seed(seed), 0

        def normal() -> torch.Tensor:
            nonlocal calls
            calls += 1
            return torch.randn((1, 3, 8, 8), generator=generator)

        start = normal()
        return ddpm.sample(lambda x, t: torch.tanh(x), start, 4, normal), calls

    (a, calls), (b, _), (c, _) = draw(0), draw(0), draw(1)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert calls == 1 + 3  # the start, and one between two steps
    assert a.abs().max() <= 1


def test_ddpm_loss_asks_for_the_noise_that_was_added() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand((4, 5, 3, 8, 8), generator=generator) * 2 - 1
    actions, mask = torch.zeros((4, 4), dtype=torch.int64), torch.ones((4, 5), dtype=torch.bool)
    t = torch.tensor([0, 250, 500, 999])
    noise = ddpm.TrainingNoise(
        t,
        torch.randn((4, 3, 1, 1), generator=generator),
        torch.randn((4, 3, 8, 8), generator=generator),
    )
    seen: dict[str, torch.Tensor] = {}

    def network(x_t: torch.Tensor, c_noise: torch.Tensor, past: torch.Tensor, acts: torch.Tensor) -> torch.Tensor:
        seen.update(x_t=x_t, c_noise=c_noise, past=past)
        return perfect(frames[:, -1])(x_t, t) + wrong

    settings = {"sigma_data": 0.5, "sigma_offset_noise": 0.3}
    wrong = torch.zeros(4, 1, 1, 1)
    loss = ddpm.ddpm_loss(network, frames, actions, mask, noise, **settings)  # type: ignore[arg-type]
    assert loss < 1e-6
    left = ddpm.alpha_bar()[t][:, None, None, None]
    torch.testing.assert_close(
        seen["x_t"], left.sqrt() * frames[:, -1] + (1 - left).sqrt() * (noise.pixel + 0.3 * noise.offset)
    )
    assert seen["c_noise"].tolist() == pytest.approx([0.001, 0.251, 0.501, 1.0])
    assert torch.equal(seen["past"].reshape(4, 4, 3, 8, 8), frames[:, :4] / 0.5)
    wrong[1] = 2.0  # error 4 in one sample of four
    assert ddpm.ddpm_loss(network, frames, actions, mask, noise, **settings) == pytest.approx(1.0)  # type: ignore[arg-type]
    mask[1, -1] = False  # padding counts for nothing
    assert ddpm.ddpm_loss(network, frames, actions, mask, noise, **settings) < 1e-6  # type: ignore[arg-type]


# Fitting


#: Wide enough to learn within a few updates what noise is.
NETWORK: dict[str, Any] = {"patch_size": 1, "depths": (1,), "channels": (16,), "attention": (False,)}


def fitted(kind: str, updates: int, seed: int = 0) -> tuple[Denoiser, list[float], tuple[float, float]]:
    """A tiny network, its losses, and the loss of one batch and noise before and after."""
    torch.manual_seed(0)
    denoiser = Denoiser(
        dataclasses.replace(tiny.config().denoiser, predict_change=False, noisy_change=False, **NETWORK)
    )
    training = tiny.TrainingConfig(batch_size=8, targets=1, learning_rate=1e-2, warmup_steps=2, average_decay=0.5)
    loss = edm_loss(denoiser, training) if kind == "edm" else ddpm_loss(denoiser.inner_model, denoiser.config)
    segments = SegmentSampler([tiny.episode(i) for i in range(3)], 5, beyond_end=False, ending="game")
    batch = segments.sample(16, np.random.default_rng(0))
    tensors = [torch.from_numpy(array) for array in (batch.frames, batch.actions, batch.mask)]
    tensors[0] = to_unit(tensors[0], tensors[2])

    @torch.no_grad()
    def judged() -> float:
        return loss(*tensors, torch.Generator().manual_seed(0)).item()

    before = judged()
    losses = fit_frames(denoiser, loss, segments, training, updates=updates, seed=seed, label=kind, progress=False)
    return denoiser, losses, (before, judged())


@pytest.mark.parametrize("kind", ["edm", "ddpm"])
def test_fitting_lowers_the_loss_and_is_fixed_by_its_seed(kind: str) -> None:
    _, losses, (before, after) = fitted(kind, 25)
    assert after < 0.85 * before
    short = [fitted(kind, 2, seed)[1] for seed in (0, 1)]
    assert short[0] == losses[:2] != short[1]


def test_fitted_networks_are_kept_with_their_settings(tmp_path: Path) -> None:
    denoiser, *_ = fitted("edm", 1)
    file, other = tmp_path / "edm.safetensors", Denoiser(denoiser.config)
    assert not load_frames(other, file, "a")
    save_frames(denoiser, file, "a")
    assert load_frames(other, file, "a")
    for name, tensor in denoiser.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    with pytest.raises(ValueError, match="trained with other settings"):
        load_frames(other, file, "b")


# Dreams of frames alone


def test_frame_dynamics_is_a_dream() -> None:
    def next_frame(past: torch.Tensor, actions: torch.Tensor, noise: Any) -> torch.Tensor:
        # The last frame, brighter by the newest action and by a little noise.
        return past[:, -1] + 0.1 * actions[:, -1, None, None, None] + 0.01 * noise.normal((1, 1, 1))

    dynamics = FrameDynamics(next_frame, context_length=4, frame_shape=(16, 16, 3), num_actions=4)
    windows = draw_windows([tiny.episode(i) for i in range(3)], 4, 5, 3, seed=0)
    dream = Dream(dynamics, num_dreams=3, contexts=windows.contexts, horizon=-1, seed=0)
    dream.reset(contexts=windows.contexts)
    step = dream.step(np.array([0, 1, 3]))
    last = windows.contexts.frames[:, -1].astype(int)
    brighter = (np.asarray(step.observation).astype(int) - last)[:, 0, 0, 0]
    assert np.abs(brighter - [0, 12.75, 38.25]).max() < 6
    assert not np.asarray(step.reward).any() and not np.asarray(step.terminated).any()
    # Rows have their own noise, whatever the batch.
    assert np.array_equal(replay(dynamics, windows, max_batch=64), replay(dynamics, windows, max_batch=1))


# What the studies measure


def test_drift_is_measured() -> None:
    games = [tiny.episode(i) for i in range(3)]
    windows = draw_windows(games, 4, 8, 3, seed=0, ending="game")
    bank, args = drift.Bank(games, 1000), drift.Args(steps=8, every=2)
    exact = drift.measure(windows, windows.frames, bank, args)
    assert [(row.first, row.last) for row in exact] == [(1, 1), (2, 8)]
    for row in exact:
        assert row.error.mean == 0 and row.psnr.mean > 50 and row.nearest.mean < 0.1 and row.motion.mean > 0
        assert row.error.count == 3
    # Ten grey levels off, everywhere and at every step.
    shifted = drift.measure(windows, windows.frames + np.uint8(10) * (windows.frames < 200), bank, args)
    assert all(5 < row.error.mean <= 10 and 5 < row.nearest.mean <= 10 for row in shifted)
    # A dream that stands still on a real frame is near the real ones, but has no motion.
    still = drift.measure(windows, np.broadcast_to(windows.contexts.frames[:, -1:], windows.frames.shape), bank, args)
    assert all(row.nearest.mean < 0.1 and row.motion.mean == 0 for row in still)


def test_bank_holds_frames_of_every_game() -> None:
    games = [tiny.episode(i) for i in range(4)]  # each on a background of its own
    bank = drift.Bank(games, 8)
    shades = {int((frame + bank.mean)[0].round()) for frame in bank.frames}
    assert shades == {0, 1, 2, 3} and len(bank.frames) == 8


def test_sharp_and_blurred_squares_are_told_apart() -> None:
    last = np.stack([modes.draw(2)] * 7)
    left, right = modes.draw(1), modes.draw(3)
    average = (left.astype(int) + right) // 2
    drawn = np.stack([left, right, right, average, left | right, left * 0, left | right // 2]).astype(np.uint8)
    figures = modes.judge_next(last, drawn)
    shares = [getattr(figures, name).mean for name in ("one", "both", "other", "left")]
    assert shares == pytest.approx([3 / 7, 1 / 7, 3 / 7, 1 / 3])
    assert modes.shows_one(drawn).tolist() == [True] * 3 + [False] * 4
    assert modes.undecided(np.stack([modes.draw(i) for i in range(5)])).tolist() == [False, True, True, True, False]


def test_the_exact_denoiser_weighs_what_may_come_next() -> None:
    def unit(*frames: np.ndarray) -> torch.Tensor:
        return to_unit(torch.from_numpy(np.stack(frames))[None], torch.ones(1, len(frames)))[0]

    past = unit(*[modes.draw(2)] * 4)[None]
    left, right = unit(modes.draw(1), modes.draw(3))
    levels = {sigma: modes.exact(((left + right) / 2)[None], torch.tensor([sigma]), past, None) for sigma in (0.1, 5.0)}
    for average in levels.values():  # in the middle it cannot tell
        torch.testing.assert_close(average[0], (left + right) / 2, atol=0.01, rtol=0)
    nearer = 0.6 * left + 0.4 * right + torch.tensor([0.3, -0.2, 0.1])[:, None, None]  # a shift tells nothing
    torch.testing.assert_close(modes.exact(nearer[None], torch.tensor([0.1]), past, None)[0], left, atol=0.01, rtol=0)
    unsure = modes.exact(nearer[None], torch.tensor([5.0]), past, None)[0]
    # Half the difference of squared distances, over sigma squared: 24 changed values of 2, a fifth of the way.
    weight = 1 / (1 + np.exp(-0.2 * 24 * 4 / 2 / 25))
    torch.testing.assert_close(unsure, weight * left + (1 - weight) * right, atol=0.01, rtol=0)
    wall = unit(*[modes.draw(0)] * 4)[None]  # one way only
    torch.testing.assert_close(modes.exact(right[None], torch.tensor([0.1]), wall, None)[0], left, atol=0.01, rtol=0)


def test_the_square_jumps_both_ways_and_is_always_seen() -> None:
    game = modes.play(2000, seed=0)
    assert modes.shows_one(game.frames).all()
    place = modes.brightness(game.frames).argmax(axis=1)
    jumps = np.diff(place)
    assert set(np.unique(jumps)) == {-1, 1}
    assert (jumps[(place[:-1] > 0) & (place[:-1] < 4)] == 1).mean() == pytest.approx(0.5, abs=0.05)


def test_strips() -> None:
    rows = {"a": np.zeros((2, 4, 5, 3), np.uint8), "b": np.full((2, 4, 5, 3), 255, np.uint8)}
    picture = strips(rows, ["k = 1", "k = 2"], scale=3)
    assert (picture[-8, -8] == 255).all() and (picture[18 + 6, -8] == 0).all()
    with pytest.raises(ValueError, match="expected 3 frames"):
        strips(rows, ["1", "2", "3"])


# The programs


def test_study_drift_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = EpisodeStore(tmp_path / "data")
    for i in range(5):
        data.add(tiny.episode(i))
    network = {"updates": 2, "batch_size": 2, "channels": (8, 8), "frame_size": 8}
    dreams = {"steps": 12, "windows": 2, "every": 5, "denoising_steps": (1, 2)}
    args = drift.Args(data=data.folder, out=tmp_path / "out", **network, **dreams)
    drift.main(args)
    report = json.loads((args.out / "drift.json").read_text())
    forecasts = ["real", "last frame repeated", "DDPM, n = 1", "EDM, n = 1", "DDPM, n = 2", "EDM, n = 2"]
    assert list(report["figures"]) == forecasts
    assert [(row["first"], row["last"]) for row in report["figures"]["EDM, n = 1"]] == [(1, 1), (2, 10), (11, 12)]
    assert all(row["error"]["mean"] > 0 for name in forecasts[1:] for row in report["figures"][name])
    assert cv2.imread(str(args.out / "drift.png")) is not None
    assert (args.out / "drift.md").read_text().strip() in capsys.readouterr().out
    # The networks are there now; the same figures come out again, without training.
    trained = {path: path.stat().st_mtime_ns for path in args.out.glob("*.safetensors")}
    drift.main(args)
    assert json.loads((args.out / "drift.json").read_text()) == report
    assert len(trained) == 2 and trained == {path: path.stat().st_mtime_ns for path in trained}
    # As many other games are other data.
    others = EpisodeStore(tmp_path / "others")
    for i in range(5):
        others.add(tiny.episode(5 + i))
    with pytest.raises(ValueError, match="trained with other settings"):
        drift.main(dataclasses.replace(args, data=others.folder))


def test_study_drift_records_games_if_it_is_given_none(tmp_path: Path) -> None:
    args = drift.Args(record_steps=150, held_out=tmp_path / "data", out=tmp_path)
    games, _ = drift.load_games(args)
    assert sum(map(len, games)) == 150 and games[0].info.env["game"] == "Breakout"
    assert sum(map(len, drift.load_games(args)[0])) == 150  # they are there now


def test_study_drift_does_not_take_the_games_of_another_game(tmp_path: Path) -> None:
    EpisodeStore(tmp_path / "data").add(tiny.episode(0))
    with pytest.raises(ValueError, match="holds games of Dot, not of Breakout"):
        drift.load_games(drift.Args(out=tmp_path, game="breakout", record_steps=10))


def test_study_modes_runs(tmp_path: Path) -> None:
    options = {"games": 2, "length": 20, "updates": 2, "batch-size": 2, "moments": 8, "dreams": 2, "steps": 6}
    command = [f"--{name}={value}" for name, value in options.items()]
    command += [f"--out={tmp_path}", "--channels", "8", "8", "--denoising-steps", "1", "3"]
    result = subprocess.run(
        [sys.executable, EXAMPLES / "study_modes.py", *command],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "modes.json").read_text())
    assert list(report["next_frames"]) == [
        "the game",
        *(f"{name}, n = {n}" for name in ("exact", "trained") for n in (1, 3)),
        "distilled from exact, n = 3",
        "one step to real frames",
    ]
    assert report["next_frames"]["the game"]["one"]["mean"] == 1
    assert report["dreams"]["the game"] == {k: {"mean": 1, "low": 1, "high": 1, "count": 2} for k in ("1", "5", "6")}
    assert report["dreams"]["trained, n = 1"]["6"]["mean"] < 1  # two updates teach nothing
    assert (tmp_path / "modes.md").read_text().strip() in result.stdout
    assert cv2.imread(str(tmp_path / "modes.png")) is not None
