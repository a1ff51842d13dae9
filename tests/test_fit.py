import errno
import json
import math
import multiprocessing
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

import gym_dream.files
import gym_dream.trainers.run
from gym_dream.data import Episode, EpisodeInfo, EpisodeStore
from gym_dream.trainers.checkpoint import NAME, load_checkpoint, save_checkpoint
from gym_dream.trainers.fit import Fit, FitConfig
from gym_dream.trainers.loop import Budget
from gym_dream.trainers.presets import PRESETS, TrainingConfig
from gym_dream.trainers.world_model_trainer import Play, learning_rate_factor
from gym_dream.world_model import WorldModel

EPISODES = 5


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", tiny.PRESET)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that some tests start, so that sums have the same order
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    store = EpisodeStore(folder)
    for seed in range(EPISODES):
        store.add(tiny.episode(seed))
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of 8 steps."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", tiny.PRESET)
        tiny.fit(out, data)
    return out


def assert_same_checkpoint(one: Path, other: Path) -> None:
    ours, theirs = load_file(one / NAME), load_file(other / NAME)
    assert ours.keys() == theirs.keys()
    different = [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]
    assert not different
    assert steps_done(one) == steps_done(other)


def steps_done(run: Path) -> int:
    return load_checkpoint(run)[1]["step"]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Any) -> None:
    """Do something in the middle of the update of that number."""
    update = Fit.update

    def patched(self: Fit, progress: float) -> dict[str, torch.Tensor]:
        report = update(self, progress)
        return action(report) or report if self.step == step else report

    monkeypatch.setattr(Fit, "update", patched)


# A run


def test_a_run_makes_a_world_model(data, finished):
    assert {path.name for path in finished.iterdir()} >= {"config.json", NAME, "world_model"}
    model = WorldModel.load(finished / "world_model")
    assert model.config == tiny.config()
    assert steps_done(finished) == 8
    weights = load_file(finished / NAME)
    for name, network in (("denoiser", model.denoiser), ("reward_termination", model.reward_termination)):
        for key, tensor in network.state_dict().items():
            torch.testing.assert_close(tensor, weights[f"{name}.average.module.{key}"], atol=1e-4, rtol=1e-3)


def test_the_small_preset_learns_on_frames_of_16_pixels(data, tmp_path):
    model = WorldModel.load(
        tiny.fit(tmp_path / "run", data, preset="small", steps=1, training={"batch_size": 2, "reward_batch_size": 2})
    )
    assert model.config.denoiser == PRESETS["small"].world_model(tiny.ENV).denoiser
    assert sum(parameter.numel() for parameter in model.denoiser.parameters()) > 2_000_000


def test_starts_come_from_held_out_games(data, finished):
    starts = WorldModel.load(finished / "world_model").starts
    shades = {int(frame[-1, 0, 0, 0]) for frame in starts.frames}
    run = config_of(finished)
    assert shades == {int(episode.frames[0, 0, 0, 0]) for episode in Fit(*fit_arguments(run, data)).held_out}


def config_of(run: Path) -> FitConfig:
    return gym_dream.trainers.run._stored_config(run, None)


def fit_arguments(config: FitConfig, data: Path) -> tuple[Any, ...]:
    return config, EpisodeStore(data).load_all(), torch.device("cpu"), torch.float32, False


def test_held_out_games_are_never_trained_on(data, finished, monkeypatch):
    """Every game has a shade of its own, which shows where a sampled frame comes from."""
    run = Fit(*fit_arguments(config_of(finished), data))
    trained = set()
    tensors = Fit._segment

    def spy(self: Fit, segments: Any) -> Any:
        trained.update(segments.frames[segments.mask][:, -1, 0, 0].tolist())
        return tensors(self, segments)

    monkeypatch.setattr(Fit, "_segment", spy)
    for _ in range(40):
        run.update(0.0)
    held_out = {int(episode.frames[0, 0, 0, 0]) for episode in run.held_out}
    assert trained | held_out == set(range(EPISODES)) and not trained & held_out and len(held_out) == 1
    trained.clear()
    run.evaluate()
    assert trained == held_out


def test_another_seed_gives_other_networks_and_batches(data, tmp_path, finished):
    tiny.fit(tmp_path / "run", data, seed=1)
    ours, theirs = load_file(tmp_path / "run" / NAME), load_file(finished / NAME)
    name = "denoiser.network.inner_model.conv_in.weight"
    assert not torch.equal(ours[name], theirs[name])


def test_evaluation_is_repeatable_and_leaves_the_run_alone(data, finished):
    run = Fit(*fit_arguments(config_of(finished), data))
    before = {name: tensor.clone() for name, tensor in run.denoiser.tensors().items()}
    first = run.evaluate()
    assert first == run.evaluate() and all(map(math.isfinite, first.values()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.denoiser.tensors().items())
    assert set(first) == {"held_out/denoiser_loss", "held_out/reward_loss", "held_out/termination_loss"}


def test_padding_looks_the_same_to_the_networks_whatever_it_holds(data, finished, monkeypatch):
    run, tensors, padded = Fit(*fit_arguments(config_of(finished), data)), Fit._segment, []
    run.load(finished)  # fresh networks say the same of everything
    stored = run.evaluate()

    def fill(self: Fit, segments: Any) -> Any:
        padded.append(~segments.mask.all())
        frames = np.where(segments.mask[..., None, None, None], segments.frames, np.uint8(200))
        return tensors(self, replace(segments, frames=frames))

    monkeypatch.setattr(Fit, "_segment", fill)
    assert run.evaluate() == stored and any(padded)


@pytest.mark.parametrize("left", ["denoiser", "reward"])
def test_either_network_can_be_left_as_it_is(data, finished, tmp_path, monkeypatch, left):
    settings = {"init": str(finished / "world_model"), "training": {f"{left}_interval": 0}, "seed": 3}
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda report: signal.raise_signal(signal.SIGINT))
        tiny.fit(tmp_path / "run", data, steps=4, **settings)
    tiny.fit(tmp_path / "run", steps=4, resume=True)
    before, after = WorldModel.load(finished / "world_model"), WorldModel.load(tmp_path / "run" / "world_model")
    for name in ("denoiser", "reward_termination"):
        ours, theirs = getattr(after, name).state_dict(), getattr(before, name).state_dict()
        same = [torch.equal(tensor, theirs[key]) for key, tensor in ours.items()]
        assert all(same) == name.startswith(left)


def test_every_loss_is_logged(data, tmp_path, monkeypatch):
    logged: dict[str, set[int]] = {}

    def log(values: dict[str, float], step: int) -> None:
        for name in values:
            logged.setdefault(name, set()).add(step)

    monkeypatch.setattr(gym_dream.trainers.run, "scalar_log", lambda folder, step: _entered(log))
    monkeypatch.setattr(gym_dream.trainers.run, "LOG_INTERVAL", 3)
    tiny.fit(tmp_path / "run", data, steps=9, training={"reward_interval": 4})
    assert {name for name in logged if "held_out" not in name} == {
        "denoiser/loss",
        "denoiser/grad_norm",
        "reward/loss",
        "termination/loss",
        "reward_termination/grad_norm",
    }
    assert all(steps == ({9} if "held_out" in name else {3, 6, 9}) for name, steps in logged.items())


class _entered:  # noqa: N801
    """A context manager that gives a value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __enter__(self) -> Any:
        return self.value

    def __exit__(self, *error: object) -> None:
        pass


def test_tensorboard_reads_the_logs(finished):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(finished / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("denoiser/loss")] == [8]


# Interrupted and resumed


def test_ctrl_c_ends_with_a_checkpoint_and_resuming_changes_nothing(data, finished, tmp_path, monkeypatch):
    out = tmp_path / "run"
    for step in (1, 3, 6):
        with monkeypatch.context() as patch:
            at_step(patch, step, lambda report: signal.raise_signal(signal.SIGINT))
            tiny.fit(out, None if (out / "config.json").exists() else data, resume=out.exists())
        assert steps_done(out) == step
        WorldModel.load(out / "world_model")
    tiny.fit(out, resume=True)
    assert_same_checkpoint(out, finished)
    for name in ("denoiser", "reward_termination", "starts"):
        ours, theirs = (load_file(run / "world_model" / f"{name}.safetensors") for run in (out, finished))
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_ctrl_c_works_as_usual_after_the_run(data, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    tiny.fit(tmp_path / "run", data, steps=1)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_interrupts_at_once(data, tmp_path, monkeypatch):
    def twice(report: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt):
        tiny.fit(tmp_path / "run", data)
    monkeypatch.undo()
    assert steps_done(tmp_path / "run") == 0


def test_a_run_may_live_in_a_thread(data, finished, tmp_path):
    thread = threading.Thread(target=tiny.fit, args=(tmp_path / "run", data))
    thread.start()
    thread.join()
    assert_same_checkpoint(tmp_path / "run", finished)


def test_the_next_50_losses_after_a_resume_are_equal(data, finished, tmp_path):
    config = config_of(finished)

    def losses(run: Fit, count: int) -> list[dict[str, float]]:
        return [{name: float(value) for name, value in run.update(0.3).items()} for _ in range(count)]

    whole = Fit(*fit_arguments(config, data))
    losses(whole, 11)
    (tmp_path / "run").mkdir()
    whole.save(tmp_path / "run", seconds=12.5)
    expected = losses(whole, 50)
    resumed = Fit(*fit_arguments(config, data))
    assert resumed.load(tmp_path / "run") == 12.5
    assert losses(resumed, 50) == expected
    for ours, theirs in (
        (resumed.denoiser, whole.denoiser),
        (resumed.reward_termination, whole.reward_termination),
    ):
        tensors = theirs.tensors()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in ours.tensors().items())


def _changes(path: Path) -> Any:
    try:
        return path.stat().st_ino, path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


@pytest.mark.parametrize(
    ("kills", "steps"), [pytest.param(3, 14, id="3 kills"), pytest.param(20, 60, id="20 kills", marks=pytest.mark.slow)]
)
def test_a_run_killed_at_random_times_ends_as_if_never_stopped(data, tmp_path, kills, steps):
    rng = np.random.default_rng(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gym_dream.trainers.run", "torch.utils.tensorboard", "torch._dynamo"])
    out, whole = tmp_path / "killed", tmp_path / "whole"

    def start(run: Path) -> Any:
        process = context.Process(target=tiny.fit_here, args=(str(run), str(data), steps))
        process.start()
        return process

    reference = start(whole)
    reference.join()
    assert reference.exitcode == 0
    done, last = 0, 0
    for _ in range(kills):
        process = start(out)
        # Some checkpoints on, at any moment of a step or of a write, but never near the end of the run.
        patience = int(rng.integers(0, max(1, (steps - last - 2) // (kills - done)) + 1))
        for _ in range(patience):
            _wait_for_change(out / NAME, process)
        time.sleep(rng.random() * 0.2)
        process.kill()
        process.join()
        done += process.exitcode == -signal.SIGKILL
        if (out / "config.json").exists():
            assert steps_done(out) >= last, "a finished step was lost"
            last = steps_done(out)
    assert done == kills
    process = start(out)
    process.join()
    assert process.exitcode == 0
    assert_same_checkpoint(out, whole)
    WorldModel.load(out / "world_model")
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())


def _wait_for_change(path: Path, process: Any) -> None:
    before = _changes(path)
    while _changes(path) == before and process.is_alive():
        time.sleep(0.001)


def test_torn_files_of_a_killed_run_are_ignored_and_go(data, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / f".{NAME}.123.abcd.tmp").write_bytes((out / NAME).read_bytes()[:1000])
    (out / ".tmpAb12Cd").write_bytes(b"torn")  # as safetensors calls its own
    shutil.copytree(out / "world_model", out / ".world_model.x1y2")
    (out / ".world_model.x1y2" / "denoiser.safetensors").write_bytes(b"")
    (out / ".world_model.old.z3").mkdir()
    tiny.fit(out, resume=True)
    assert_same_checkpoint(out, finished)
    assert {path.name for path in out.iterdir()} == {path.name for path in finished.iterdir()}


def test_a_world_model_set_aside_by_a_killed_swap_is_put_back(data, finished, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / ".world_model.old.z3").mkdir()
    (out / "world_model").rename(out / ".world_model.old.z3" / "world_model")
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "save", lambda *arguments: pytest.fail("the disk is full"))
        with pytest.raises(pytest.fail.Exception):
            tiny.fit(out, resume=True)
    assert [path.name for path in out.glob("*world_model*")] == ["world_model"]
    WorldModel.load(out / "world_model")
    tiny.fit(out, resume=True)
    WorldModel.load(out / "world_model")


# What can go wrong


def test_an_existing_run_is_not_overwritten(data, finished):
    before = (finished / NAME).read_bytes()
    with pytest.raises(FileExistsError, match=r"already holds a run\..*--resume"):
        tiny.fit(finished, data)
    assert (finished / NAME).read_bytes() == before


def test_nothing_to_resume(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        tiny.fit(tmp_path / "nothing", data, resume=True)


def test_a_resume_on_other_data_is_refused(data, finished, tmp_path):
    with pytest.raises(ValueError, match=r"was fitted to .*, not to .*elsewhere.*--init"):
        tiny.fit(finished, tmp_path / "elsewhere", resume=True)
    tiny.fit(finished, data, resume=True)  # the same data may be named again
    tiny.fit(finished, resume=True, training={"batch_size": 3})  # and so may settings
    with pytest.raises(ValueError, match="was begun with batch_size 3: leave --training out"):
        tiny.fit(finished, resume=True, training={"batch_size": 9})


def test_data_that_have_gone_are_noticed_and_data_that_came_are_not_used(data, finished, tmp_path):
    moved, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data, moved)
    tiny.fit(out, moved, steps=4)
    EpisodeStore(moved).add(tiny.episode(77))
    tiny.fit(out, resume=True, steps=8)
    for path in EpisodeStore(moved).paths[-2:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"first 5 episodes in .*only 4 are left"):
        tiny.fit(out, resume=True, steps=9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preset": "tinny"}, ["preset", "small", "diamond-atari", "'tinny'"]),
        ({"training": {"learning_speed": 1}}, ["training", "unknown 'learning_speed'", "'learning_rate'"]),
        ({"training": {"batch_size": 1.5}}, ["training: batch_size", "int", "1.5"]),
        ({"training": {"batch_size": 0}}, ["training", "batch_size", "at least 1", "0"]),
        ({"training": {"reward_interval": -1}}, ["reward_interval", "at least 0", "-1"]),
        ({"training": {"reward_interval": 0, "denoiser_interval": 0}}, ["reward_interval", "not both 0"]),
        ({"training": {"learning_rate": 0}}, ["learning_rate", "more than 0"]),
        ({"training": {"cooldown": 2.0}}, ["cooldown", "2.0"]),
        ({"training": {"average_decay": 1.0}}, ["average_decay", "1.0"]),
        ({"training": {"sigma_max": 1e-3}}, ["sigma_min", "0.001"]),
        ({"steps": None}, ["either steps or minutes"]),
        ({"minutes": 1.0}, ["either steps or minutes"]),
        ({"steps": 0}, ["more than nothing", "steps=0"]),
        ({"steps": None, "minutes": -1.0}, ["more than nothing", "minutes=-1.0"]),
        ({"precision": "double"}, ["precision", "'double'"]),
        ({"held_out_fraction": 0.9}, ["held-out fraction", "0.9"]),
        ({"data": None}, ["data"]),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(data, tmp_path, settings, words):
    with pytest.raises(ValueError) as error:
        tiny.fit(tmp_path / "run", **{"data": data} | settings)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_fitted_to(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No episodes in .*gym-dream collect"):
        tiny.fit(tmp_path / "run", tmp_path / "empty")
    store = EpisodeStore(tmp_path / "one")
    store.add(tiny.episode(0))
    with pytest.raises(ValueError, match=r"at least 2 games, got 1"):
        tiny.fit(tmp_path / "run", store.folder)
    first = store.paths[0].read_bytes()
    store.add(tiny.episode(1)).write_bytes(first[:500])
    with pytest.raises(ValueError, match=r"episode_000001.*cut short"):
        tiny.fit(tmp_path / "run", store.folder)
    assert not (tmp_path / "run").exists()


def with_env(env: dict[str, Any], side: int = tiny.SIDE) -> Episode:
    e = tiny.episode(0)
    frames = np.zeros((len(e.frames), side, side, 3), np.uint8)
    info = EpisodeInfo(env=env, seed=0, policy="random")
    return Episode(frames, e.actions, e.rewards, e.terminated, e.truncated, e.lives, None, info)


def test_episodes_of_an_environment_that_is_not_described_are_refused(tmp_path):
    store = EpisodeStore(tmp_path / "data")
    for _ in range(2):
        store.add(with_env({"id": "Mine-v0", "frame_shape": [16, 16, 3]}))
    with pytest.raises(ValueError, match=r"says nothing of action_meanings, ending"):
        tiny.fit(tmp_path / "run", store.folder)


def test_a_run_can_start_from_a_world_model(data, finished, tmp_path):
    begin = WorldModel.load(finished / "world_model")
    tiny.fit(
        tmp_path / "run",
        data,
        init=str(finished / "world_model"),
        steps=1,
        training={"learning_rate": 1e-9},
        seed=5,
    )
    end = WorldModel.load(tmp_path / "run" / "world_model")
    for name, tensor in begin.denoiser.state_dict().items():
        torch.testing.assert_close(end.denoiser.state_dict()[name], tensor, atol=1e-5, rtol=0)


def test_an_interrupted_run_from_a_world_model_goes_on_from_it(data, finished, tmp_path, monkeypatch):
    """Killed before its first checkpoint, it must not go on from fresh weights."""
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda report: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            tiny.fit(tmp_path / "run", data, init=str(finished / "world_model"))
    assert steps_done(tmp_path / "run") == 0
    tiny.fit(tmp_path / "run", resume=True)
    tiny.fit(tmp_path / "whole", data, init=str(finished / "world_model"))
    assert_same_checkpoint(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("actions", "side"), [(4, 32), (3, 16)])
def test_a_model_of_another_game_is_no_start(finished, tmp_path, actions, side):
    env = tiny.ENV | {"frame_shape": [side, side, 3], "action_meanings": tiny.ENV["action_meanings"][:actions]}
    store = EpisodeStore(tmp_path / "data")
    for _ in range(2):
        store.add(with_env(env, side))
    with pytest.raises(ValueError, match=rf"4 actions and frames of \[16, 16, 3\].* {actions} actions.*\[{side}"):
        tiny.fit(tmp_path / "run", store.folder, init=str(finished / "world_model"))


def test_a_model_started_from_describes_the_environment_of_its_own_data(finished, tmp_path):
    env = tiny.ENV | {"repeat_action_probability": 0.25}
    store = EpisodeStore(tmp_path / "data")
    for _ in range(2):
        store.add(with_env(env))
    made = tiny.fit(tmp_path / "run", store.folder, init=str(finished / "world_model"), steps=1)
    assert WorldModel.load(made).config.env == env


@pytest.mark.parametrize("name", ["denoiser/loss", "reward/loss", "denoiser/grad_norm"])
def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(data, tmp_path, monkeypatch, name):
    """Also between two looks at the losses, and in a network that is not trained at every step."""
    out = tmp_path / "run"
    tiny.fit(out, data, steps=3)
    before = (out / NAME).read_bytes()
    for step in (5, 6):
        at_step(monkeypatch, step, lambda report: {key: report[key] * math.nan for key in report if key == name})
    at_step(monkeypatch, 6, lambda report: signal.raise_signal(signal.SIGINT))
    with pytest.raises(FloatingPointError, match=rf"step 6.*{name}': nan.*last good checkpoint.*learning rate"):
        tiny.fit(out, resume=True)
    assert (out / NAME).read_bytes() == before
    WorldModel.load(out / "world_model")


def test_a_learning_rate_that_explodes_is_told(data, tmp_path):
    with pytest.raises(FloatingPointError, match=r"no longer numbers"):
        tiny.fit(tmp_path / "run", data, steps=40, training={"learning_rate": 1e30, "warmup_steps": 1})
    assert steps_done(tmp_path / "run") == 0


@pytest.mark.parametrize("name", [NAME, "denoiser.safetensors"])
def test_a_full_disk_keeps_the_last_checkpoint(data, finished, tmp_path, monkeypatch, name):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda report: signal.raise_signal(signal.SIGINT))
        tiny.fit(out, data)
    checkpoint, weights = (out / NAME).read_bytes(), (out / "world_model" / "denoiser.safetensors").read_bytes()
    sync = gym_dream.files._sync

    def full(path: Path) -> None:
        if path.name.startswith(f".{name}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(gym_dream.files, "_sync", full)
        with pytest.raises(OSError, match=rf"{name}.*full.*untouched"):
            tiny.fit(out, resume=True)
    assert (name == NAME) == ((out / NAME).read_bytes() == checkpoint)
    assert (out / "world_model" / "denoiser.safetensors").read_bytes() == weights
    assert not list(out.glob(".*"))
    tiny.fit(out, resume=True)
    assert_same_checkpoint(out, finished)


@pytest.mark.parametrize("case", ["truncated", "foreign", "missing", "another"])
def test_a_checkpoint_that_is_none_is_named(data, finished, tmp_path, case):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    path = out / NAME
    if case == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif case == "foreign":
        shutil.copy(out / "world_model" / "denoiser.safetensors", path)
    elif case == "missing":
        path.unlink()
    else:
        save_checkpoint(out, {"denoiser.network.x": torch.zeros(1)}, {"step": 1, "seconds": 0.0})
    with pytest.raises((ValueError, FileNotFoundError), match=NAME):
        tiny.fit(out, resume=True)


def test_a_run_whose_configuration_was_edited_wrongly_names_the_field(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    values = json.loads((out / "config.json").read_text())
    values["training"]["batch"] = 3
    (out / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.json: training: unknown 'batch'"):
        tiny.fit(out, resume=True)


# Budget, schedule and settings


def test_a_budget_of_minutes_ends_a_run(data, tmp_path):
    began = time.monotonic()
    tiny.fit(tmp_path / "run", data, steps=None, minutes=0.01)
    assert steps_done(tmp_path / "run") >= 1
    assert load_checkpoint(tmp_path / "run")[1]["seconds"] >= 0.6
    assert time.monotonic() - began >= 0.6
    at = steps_done(tmp_path / "run")
    tiny.fit(tmp_path / "run", resume=True, steps=None, minutes=0.01)
    assert steps_done(tmp_path / "run") == at


def test_budgets():
    assert Budget.of(steps=10, minutes=None).used(3, 99.0) == 3
    assert Budget.of(steps=None, minutes=2.0).used(3, 99.0) == 99.0
    assert Budget.of(steps=None, minutes=2.0).used(3, 999.0) == 120.0


def test_the_learning_rate_warms_up_and_cools_down():
    training = TrainingConfig(warmup_steps=10, cooldown=0.25)
    assert learning_rate_factor(0, 0.0, training) == pytest.approx(0.1)
    assert learning_rate_factor(9, 0.1, training) == 1.0
    assert learning_rate_factor(500, 0.75, training) == 1.0
    assert learning_rate_factor(500, 0.875, training) == pytest.approx(0.5)
    assert learning_rate_factor(500, 1.0, training) == 0.0
    assert learning_rate_factor(500, 1.0, TrainingConfig(cooldown=0.0)) == 1.0
    assert learning_rate_factor(0, 0.0, TrainingConfig(warmup_steps=0)) == 1.0


def test_a_run_by_muon_is_resumed_to_the_bit(data, tmp_path):
    # A constant learning rate, for otherwise it depends on how long the run was to be.
    settings = {"training": {"cooldown": 0.0, "muon_learning_rate": 1e-2}}
    tiny.fit(tmp_path / "whole", data, steps=4, **settings)
    tiny.fit(tmp_path / "parts", data, steps=2, **settings)
    tiny.fit(tmp_path / "parts", None, steps=4, resume=True)
    ours, theirs = load_file(tmp_path / "whole" / NAME), load_file(tmp_path / "parts" / NAME)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    buffers = {name.split(".")[0] for name in ours if name.endswith("momentum_buffer")}
    assert buffers == {"denoiser", "reward_termination"}


def test_a_share_of_the_segments_holds_a_life_s_first_step(data, finished):
    """Its frame comes right after padding, since it is among the last that the networks learn to draw."""
    fitting = Fit(*fit_arguments(config_of(finished), data))
    for share in (0.0, 1.0):
        training = replace(fitting.training, first_share=share)
        play = Play.of(EpisodeStore(data).load_all(), fitting.config.world_model, training, emphasis=True)
        places = play.frames.draw(200, np.random.default_rng(0))
        begun = (~places.mask[:, : -training.targets]).any(axis=1)  # padding in the past
        assert begun.mean() == 1.0 if share else begun.mean() < 0.9


def test_a_share_of_the_segments_holds_a_change_of_scene(data, finished):
    """At the fifth step from the end of each game: so late, chance seldom has it among a segment's targets."""
    fitting = Fit(*fit_arguments(config_of(finished), data))
    games = []
    for game in EpisodeStore(data).load_all():
        frames = np.zeros_like(game.frames)
        frames[len(game) - 4 :] = 255
        games.append(replace(game, frames=frames))
    for share in (0.0, 1.0):
        training = replace(fitting.training, scene_share=share)
        play = Play.of(games, fitting.config.world_model, training, emphasis=True)
        drawn = play.frames.sample(200, np.random.default_rng(0))
        last = slice(-training.targets - 1, None)
        changes = (np.diff(drawn.frames[:, last].astype(int), axis=1) == 255).all(axis=(2, 3, 4))
        changed = (changes & drawn.mask[:, last][:, :-1]).any(axis=1)  # from a real frame, not from padding
        assert changed.mean() == 1.0 if share else changed.mean() < 0.2


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"first_share": 1.5}, "first_share: expected a share of the segments, from 0 to 1, got 1.5"),
        ({"muon_learning_rate": -1.0}, "muon_learning_rate: expected at least 0, got -1.0"),
    ],
)
def test_training_that_cannot_be_is_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        TrainingConfig(**setting)
