"""One batch, cut up: over pieces that follow each other in a process, and over processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from together import together
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

import gym_dream.trainers.processes
from gym_dream.data import EpisodeStore
from gym_dream.trainers import run
from gym_dream.trainers.checkpoint import NAME, load_checkpoint
from gym_dream.trainers.fit import Fit
from gym_dream.trainers.presets import PRESETS
from gym_dream.trainers.processes import Processes, joined
from gym_dream.world_model import WorldModel

# Batches that two do not divide, sequences that mostly reach beyond a life and so are padded unevenly.
TRAINING = {
    "batch_size": 5,
    "reward_batch_size": 3,
    "reward_steps": 16,
    "reward_interval": 1,
    "context_noise": 0.1,
    "event_share": 0.5,
}
STEPS = 4


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", tiny.PRESET)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = EpisodeStore(tmp_path_factory.mktemp("data"))
    for seed in range(5):
        store.add(tiny.episode(seed))
    return store.folder


def fit_of(data: Path, **arguments: Any) -> Fit:
    config = run._new_config(data, "tiny", None, TRAINING, 0.06, seed=0)
    return Fit(config, EpisodeStore(data).load_all(), torch.device("cpu"), torch.float32, False, **arguments)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The run of one process: its folder, and what it reports."""
    folder = tmp_path_factory.mktemp("alone")
    (report,) = together(1, folder, out=str(folder / "run"), data=[str(data)], steps=STEPS, training=TRAINING)
    return folder / "run", report


def assert_close_runs(ours: Path, theirs: Path) -> None:
    """The same weights, averages and moments but for rounding; Adam divides by small numbers, which magnifies it."""
    one, other = load_file(ours / NAME), load_file(theirs / NAME)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        scale = 1.0 if "optimiser" not in name else max(1e-8, other[name].abs().max().item())
        difference = float((tensor - other[name]).abs().max()) / scale
        assert difference < 2e-5, name
    assert load_checkpoint(ours)[1]["step"] == load_checkpoint(theirs)[1]["step"]


def assert_close_losses(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


# Rows


@pytest.mark.parametrize(("batch", "processes", "pieces"), [(9, 1, 1), (9, 2, 1), (9, 1, 4), (32, 4, 2), (7, 2, 3)])
def test_every_row_has_one_place(batch, processes, pieces):
    shares = [Processes(rank, processes).rows(batch, pieces) for rank in range(processes)]
    assert all(len(share) == pieces for share in shares)
    rows = [list(range(batch)[piece]) for share in shares for piece in share]
    assert [row for piece in rows for row in piece] == list(range(batch))
    assert {len(piece) for piece in rows} <= {batch // (processes * pieces), batch // (processes * pieces) + 1}


def test_a_batch_too_small_to_be_shared_out_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"a batch of 3 .* 2 process.* 2 piece.* batch of 4 or more"):
        Processes(0, 2).rows(3, 2)
    with pytest.raises(ValueError, match=r"^reward_batch_size: a batch of 2 .* 3 piece"):
        tiny.fit(tmp_path / "run", data, accumulate=3)
    with pytest.raises(ValueError, match=r"accumulate: expected at least 1"):
        tiny.fit(tmp_path / "run", data, accumulate=0)
    assert not (tmp_path / "run").exists()


# Pieces


@pytest.mark.parametrize("pieces", [2, 3])
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(data, pieces):
    whole, cut = fit_of(data), fit_of(data, accumulate=pieces)
    sizes: list[int] = []
    segment = cut._segment
    cut._segment = lambda segments: sizes.append(len(segments.frames)) or segment(segments)  # type: ignore[method-assign]
    assert cut.update(0.0) == {name: pytest.approx(float(v), rel=1e-5) for name, v in whole.update(0.0).items()}
    for ours, theirs in ((cut.denoiser, whole.denoiser), (cut.reward_termination, whole.reward_termination)):
        for one, other in zip(ours.gradient(), theirs.gradient(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6 + 1e-4 * float(other.abs().max()), rtol=0)
    assert len(sizes) == 2 * pieces and sum(sizes) == TRAINING["batch_size"] + TRAINING["reward_batch_size"]


def test_held_out_losses_do_not_depend_on_the_pieces(data):
    assert fit_of(data).evaluate() == pytest.approx(fit_of(data, accumulate=3).evaluate(), rel=1e-5)


def test_a_run_in_pieces_is_the_run_in_one(data, tmp_path, alone):
    out, settings = str(tmp_path / "run"), {"steps": STEPS, "training": TRAINING}
    together(1, tmp_path, out=out, data=[str(data)], **settings, accumulate=3)
    assert_close_runs(tmp_path / "run", alone[0])


# Processes


def test_two_processes_learn_what_one_does(data, tmp_path, alone):
    folder, report = alone
    out = tmp_path / "run"
    settings = {"steps": STEPS, "training": TRAINING, "checkpoint_minutes": 0}
    first, second = together(2, tmp_path, out=str(out), data=[str(data)] * 2, **settings)
    assert first["error"] == second["error"] == ""
    assert_close_losses(first["losses"], report["losses"])
    assert_close_losses(first["norms"], report["norms"])
    for name in ("losses", "norms", "weights"):
        assert first[name] == second[name]  # to the bit
    assert second["rows"] == STEPS * (TRAINING["batch_size"] + TRAINING["reward_batch_size"] - 2 - 1)
    assert_close_runs(out, folder)
    WorldModel.load(out / "world_model")
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}


def test_a_run_can_change_its_number_of_processes(data, tmp_path, alone):
    """From two to one to two, each time after a Ctrl-C, whichever process gets it."""
    out = tmp_path / "run"
    settings: dict[str, Any] = {"out": str(out), "steps": STEPS}
    reports = together(2, tmp_path, **settings, data=[str(data)] * 2, training=TRAINING, ctrl_c=(1, 0))
    assert load_checkpoint(out)[1]["step"] == 1 and [len(report["losses"]) for report in reports] == [1, 1]
    together(1, tmp_path, **settings, resume=True, ctrl_c=(0, 1))
    assert load_checkpoint(out)[1]["step"] == 2
    reports = together(2, tmp_path, **settings, resume=True)
    assert_close_losses(reports[0]["losses"], alone[1]["losses"][2:])
    assert_close_runs(out, alone[0])


def test_the_first_process_keeps_the_time(data, tmp_path):
    out = tmp_path / "run"
    first, second = together(
        2, tmp_path, out=str(out), data=[str(data)] * 2, steps=None, minutes=0.01, fast_clocks=True, training=TRAINING
    )
    assert len(first["losses"]) == len(second["losses"]) == load_checkpoint(out)[1]["step"] >= 1
    assert load_checkpoint(out)[1]["seconds"] >= 0.6


def test_what_processes_cannot_do_together_is_told_by_all(data, tmp_path):
    out = tmp_path / "run"
    reports = together(2, tmp_path, out=str(out), data=[str(data)] * 2, training={"batch_size": 1})
    assert all(
        report["error"].startswith("batch_size: a batch of 1 cannot be shared out among 2") for report in reports
    )
    other = EpisodeStore(tmp_path / "other")
    for seed in range(5):
        other.add(tiny.episode(seed, steps=30))
    reports = together(2, tmp_path, out=str(out), data=[str(data), str(other.folder)])
    assert all("do not see the same run and data" in report["error"] for report in reports)
    assert "150 steps of play" in reports[1]["error"]
    assert not out.exists()


@pytest.mark.parametrize(
    ("device", "gpus", "words"), [("cuda:1", 4, "not on 'cuda:1'"), ("mps", 0, "not on 'mps'"), ("cuda", 1, "has 1")]
)
def test_devices_that_cannot_be_shared_out(monkeypatch, device, gpus, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(gym_dream.trainers.processes.torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=words), joined(device):
        pass


@pytest.mark.slow
def test_the_command_that_help_names(data, tmp_path):
    assert "torchrun --nproc-per-node N -m gym_dream.cli fit" in _run("-m", "gym_dream.cli", "fit", "--help")
    command = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "gym_dream.cli", "fit")
    out = tmp_path / "run"
    training = ("--training", "batch_size", "2", "reward_batch_size", "2", "reward_steps", "2", "targets", "1")
    told = _run(*command, "--data", str(data), "--out", str(out), "--steps", "2", "--device", "cpu", *training)
    assert told.count("Wrote ") == 1
    _run(*command[4:], "--resume", "--out", str(out), "--steps", "3", "--device", "cpu")
    assert load_checkpoint(out)[1]["step"] == 3


def _run(*command: str) -> str:
    # No terminal: without COLUMNS, help would be wrapped in the middle of the command.
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# No waiting


def test_an_update_reads_no_value_from_the_device(data, monkeypatch):
    """What is read must first be computed, so a GPU would stand idle until the next update is asked for."""
    monkeypatch.setattr(AveragedModel, "update_parameters", None)  # sends its count there, to read it again
    fit = fit_of(data, accumulate=2)
    fit.update(0.0)
    counts = {learner.average.n_averaged.data_ptr() for learner in (fit.denoiser, fit.reward_termination)}
    read: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            waits = func.overloadpacket in (
                torch.ops.aten._local_scalar_dense,
                torch.ops.aten.nonzero,
                torch.ops.aten.equal,
                torch.ops.aten.masked_select,
            )
            if waits and args[0].data_ptr() not in counts:  # which stay on the host
                read.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        report = fit.update(0.5)
        assert not read
        float(report["denoiser/loss"])
    assert len(read) == 1  # it does see
