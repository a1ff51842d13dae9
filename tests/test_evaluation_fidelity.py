"""`gym-dream fidelity`, from models and a store to a report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch

from gym_dream.cli import main
from gym_dream.data import EpisodeStore
from gym_dream.evaluation.events import judge_dreams
from gym_dream.evaluation.fidelity_report import PAUSE, _film, as_json, files, text, write_report
from gym_dream.evaluation.open_loop import REAL, STATIC, _names, measure
from gym_dream.evaluation.rollouts import draw_windows
from gym_dream.world_model import WorldModel

GAMES = [tiny.episode(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and some games."""
    folder = tmp_path_factory.mktemp("fidelity")
    for name, seed in (("a", 0), ("b", 1)):
        tiny.world_model(seed).save(folder / name / "world_model")
    store = EpisodeStore(folder / "data")
    for game in GAMES:
        store.add(game)
    return folder


def run(folder: Path, out: Path, *more: str, models: tuple[str, ...] = ("a",)) -> int:
    """The command with some options, each of which replaces the default here."""
    options = {"--windows": ["4"], "--steps": ["1", "3", "9"], "--data": [str(folder / "data")]}
    name = ""
    for word in more:
        if word.startswith("--"):
            options[name := word] = []
        else:
            options[name].append(word)
    words = [word for name, values in options.items() for word in (name, *values)]
    paths = [str(folder / name / "world_model") for name in models]
    return main(["fidelity", "--model", *paths, "--out", str(out), "--device", "cpu", *words])


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, tmp_path, "--denoising-steps", "1", "2", models=("a", "b")) == 0
    printed = capsys.readouterr().out
    for words in ("half-life", "| a, n = 1", "| b, n = 2", STATIC, "| b, reward +1", "### ending: F1", "k = 9"):
        assert words in printed
    assert (tmp_path / "fidelity.md").read_text(encoding="utf-8") in printed
    assert printed.startswith("4 windows of 5 held-out games")
    assert "fidelity.json, fidelity.md, curves.png, contact_sheet.png, dreams.mp4." in printed

    report = json.loads((tmp_path / "fidelity.json").read_text(encoding="utf-8"))
    assert list(report["forecasts"]) == ["a, n = 1", "a, n = 2", "b, n = 1", "b, n = 2", STATIC, REAL]
    assert report["data"] == {"game": "Dot", "games": 5, "steps": 120}
    assert report["windows"]["1"] == {"windows": 4, "games": 4}
    assert 1 <= report["windows"]["9"]["windows"] < 4  # lives of 12 steps end before most of the windows do
    psnr = report["forecasts"]["a, n = 1"]["figures"]["PSNR"]
    assert psnr["at"]["3"]["low"] <= psnr["at"]["3"]["mean"] <= psnr["at"]["3"]["high"]
    assert len(psnr["means"]) == 9
    assert psnr["means"] != report["forecasts"]["b, n = 1"]["figures"]["PSNR"]["means"]

    assert cv2.imread(str(tmp_path / "curves.png")).std() > 5
    assert cv2.imread(str(tmp_path / "contact_sheet.png")).shape[1] > 4 * 32
    film = cv2.VideoCapture(str(tmp_path / "dreams.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) >= 12
    assert film.get(cv2.CAP_PROP_FRAME_WIDTH) > 5 * 64  # the game and four dreams
    film.release()


def test_the_report_says_how_many_windows_there_were(folder: Path) -> None:
    found = measure({"a": WorldModel.load(folder / "a" / "world_model")}, GAMES, windows=999, steps=(9,), device="cpu")
    assert 0 < len(found.windows) < 999
    assert text(found).startswith(f"{len(found.windows)} windows (there are no 999) of 5 held-out games")


def test_a_film_shows_the_first_steps_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gym_dream.evaluation.fidelity_report.FILMED_STEPS", 2)
    model = WorldModel.load(folder / "a" / "world_model")
    found = measure({"a": model}, GAMES, windows=3, steps=(5,), device="cpu")
    assert len(list(_film(found))) == 3 * (2 + PAUSE - 1)


def test_frames_without_colour_have_neither_sheet_nor_film(folder: Path, tmp_path: Path) -> None:
    model = WorldModel.load(folder / "a" / "world_model")
    found = measure({"a": model}, GAMES, windows=2, steps=(1,), device="cpu")
    grey = dataclasses.replace(found.windows, frames=found.windows.frames[..., :1])
    for drift in (found, dataclasses.replace(found, windows=grey)):
        out = tmp_path / str(len(files(drift)))
        write_report(drift, out)
        assert sorted(path.name for path in out.iterdir()) == sorted(files(drift))
    assert files(drift) == ("fidelity.json", "fidelity.md", "curves.png")


def test_the_same_seed_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    files = []
    for name in ("first", "again"):
        assert run(folder, tmp_path / name, "--windows", "2", "--steps", "1", "3") == 0
        files.append((tmp_path / name / "fidelity.json").read_bytes())
    assert files[0] == files[1]
    model = WorldModel.load(folder / "a" / "world_model")
    other = as_json(measure({"a": model}, GAMES, windows=2, steps=(1, 3), seed=1, device="cpu"))
    first = json.loads(files[0])
    assert other["settings"] == first["settings"] | {"seed": 1}
    assert other["forecasts"] != first["forecasts"]


def test_settings_of_the_sampler_matter(folder: Path) -> None:
    model = WorldModel.load(folder / "a" / "world_model")
    plain, *others = (
        measure({"a": model}, GAMES, windows=2, steps=(1,), device="cpu", model_kwargs=kwargs)
        for kwargs in ({}, {"order": 2}, {"num_denoising_steps": 1})
    )
    assert list(plain.dreams) == ["a, n = 3"] and list(others[1].dreams) == ["a, n = 1"]
    frames = plain.dreams["a, n = 3"].frames
    for other in others:
        assert (next(iter(other.dreams.values())).frames != frames).any()
    with pytest.raises(ValueError, match="unknown"):
        measure({"a": model}, GAMES, windows=2, steps=(1,), device="cpu", model_kwargs={"churn": 2})
    with pytest.raises(ValueError, match="not in both"):
        measure({"a": model}, GAMES, denoising_steps=(1,), model_kwargs={"num_denoising_steps": 1})


def test_a_dream_is_judged_as_it_judges_itself(folder: Path) -> None:
    """The dynamics' own logits, caught while it dreams, against the judge's classes."""
    from gym_dream.evaluation.rollouts import replay

    model = WorldModel.load(folder / "a" / "world_model")
    windows = draw_windows(GAMES, 4, (1, 5), 3, seed=0)
    dynamics = model.dynamics("cpu", "float32")
    said = []

    def remember(network: torch.nn.Module, inputs: object, prediction: object) -> None:
        said.append(prediction.reward[:, -1].argmax(dim=1).numpy() - 1)  # type: ignore[attr-defined]

    dynamics.reward_termination.register_forward_hook(remember)
    frames = replay(dynamics, windows, max_batch=3)
    rewards, ends = judge_dreams(model.reward_termination, windows, frames)
    order = np.argsort(-windows.length, kind="stable")
    own = np.stack(said[1:], axis=1)  # the first was the burn-in
    np.testing.assert_array_equal(rewards[order][windows.inside[order]], own[windows.inside[order]])
    assert not ends[~windows.inside].any() and not rewards[~windows.inside].any()


def test_models_of_unequal_context_dream_the_same_windows(folder: Path) -> None:
    a = WorldModel.load(folder / "a" / "world_model")
    config = tiny.config()
    short = dataclasses.replace(config, denoiser=dataclasses.replace(config.denoiser, context_length=2))
    b = WorldModel.create(short, a.starts)
    found = measure({"a": a, "b": b}, GAMES, windows=2, steps=(1, 2), device="cpu")
    assert found.dreams["b, n = 3"].frames.shape == found.dreams["a, n = 3"].frames.shape
    assert found.windows.contexts.length == 4


def broken(model: WorldModel, network: str, value: float) -> WorldModel:
    with torch.no_grad():
        for parameter in getattr(model, network).parameters():
            parameter.fill_(value)
    return model


def test_not_a_number_is_an_error(folder: Path) -> None:
    for network in ("denoiser", "reward_termination"):
        model = broken(tiny.world_model(), network, float("nan"))
        with pytest.raises(FloatingPointError, match=r"a: the weights .* hold NaN"):
            measure({"a": model}, GAMES, windows=1, steps=(1,), device="cpu")
    with pytest.raises(FloatingPointError, match="denoiser's output"):
        measure({"a": broken(tiny.world_model(), "denoiser", 1e30)}, GAMES, windows=1, steps=(1,), device="cpu")
    with pytest.raises(FloatingPointError, match="reward and termination model says NaN"):
        model = broken(tiny.world_model(), "reward_termination", 1e30)
        measure({"a": model}, GAMES, windows=1, steps=(1,), device="cpu")


def test_models_and_games_must_fit() -> None:
    model = tiny.world_model()
    wide = [dataclasses.replace(game, frames=np.zeros((len(game.frames), 16, 32, 3), np.uint8)) for game in GAMES]
    with pytest.raises(ValueError, match=r"a dreams frames of shape \(16, 16, 3\), but the games have \(16, 32, 3\)"):
        measure({"a": model}, wide, windows=1, steps=(1,))
    env = tiny.ENV | {"action_meanings": ["NOOP", "FIRE", "UP", "DOWN"]}
    others = [dataclasses.replace(game, info=dataclasses.replace(game.info, env=env)) for game in GAMES]
    with pytest.raises(ValueError, match="its action_meanings is"):
        measure({"a": model}, others, windows=1, steps=(1,))
    whole = WorldModel.create(tiny.config(tiny.ENV | {"ending": "game"}), model.starts)
    with pytest.raises(ValueError, match="different endings"):
        measure({"a": model, "b": whole}, GAMES, windows=1, steps=(1,))


def test_bad_requests(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, tmp_path / "out", "--steps", "12") == 2
    message = capsys.readouterr().err
    assert "15 steps without an ending; after 3 steps of context the longest has 10" in message
    for options, words in (
        (["--steps", "0"], "at least 1"),
        (["--windows", "0"], "at least 1"),
        (["--denoising-steps", "0"], "num_denoising_steps"),
        (["--data", str(tmp_path / "empty")], "no episodes in"),
    ):
        assert run(folder, tmp_path / "out", *options) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_are_called_by_what_tells_them_apart() -> None:
    assert _names(["breakout"]) == ["breakout"]
    assert _names(["runs/x/world_model", "runs/y/world_model"]) == ["x", "y"]
    assert _names(["one/x", "two/x/world_model"]) == ["one/x", "two/x"]
    with pytest.raises(ValueError, match="one twice"):
        _names(["x", "x"])


def test_the_extra_is_named_where_it_is_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gym_dream.evaluation.open_loop.find_spec", lambda name: None)
    assert run(folder, tmp_path / "out") == 2
    assert "pip install 'gym-dream[eval]'" in capsys.readouterr().err
