"""DIAMOND's outer loop: play a little, fit the world model, train the agent in its dreams, and again.

    for each epoch:
        the agent plays some steps of the real game, which join the replay
        the world model is fitted to the replay
        the agent is trained in dreams that begin anywhere in the replay
        now and then, it is tested in the real game

Each of these goes on until a count is reached, and draws its random numbers from the run's seed and its own counts. So
a checkpoint needs no note of where in the epoch it was made, and what follows is the same wherever a run was
interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from gym_dream.configuration import from_json, to_json
from gym_dream.data import RECENCY, Contexts, ContextSampler, EpisodeStore, start_contexts
from gym_dream.dream import Dream
from gym_dream.evaluation.returns import world_figures
from gym_dream.evaluation.whole_games import play_whole_games
from gym_dream.files import read_json, write_json
from gym_dream.interrupt import polite_interrupt
from gym_dream.models.compiled import compile_networks
from gym_dream.models.diamond import DiamondDynamics
from gym_dream.policy import EpsilonPolicy, Policy, RandomPolicy
from gym_dream.world_model import Precision, WorldModel, WorldModelConfig, resolve_dtype

from .checkpoint import NAME, load_checkpoint, remove_torn, save_checkpoint
from .curve import line, write_report
from .imagination import Imagination
from .loop import LOG_INTERVAL, Losses, no_log, scalar_log
from .meter import Meter
from .processes import Processes, joined
from .recorder import Recorder
from .schedules import FORMAT_VERSION, LoopConfig
from .world_model_trainer import Play, WorldModelTrainer

REPLAY_CONTEXTS = 64  # moments of play that a world model brings along
PHASES = ("play", "fit", "imagine", "test")

Log = Callable[[Mapping[str, float], int], None]


class LearningPolicy(Policy, Protocol):
    """An agent that is trained and plays; `gym_dream.agents.AgentPolicy` is one."""

    @property
    def network(self) -> Any:
        """What learns, see `gym_dream.trainers.imagination.Agent`; acting follows its weights as they are."""

    def save(self, folder: Path) -> None:
        """Write the agent to a folder, in one step."""


def train(
    out: Path,
    config: LoopConfig,
    policy: LearningPolicy,
    make_env: Callable[[], gym.Env[np.ndarray, Any]],
    *,
    resume: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    compile: bool = False,
    checkpoint_minutes: float = 5.0,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Run the outer loop to its end.

    Ctrl-C ends it with a checkpoint after the current update, or the epoch's real steps, or the games of a test; a
    killed run loses at most what came after its last checkpoint. A resumed run goes on as if never stopped: on a CPU,
    to the bit.

    Started by ``torchrun``, processes share out every batch of the world model and the dreams; ``out`` must be a folder
    that all of them see. Dreams of other processes than the first begin anew when a run is resumed.

    Args:
        out: the run folder: ``config.json``, ``checkpoint.safetensors``, ``episodes``, ``world_model``, ``agent``,
            ``curve.json``, ``logs`` (TensorBoard), and at the end ``report.md``.
        config: what the run is; when resuming, the stored one (`stored_config`).
        policy: the agent, untrained.
        make_env: opens the real game, which ends with the game, not with a life. It must do the same again for the same
            seed and actions.
        resume: go on with the run in ``out``.
        device: a PyTorch device or "auto".
        precision: of the networks' arithmetic, or "auto".
        compile: compile the networks.
        checkpoint_minutes: time between checkpoints, the most that a kill can cost; there is one before each test, but
            none within it, nor within an epoch's real steps.
        progress: show a progress bar, and a line for every test.

    Returns:
        The learning curve, one point a test. The last one is that of the final test, unless the run was interrupted.

    Raises:
        FileExistsError: ``out`` already holds a run, and ``resume`` is not set.
        FileNotFoundError: there is no run to resume.
        ValueError: settings, episodes or a checkpoint that do not fit together.
        FloatingPointError: a loss is no longer a number; the last checkpoint is kept.
    """
    with joined(device) as (processes, where):
        if not resume and (out / "config.json").exists():
            raise FileExistsError(f"{out} already holds a run. Go on with it by --resume, or choose another --out.")
        dtype = resolve_dtype(precision, where)
        with make_env() as env:
            run = _Run(out, config, policy, env, processes, where, dtype, compile)
            if resume:
                run.load()
            else:
                run.recorder.begin()
            run.agree()  # by then all have seen what is in the folder, and the first may change it
            if processes.first and resume:
                remove_torn(out, "agent", "world_model")
            elif processes.first:
                # In this order, so that wherever there is a run to resume there is a checkpoint to resume from.
                run.save_checkpoint()
                write_json(out / "config.json", to_json(config))
            # What an interrupted epoch had logged comes again.
            with scalar_log(out / "logs", run.epoch - 1) if processes.first else nullcontext(no_log) as log:
                run.train(make_env, checkpoint_minutes, log, progress and processes.first)
    return run.curve


def stored_config(out: Path) -> LoopConfig:
    """The configuration of the run in a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one, or one of a newer version.
    """
    path = out / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: no run to resume. Start one without --resume.")
    values = read_json(path)
    version = values.get("format_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version {version} is newer than the {FORMAT_VERSION} that this gym_dream reads. Upgrade "
            "gym_dream."
        )
    return from_json(LoopConfig, values, str(path))


def is_final(curve: Sequence[Mapping[str, float]]) -> bool:
    """Whether a learning curve is that of a run that came to its end."""
    return bool(curve) and "final" in curve[-1]


class _Replay:
    """Where dreams begin: anywhere in the play so far, which grows."""

    def __init__(self) -> None:
        self.sampler: ContextSampler | None = None

    def sample(self, count: int, rng: np.random.Generator) -> Contexts:
        assert self.sampler is not None  # there is play before there are dreams
        return self.sampler.sample(count, rng)


class _Run:
    """A run at work: its parts and its counts."""

    def __init__(
        self,
        out: Path,
        config: LoopConfig,
        policy: LearningPolicy,
        env: gym.Env[np.ndarray, Any],
        processes: Processes,
        device: torch.device,
        dtype: torch.dtype,
        compile: bool,
    ) -> None:
        self.out, self.config, self.policy, self.processes = out, config, policy, processes
        policy.network.to(device)
        self.recorder = Recorder(env, config.world_model.env, EpisodeStore(out / "episodes"), config.seed, processes)
        self.trainer = WorldModelTrainer(
            _fresh(config.world_model, config.seed),
            None,
            config.training,
            config.seed,
            device,
            dtype,
            compile,
            processes=processes,
        )
        self.replay = _Replay()
        self.imagination = self._imagination(device, dtype, compile)
        self.epoch = 0
        self.first_steps = 0
        """Real steps of the first epoch; 0 while it is not known."""
        self.curve: list[dict[str, float]] = []
        self.meter = Meter(PHASES)
        self.losses = Losses(out)
        self.log: Log = no_log
        self.interrupted: Callable[[], bool] = lambda: False
        self.checkpoint_seconds, self.saved = math.inf, time.monotonic()

    def _imagination(self, device: torch.device, dtype: torch.dtype, compile: bool) -> Imagination:
        config, processes = self.config, self.processes
        dreamer = self.trainer.averaged()  # these networks are updated in place, so dreams follow them
        for network in (dreamer.denoiser, dreamer.reward_termination):
            network.eval()
        if compile:
            compile_networks(dreamer.denoiser.inner_model, dreamer.reward_termination.encoder, device=device)
        dynamics = DiamondDynamics(
            dreamer.denoiser, dreamer.reward_termination, config.world_model.sampler, device, dtype
        )
        (mine,) = processes.rows(config.num_dreams, 1)
        seed = _seed(config.seed, "dreams", processes.rank)
        dream = Dream(dynamics, mine.stop - mine.start, self.replay, horizon=config.horizon, seed=seed)
        seed = _seed(config.seed, "actions", processes.rank)
        return Imagination(self.policy.network, dream, config.imagination, seed, processes)

    @property
    def _num_actions(self) -> int:
        return self.config.world_model.denoiser.num_actions

    @property
    def epochs(self) -> int:
        """In all; 0 while the first one is played."""
        return self.config.schedule.epochs(self.first_steps) if self.first_steps else 0

    def train(
        self,
        make_env: Callable[[], gym.Env[np.ndarray, Any]],
        checkpoint_minutes: float,
        log: Log,
        progress: bool,
    ) -> None:
        """Go on to the end, or until Ctrl-C."""
        with self.meter.bar(self._share_done(), progress), polite_interrupt() as self.interrupted:
            self.log, self.checkpoint_seconds, self.saved = log, 60 * checkpoint_minutes, time.monotonic()
            while self.epoch == 0 or self.epoch < self.epochs:
                if self._epoch(make_env):
                    break
            else:
                if not is_final(self.curve):
                    self._save()
                    with self.meter.phase("test", self._title):
                        self._test(make_env, self.config.schedule.final_games, final=True)
                self.recorder.store_unfinished()
            self._save()

    def _epoch(self, make_env: Callable[[], gym.Env[np.ndarray, Any]]) -> bool:
        """All of an epoch that is not done yet; returns whether to stop on the way."""
        schedule, epoch = self.config.schedule, self.epoch
        with self.meter.phase("play", self._title):
            self._play()
        self._show()
        if self._pause():
            return True
        with self.meter.phase("fit", self._title):
            total = max(1, schedule.world_model_done(self.epochs - 1))
            while self.trainer.step < schedule.world_model_done(epoch):
                self.losses.note(self.trainer.update(self.trainer.step / total))
                if self._between(self.trainer.step):
                    return True
        with self.meter.phase("imagine", self._title):
            while self.imagination.step < schedule.agent_done(epoch):
                self.losses.note(self.imagination.update())
                if self._between(self.imagination.step):
                    return True
        self._look()
        self._show()
        if schedule.test_due(epoch) and not any(point["epoch"] == epoch for point in self.curve):
            self._save()
            with self.meter.phase("test", self._title):
                self._test(make_env, schedule.test_games)
        self.log(self.losses.values | {f"seconds/{name}": spent for name, spent in self.meter.seconds.items()}, epoch)
        self.epoch += 1
        return self._pause()

    def _play(self) -> None:
        """The epoch's real steps; then the world model and the dreams draw from all there are."""
        schedule, recorder = self.config.schedule, self.recorder
        actor = EpsilonPolicy(self.policy, schedule.epsilon, self._num_actions)

        def enough_at_first(recorder: Recorder) -> bool:
            seen = np.sort(recorder.signs)[:2].sum() >= schedule.rare_rewards
            return recorder.num_steps >= (schedule.first_steps if seen else schedule.most_first_steps)

        def enough(recorder: Recorder) -> bool:
            return recorder.num_steps >= schedule.real_steps(self.epoch, self.first_steps)

        seed = _seed(self.config.seed, "play", self.epoch)
        if self.first_steps:
            recorder.record(actor, seed, enough)
        else:
            recorder.record(actor, seed, enough_at_first)
            self.first_steps = recorder.num_steps
        self._draw_from_replay()

    def _draw_from_replay(self) -> None:
        config, training = self.config, self.config.training
        self.trainer.play = Play.of(
            self.recorder.episodes, config.world_model, training, emphasis=True, recency=RECENCY
        )
        self.replay.sampler = self._moments(config.first_share)

    def _moments(self, first_share: float) -> ContextSampler:
        """Moments of the replay, a share of them beginnings of lives."""
        model, games = self.config.world_model, self.recorder.episodes
        length, ending = model.denoiser.context_length, model.env["ending"]
        return ContextSampler(games, length, ending=ending, recency=RECENCY, first_share=first_share)

    def _test(self, make_env: Callable[[], gym.Env[np.ndarray, Any]], games: int, *, final: bool = False) -> None:
        """Play whole games, each from a seed that no other test had, and add to the learning curve."""
        schedule = self.config.schedule
        point: dict[str, float] = {
            "epoch": self.epoch,
            "real_steps": self.recorder.num_steps,
            "dreamt_steps": self.imagination.step * self.config.imagination.rollout * self.config.num_dreams,
            "games": games,
        }
        point |= {f"dream/{name}": value for name, value in self.imagination.finished_episodes().items()}
        if self.processes.first:
            seed, limit = _seed(self.config.seed, "final" if final else "test", self.epoch), schedule.max_game_steps
            point |= _played(make_env, self.policy, "real", games, limit, seed)
            if final:
                point |= {"final": 1.0} | _played(
                    make_env, RandomPolicy(self._num_actions), "random", games, limit, seed
                )
            self.meter.write(line(point))
        self.curve.append(point)
        self.log(point, self.epoch)

    # Between updates

    def _between(self, step: int) -> bool:
        if step % LOG_INTERVAL == 0:
            self._look()
            self._show()
        return self._pause()

    def _pause(self) -> bool:
        """Save if it is time to; returns whether to stop, as somebody asked for."""
        due = time.monotonic() - self.saved >= self.checkpoint_seconds
        # By the first process's clock, and by a Ctrl-C in any.
        save, stop = self.processes.largest(due if self.processes.first else 0.0, self.interrupted())
        if save and not stop:
            with self.meter.left_out():
                self._save()
            self.saved = time.monotonic()
        return bool(stop)

    def _look(self) -> None:
        updates = f"update {self.trainer.step} of the world model and {self.imagination.step} of the agent"
        self.losses.look(f"in epoch {self.epoch + 1}, {updates}")

    @property
    def _title(self) -> str:
        return f"epoch {self.epoch + 1}/{self.epochs or '?'}"

    def _show(self) -> None:
        self.meter.show(self._share_done(), real=self.recorder.num_steps, **self.losses.shown())

    def _share_done(self) -> float:
        """Of the run. Updates stand for time; an agent's takes longer, but its share hardly changes."""
        schedule, epochs = self.config.schedule, self.epochs
        if not epochs:
            return 0.0
        whole = schedule.world_model_done(epochs - 1) + schedule.agent_done(epochs - 1)
        return min(1.0, (self.trainer.step + self.imagination.step) / max(1, whole))

    # Files

    def agree(self) -> None:
        """Make sure that all processes are about to do the same, with the same weights."""
        self.processes.check_same(f"epoch {self.epoch}, {self.recorder.num_steps} steps of play, {self.config}")
        self.trainer.take_over()
        network: nn.Module = self.policy.network
        self.processes.take_over([*network.parameters(), *network.buffers()])

    def _save(self) -> None:
        self._look()
        if self.processes.first:
            self.save_checkpoint()
            self.policy.save(self.out / "agent")
            self.deliver().save(self.out / "world_model")
            write_json(self.out / "curve.json", self.curve)
            if is_final(self.curve):
                write_report(self.out, self.config, self.curve, self.meter.seconds)

    def deliver(self) -> WorldModel:
        """The world model as it is, with contexts from the replay."""
        starts = start_contexts(self.recorder.episodes, self.config.world_model.denoiser.context_length)
        moments = self._moments(0.0).sample(REPLAY_CONTEXTS, np.random.default_rng(self.config.seed))
        return replace(self.trainer.averaged(), starts=starts, replay=moments)

    def save_checkpoint(self) -> None:
        """Write all that `load` goes on from."""
        recorded, playing = self.recorder.position()
        tensors = {f"trainer.{name}": tensor for name, tensor in self.trainer.tensors().items()}
        tensors |= {f"imagination.{name}": tensor for name, tensor in self.imagination.tensors().items()}
        tensors |= {f"recorder.{name}": tensor for name, tensor in playing.items()}
        counters = {
            "epoch": self.epoch,
            "first_steps": self.first_steps,
            "trainer": self.trainer.step,
            "imagination": self.imagination.step,
            "recorder": recorded,
            "curve": self.curve,
            "seconds": self.meter.seconds,
            "losses": self.losses.values,
            "processes": self.processes.count,
        }
        save_checkpoint(self.out, tensors, counters)

    def load(self) -> None:
        """Go on from the run folder's checkpoint."""
        tensors, counters = load_checkpoint(self.out)
        parts: dict[str, dict[str, Tensor]] = {"trainer": {}, "imagination": {}, "recorder": {}}
        try:
            for name, tensor in tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = tensor
            self.epoch, self.first_steps = int(counters["epoch"]), int(counters["first_steps"])
            self.curve = counters["curve"]
            self.meter.seconds, self.losses.values = counters["seconds"], counters["losses"]
            self.trainer.load_tensors(parts["trainer"], int(counters["trainer"]))
            self.recorder.restore(counters["recorder"], parts["recorder"])
            if self.recorder.num_steps:
                self._draw_from_replay()
            same = self.processes.first and counters["processes"] == self.processes.count
            self.imagination.load_tensors(parts["imagination"], int(counters["imagination"]), world=same)
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"{self.out / NAME} is not a checkpoint of the run in {self.out / 'config.json'}: {error}"
            ) from error


def _fresh(config: WorldModelConfig, seed: int) -> WorldModel:
    """A world model with fresh networks, and nothing to begin from yet."""
    length, (height, width, channels) = config.denoiser.context_length, config.env["frame_shape"]
    none = Contexts(
        np.zeros((0, length, height, width, channels), np.uint8),
        np.zeros((0, length - 1), np.int64),
        np.ones((0, length), np.bool_),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WorldModel.create(config, none)


def _seed(seed: int, purpose: str, number: int) -> int:
    """Of one part of a run, unrelated to all others."""
    words = [seed, *purpose.encode(), number]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint32)[0])


def _played(
    make_env: Callable[[], gym.Env[np.ndarray, Any]], policy: Policy, name: str, games: int, limit: int, seed: int
) -> dict[str, float]:
    """Returns (sums of signs) and scores of whole games, means with their 95% intervals."""
    played = world_figures(play_whole_games(make_env, policy, games, seed, limit), (limit,))
    assert played.points is not None  # a real game has its own
    figures: dict[str, float] = {}
    for kind, found in (("return", played.returns), ("score", played.points)):
        figures |= {f"{name}/{kind}": found.mean, f"{name}/{kind}_low": found.low, f"{name}/{kind}_high": found.high}
    return {key: value for key, value in figures.items() if not math.isnan(value)}  # a single game has no interval
