import errno
import json
import multiprocessing
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from dot_game import LIFE, DotGame
from safetensors.torch import load_file
from small_loop import CONFIG, SCHEDULE, ctrl_c_at, doomed, member, run, world_model

import gym_dream.files
from gym_dream.agents import AgentPolicy, load_agent
from gym_dream.data import EpisodeStore
from gym_dream.data.game import RecordedGame
from gym_dream.policy import RandomPolicy
from gym_dream.trainers import outer_loop
from gym_dream.trainers.checkpoint import NAME, load_checkpoint
from gym_dream.trainers.imagination import Imagination, ImaginationConfig
from gym_dream.trainers.outer_loop import stored_config, train
from gym_dream.trainers.processes import Processes
from gym_dream.trainers.recorder import Recorder
from gym_dream.trainers.schedules import LOOPS, Schedule
from gym_dream.trainers.world_model_trainer import WorldModelTrainer
from gym_dream.world_model import WorldModel


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that some tests start, so that sums have the same order
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    run(out)
    return out


def same(one: Path, other: Path) -> None:
    """Everything but the clock is the same to the bit."""
    (ours, our_counts), (theirs, their_counts) = load_checkpoint(one), load_checkpoint(other)
    assert our_counts | {"seconds": 0} == their_counts | {"seconds": 0}
    assert ours.keys() == theirs.keys()
    assert not [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]
    assert json.loads((one / "curve.json").read_text()) == json.loads((other / "curve.json").read_text())
    files = ["agent/actor_critic.safetensors", "world_model/denoiser.safetensors", "world_model/replay.safetensors"]
    games = [path.name for path in EpisodeStore(one / "episodes").paths]
    assert games == [path.name for path in EpisodeStore(other / "episodes").paths]
    for name in [*files, *(f"episodes/{game}" for game in games)]:
        left, right = load_file(one / name), load_file(other / name)
        assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left), name
    ours, theirs = (EpisodeStore(run / "episodes").load_all() for run in (one, other))
    assert [game.info for game in ours] == [game.info for game in theirs]


# A run


def test_a_run_makes_a_world_model_an_agent_and_a_report(finished):
    model, agent = WorldModel.load(finished / "world_model"), load_agent(finished / "agent", tiny.ENV)
    assert model.config == world_model(tiny.ENV) and len(model.starts) and model.replay is not None
    assert agent.network.config.lstm_size == 16
    report = (finished / "report.md").read_text()
    assert f"--policies agent:{finished}/agent random" in report and "60 real steps, 4 epochs" in report
    assert list((finished / "logs").iterdir())
    assert not list(finished.glob(".*"))


def test_it_plays_fits_and_dreams_as_much_as_its_schedule_says(finished):
    counters = load_checkpoint(finished)[1]
    assert counters["epoch"] == SCHEDULE.epochs(30) == 4  # one, two of 15 real steps, one without
    assert counters["trainer"] == 6 + 3 * 3 and counters["imagination"] == 4 + 3 * 2
    store = EpisodeStore(finished / "episodes")
    assert store.num_steps == 60
    *whole, last = store.load_all()
    assert all(game.game_over and len(game) == 2 * LIFE for game in whole) and last.info.in_progress
    assert [game.info.seed for game in [*whole, last]] == [3, 4, 5, 6]
    assert all(game.info.policy == "agent+epsilon=0.01" for game in whole)


def test_its_curve_tells_of_dreams_and_of_whole_games_never_begun_alike(finished, tmp_path, monkeypatch):
    seeds = []
    reset = DotGame.reset

    def spy(self: DotGame, *, seed: int | None = None, options: Any = None) -> Any:
        seeds.append(seed)
        return reset(self, seed=seed)

    monkeypatch.setattr(DotGame, "reset", spy)
    curve = run(tmp_path / "run")
    assert curve == json.loads((finished / "curve.json").read_text())
    assert [(point["epoch"], point["games"], "final" in point) for point in curve] == [
        (0, 2, False),
        (2, 2, False),
        (4, 3, True),
    ]
    for point in curve:
        assert point["real/return_low"] <= point["real/return"] <= point["real/return_high"]
        assert point["real/score"] == pytest.approx(10 * point["real/return"])  # raw rewards are ten times as large
    assert curve[-1]["dreamt_steps"] == 10 * 5 * 2
    assert sum(point.get("dream/episodes", 0) for point in curve) > 0
    assert "random/return" in curve[-1]
    played = [seed for seed in seeds if seed is not None]
    assert len(played) == len(set(played)) + 3  # at the end random play gets the agent's games
    with pytest.raises(FileExistsError, match="--resume"):
        run(tmp_path / "run")


def test_dreams_begin_in_the_play_so_far_and_follow_the_weights(tmp_path, monkeypatch):
    frames = []
    update = Imagination.update

    def spy(self: Imagination) -> Any:
        state = self.world.dynamics.denoiser.inner_model.conv_out.bias.clone()  # type: ignore[attr-defined]
        frames.append((self.world.contexts.sampler.spans.length.sum(), state))  # type: ignore[attr-defined]
        return update(self)

    monkeypatch.setattr(Imagination, "update", spy)
    run(tmp_path / "run")
    assert sorted({int(steps) for steps, _ in frames}) == [30, 45, 60]
    weights = [bias for _, bias in frames]
    assert all(torch.equal(bias, weights[0]) for bias in weights[:4])  # within an epoch the world model stands still
    assert not torch.equal(weights[3], weights[4])


def test_dreams_can_begin_with_lives_and_the_model_still_brings_any_moments(tmp_path, monkeypatch):
    begun = []
    sample = outer_loop._Replay.sample

    def spy(self: outer_loop._Replay, count: int, rng: np.random.Generator) -> Any:
        drawn = sample(self, count, rng)
        begun.append(drawn.real)
        return drawn

    monkeypatch.setattr(outer_loop._Replay, "sample", spy)
    run(tmp_path / "run", replace(CONFIG, first_share=1.0))
    assert (np.concatenate(begun).sum(axis=1) == 1).all()  # a first frame, and padding before it
    brought = WorldModel.load(tmp_path / "run" / "world_model").replay
    assert brought is not None and (brought.real.sum(axis=1) > 1).mean() > 0.5
    with pytest.raises(ValueError, match="first_share: expected a share"):
        replace(CONFIG, first_share=1.5)


def test_the_first_epoch_goes_on_until_rewards_were_seen(tmp_path):
    policy = AgentPolicy.of_size(tiny.ENV, CONFIG.agent, 0)
    short = replace(CONFIG, schedule=replace(SCHEDULE, rare_rewards=1, total_steps=40, extra_epochs=0))
    train(tmp_path / "run", short, policy, lambda: DotGame(points=False), device="cpu", progress=False)
    assert load_checkpoint(tmp_path / "run")[1]["first_steps"] == 40


def test_the_papers_schedule():
    paper = Schedule()
    assert paper.epochs(5_000) == 1 + 950 + 50
    assert [paper.real_steps(epoch, 5_000) for epoch in (0, 1, 950, 1000)] == [5_000, 5_100, 100_000, 100_000]
    assert (paper.world_model_done(0), paper.agent_done(0)) == (10_000, 5_000)
    assert paper.world_model_done(1000) == 10_000 + 400_000
    with pytest.raises(ValueError, match="most_first_steps"):
        Schedule(first_steps=10, most_first_steps=5)
    diamond = LOOPS["diamond-100k"]
    assert (diamond.num_dreams, diamond.imagination.rollout, diamond.training.targets) == (32, 15, 2)


# Interruptions


@pytest.mark.parametrize(
    ("owner", "method", "call"),
    [
        (RecordedGame, "step", 10),
        (WorldModelTrainer, "update", 8),
        (Imagination, "update", 5),
        (outer_loop._Run, "_test", 2),
    ],
    ids=["playing", "fitting", "dreaming", "testing"],
)
def test_a_run_stopped_by_ctrl_c_goes_on_as_if_never_stopped(finished, tmp_path, monkeypatch, owner, method, call):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        ctrl_c_at(patch, owner, method, call, lambda: signal.raise_signal(signal.SIGINT))
        curve = run(out)
    assert not curve or "final" not in curve[-1]
    WorldModel.load(out / "world_model")
    run(out, resume=True)
    same(out, finished)
    run(out, resume=True)  # once more, with nothing left to do
    same(out, finished)


def test_so_does_one_whose_agent_learns_by_ppo(tmp_path, monkeypatch):
    learning = ImaginationConfig(rollout=5, clip=0.1, epochs=2, minibatches=2)
    sizes = {"num_frames": 3, "channels": (4,), "hidden_size": 6}
    schedule = replace(CONFIG.schedule, total_steps=45, extra_epochs=0)
    config = replace(CONFIG, agent=sizes, imagination=learning, schedule=schedule)
    run(tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        ctrl_c_at(patch, Imagination, "update", 5, lambda: signal.raise_signal(signal.SIGINT))
        run(tmp_path / "run", config)
    run(tmp_path / "run", config, resume=True)
    same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)], ids=lambda kills: f"{kills} kills")
def test_a_run_killed_anywhere_ends_as_if_never_stopped(finished, tmp_path, kills):
    rng = np.random.default_rng(kills)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_loop", "torch.utils.tensorboard", "torch._dynamo"])
    out, done = tmp_path / "run", 0
    places = [
        ("step", "step", 40),
        ("update", "update", 9),
        ("dream", "update", 6),
        ("file", "", 30),
        ("test", "_test", 3),
    ]
    while done < kills:
        owner, method, most = places[done % 5] if done < 5 else places[rng.integers(5)]
        often = 0.0 if owner == "file" or rng.random() < 0.5 else 1000.0  # a checkpoint at every turn, or none
        call = int(rng.integers(1, most + 1))
        process = context.Process(target=doomed, args=(str(out), owner, method, call, often))
        process.start()
        process.join(120)
        if process.exitcode == 0:  # it came to its end before that call
            same(out, finished)
            for part in ("config.json", NAME):
                (out / part).unlink()
            for game in EpisodeStore(out / "episodes").paths:
                game.unlink()
            continue
        assert process.exitcode == -signal.SIGKILL
        done += 1
    run(out, resume=(out / "config.json").exists())
    same(out, finished)
    assert not list(out.glob(".*"))


# What can go wrong


def test_losses_that_are_no_numbers_stop_the_run_and_keep_the_last_checkpoint(finished, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        ctrl_c_at(patch, Imagination, "update", 2, lambda: signal.raise_signal(signal.SIGINT))
        run(out)
    update = WorldModelTrainer.update

    def broken(self: WorldModelTrainer, progress: float) -> Any:
        return update(self, progress) | {"denoiser/loss": torch.tensor(float("nan"))}

    with monkeypatch.context() as patch:
        patch.setattr(WorldModelTrainer, "update", broken)
        with pytest.raises(FloatingPointError, match=r"epoch 2, .*last good checkpoint"):
            run(out, resume=True)
    assert load_checkpoint(out)[1]["trainer"] == 6  # as it was before the first update of that epoch
    run(out, resume=True)
    same(out, finished)


def test_folders_that_hold_no_run_or_a_damaged_one(finished, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        stored_config(tmp_path / "none")
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        ctrl_c_at(patch, Imagination, "update", 2, lambda: signal.raise_signal(signal.SIGINT))
        run(out)
    whole = (out / NAME).read_bytes()
    (out / NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        run(out, resume=True)
    (out / NAME).write_bytes(whole)
    other = replace(CONFIG, agent={"channels": (8, 8), "lstm_size": 24})
    with pytest.raises(ValueError, match="is not a checkpoint of the run"):
        run(out, other, resume=True)
    values = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(values | {"brand_new": 1}))
    with pytest.raises(ValueError, match=r"config.json: unknown 'brand_new'.*newer"):
        stored_config(out)
    (out / "config.json").write_text(json.dumps(values))
    (out / "config.json").write_text(json.dumps(values | {"format_version": 2}))
    with pytest.raises(ValueError, match="format version 2 is newer than the 1"):
        stored_config(out)
    (out / "config.json").write_text(json.dumps(values))
    assert stored_config(out) == CONFIG or stored_config(out).schedule == CONFIG.schedule
    EpisodeStore(out / "episodes").paths[0].unlink()
    with pytest.raises(ValueError, match="lacks the game that this run played with seed 3"):
        run(out, resume=True)


def test_other_games_in_the_folder_are_neither_learnt_from_nor_removed(finished, tmp_path):
    stranger = tiny.episode(900)
    EpisodeStore(tmp_path / "run" / "episodes").add(stranger)
    with pytest.raises(FileExistsError, match="would mistake for its own"):
        run(tmp_path / "run")
    record = recorder(tmp_path / "two" / "episodes")
    record.record(RandomPolicy(4), 1, steps(25))
    position = record.position()
    record.store.add(stranger)
    with pytest.raises(ValueError, match="holds others in its place"):
        recorder(tmp_path / "two" / "episodes").restore(*position)
    assert len(record.store) == 2


@pytest.mark.parametrize("name", [NAME, "episode_", "actor_critic"])
def test_a_full_disk_loses_nothing(finished, tmp_path, monkeypatch, name):
    out = tmp_path / "run"
    sync, full = gym_dream.files._sync, True

    def sometimes(path: Path) -> None:
        begun = (out / "config.json").exists()
        if full and begun and path.name.lstrip(".").startswith(name):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    monkeypatch.setattr(gym_dream.files, "_sync", sometimes)
    with pytest.raises(OSError, match="full"):
        run(out)
    full = False
    run(out, resume=True)
    same(out, finished)


# The recorder


def recorder(folder: Path, env: Any = None) -> Recorder:
    return Recorder(env or DotGame(), tiny.ENV, EpisodeStore(folder), 5, Processes())


def steps(number: int) -> Any:
    return lambda record: record.num_steps >= number


def test_a_recorder_goes_on_with_the_game_at_hand(tmp_path):
    one, other = recorder(tmp_path / "one"), recorder(tmp_path / "other")
    policy = RandomPolicy(4)
    for record in (one, other):
        record.record(policy, 1, steps(25))
    counters, tensors = other.position()
    other.record(policy, 99, steps(50))  # to be forgotten
    resumed = recorder(tmp_path / "other")
    resumed.restore(counters, tensors)
    for record in (one, resumed):
        record.record(policy, 2, steps(60))
    assert len(one.episodes) == len(resumed.episodes) == 4
    for ours, theirs in zip(one.episodes, resumed.episodes, strict=True):
        np.testing.assert_array_equal(ours.frames, theirs.frames)
        np.testing.assert_array_equal(ours.actions, theirs.actions)
    np.testing.assert_array_equal(one.signs, resumed.signs)
    assert one.signs.sum() == 60


def test_a_policy_catches_up_on_the_life_at_hand(tmp_path):
    seen = []

    class Looking(RandomPolicy):
        def reset(self, state: Any, mask: np.ndarray, contexts: Any = None) -> Any:
            seen.append(None if contexts is None else contexts.frames[0])
            return state

    record = recorder(tmp_path)
    record.record(Looking(4), 0, steps(LIFE + 4))
    assert seen == [None, None]  # the game, its second life
    record.record(Looking(4), 0, steps(LIFE + 5))
    (episode,) = record.episodes
    np.testing.assert_array_equal(seen[-1], episode.frames[LIFE : LIFE + 5])


def test_a_game_that_does_not_repeat_itself_is_noticed(tmp_path):
    record = recorder(tmp_path)
    record.record(RandomPolicy(4), 1, steps(25))

    class Other(DotGame):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed=None if seed is None else seed + 1)

    with pytest.raises(ValueError, match="does not go as it went"):
        recorder(tmp_path, Other()).restore(*record.position())


def test_a_presets_run_is_written_down_whole():
    for name, preset in LOOPS.items():
        config = preset.config(name, tiny.ENV | {"frame_shape": [64, 64, 3]}, seed=1)
        policy = AgentPolicy.of_size(config.world_model.env, config.agent, 0)
        assert policy.config.actor_critic.num_actions == 4
        assert config.imagination.proximal is not policy.network.recurrent
    assert (
        sum(p.numel() for p in AgentPolicy.of_size(tiny.ENV | {"frame_shape": [64, 64, 3]}, {}, 0).network.parameters())
        == 3_229_637
    )


# Several processes


def test_several_processes_train_one_agent_in_dreams_of_their_own(tmp_path):
    out = tmp_path / "run"
    reports = [tmp_path / f"{rank}.json" for rank in range(2)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_loop", "torch.utils.tensorboard", "torch._dynamo"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(target=member, args=(rank, 2, port, str(out), str(reports[rank]))) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
        assert process.exitcode == 0
    one, other = (json.loads(report.read_text()) for report in reports)
    assert one["dreams"] == other["dreams"] == 1
    assert one["agent"] == other["agent"] and one["frames"] != other["frames"]
    curve = json.loads((out / "curve.json").read_text())
    assert curve[-1]["dreamt_steps"] == 6 * 5 * 2 and EpisodeStore(out / "episodes").num_steps == 45
    run(out, replace(CONFIG, schedule=replace(SCHEDULE, total_steps=45, extra_epochs=0)), resume=True)  # by one alone
    assert load_agent(out / "agent").network.config.lstm_size == 16
