"""From recorded games and a training run to a model card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gym_dream.data.episode import Episode, EpisodeInfo
from gym_dream.data.store import EpisodeStore
from gym_dream.evaluation.card import write_card
from gym_dream.evaluation.provenance import DataFacts, RunFacts
from gym_dream.trainers.run import fit
from gym_dream.world_model import WorldModel

STEPS = 19


def game(number: int, name: str) -> Episode:
    """A square that the actions move over a 64x64 frame; for Breakout, a falling ball above a paddle."""
    rng = np.random.default_rng(number)
    actions = rng.integers(0, 3, STEPS)
    frames = np.zeros((STEPS + 1, 64, 64, 3), np.uint8)
    column = 30 + np.concatenate([[0], np.cumsum(actions - 1)])
    for step in range(STEPS + 1):
        frames[step, 58, column[step] - 3 : column[step] + 4] = (200, 72, 72)
        frames[step, 31 + step, 10 + step] = (200, 72, 72)
    terminated = np.arange(STEPS) == STEPS - 1
    return Episode(
        frames=frames,
        actions=actions,
        rewards=np.where(np.arange(STEPS) == 5, np.float32(7), np.float32(0)),
        terminated=terminated,
        truncated=np.zeros(STEPS, np.bool_),
        lives=(1 - terminated).astype(np.int32),
        ram=None,
        info=EpisodeInfo(
            {"id": f"ALE/{name}-v5", "game": name, "frame_shape": [64, 64, 3], "frame_skip": 4, "max_pool": True,
             "action_meanings": ["LEFT", "NOOP", "RIGHT"], "keys_to_action": {}, "ending": "life"},
            seed=40 + number,
            policy="random" if number % 2 else "scripted",
        ),
    )  # fmt: skip


def record(folder: Path, name: str, games: int = 4) -> Path:
    store = EpisodeStore(folder)
    for number in range(games):
        store.add(game(number, name))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two updates on four games."""
    folder = tmp_path_factory.mktemp("breakout")
    fit(
        record(folder / "data", "Breakout"), folder / "run", steps=2, device="cpu", precision="float32", progress=False,
        training={"batch_size": 2, "reward_batch_size": 2, "reward_steps": 4},
    )  # fmt: skip
    return folder / "run"


def test_the_card_of_a_run(run: Path, tmp_path: Path) -> None:
    commands = tmp_path / "commands.sh"
    commands.write_text("gym-dream fit --data DATA --out RUN\n")
    (tmp_path / "report.md").write_text("| random | 1.00 [0.50, 1.50] |\n")
    data, model = run.parent / "data", run / "world_model"
    path = write_card(
        model,
        data,
        tmp_path / "out",
        commands=commands,
        evaluation=tmp_path,
        hardware_text="an abacus",
        windows=3,
        denoising_steps=(1,),
        progress=False,
    )
    text = path.read_text(encoding="utf-8")
    assert "4 games, 76 steps; seeds 40 to 43." in text
    assert "| random | 2 | 38 |" in text and "| scripted | 2 | 38 |" in text
    assert "hours on an abacus. 6% of the games were held out." in text
    assert "held-out denoiser loss" in text and "held-out termination loss" in text
    assert "| reward +1 | 1 |" in text and "| ending | 1 |" in text  # of the one game held out
    assert "ball within 2 px" in text and "| 1 | dream, 2 denoising steps (as shipped) |" in text
    assert "| 15 | dream, 1 denoising step |" in text
    assert "| 50 |" not in text  # the games are too short
    assert "| 1-15 | last frame repeated |" in text
    assert "```sh\ngym-dream fit --data DATA --out RUN\n```" in text
    assert "## Returns in dream and game\n\n| random | 1.00 [0.50, 1.50] |\n\n## Licence" in text
    assert str(run) not in text
    sheet = cv2.imread(str(path.parent / "contact_sheet.png"))
    assert sheet.shape[1] > 2 * 128
    assert "](contact_sheet.png)" in text


def test_a_game_without_probes_and_without_a_run(run: Path, tmp_path: Path) -> None:
    model = WorldModel.load(run / "world_model")
    model.config.env.update(game="Qbert", id="ALE/Qbert-v5")
    model.save(tmp_path / "qbert")
    record(tmp_path / "data", "Qbert", games=2)
    record(tmp_path / "unseen", "Qbert", games=5)
    path = write_card(
        tmp_path / "qbert", tmp_path / "data", tmp_path / "qbert", held_out=tmp_path / "unseen", windows=2,
        denoising_steps=(), progress=False,
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    assert "# Qbert, dreamt" in text and "ball" not in text and "## Training" not in text
    assert "recorded apart: 5 games, 95 steps; seeds 40 to 44; played by random, scripted." in text
    assert "held-out games: 5 games, 95 steps" in text
    assert WorldModel.load(tmp_path / "qbert").card == text


def test_no_data(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No episodes in .*nowhere"):
        write_card(run / "world_model", tmp_path / "nowhere", tmp_path)


def test_facts_of_something_that_is_no_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RunFacts.read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoint.safetensors").write_bytes((run / "checkpoint.safetensors").read_bytes())
    with pytest.raises(ValueError, match="no training run of this version: it lacks 'training'"):
        RunFacts.read(tmp_path)


def test_facts_of_data(tmp_path: Path) -> None:
    store = EpisodeStore(record(tmp_path, "Pong", games=3))
    begun = game(4, "Pong")
    store.add(replace(begun, info=replace(begun.info, start="the middle")))
    policies = {"random": (1, 19), "scripted": (2, 38), "scripted (the middle)": (1, 19)}
    assert DataFacts.read(store.paths) == DataFacts(4, 76, (40, 41, 42, 44), policies)
