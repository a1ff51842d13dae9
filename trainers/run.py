"""The training loop of a world model and its run folder: `gym-dream fit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gym_dream.configuration import from_json, to_json
from gym_dream.data import Episode, EpisodeStore
from gym_dream.files import digest, read_json, write_json
from gym_dream.interrupt import polite_interrupt
from gym_dream.world_model import Precision, WorldModel, WorldModelConfig, resolve, resolve_dtype

from .checkpoint import remove_torn
from .fit import Fit, FitConfig
from .loop import BAR, LOG_INTERVAL, Budget, Losses, no_log, scalar_log
from .presets import PRESETS, TrainingConfig
from .processes import joined


@dataclass(frozen=True)
class Moment:
    """Where a run stands between two updates; the same in all its processes.

    Attributes:
        used: how much of the budget.
        over: whether no update follows.
        save: whether a checkpoint is due.
    """

    used: float
    over: bool
    save: bool


def fit(
    data: Path | None,
    out: Path,
    *,
    preset: str = "small",
    steps: int | None = None,
    minutes: float | None = None,
    init: str | None = None,
    teacher: str | None = None,
    resume: bool = False,
    seed: int = 0,
    held_out_fraction: float = 0.06,
    device: str = "auto",
    precision: Precision = "auto",
    compile: bool = False,
    checkpoint_minutes: float = 5.0,
    accumulate: int = 1,
    training: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Fit a world model and write it to ``out / "world_model"``.

    Ctrl-C ends the run after the current update, with a checkpoint; a killed run loses at most what came after its last
    one. A resumed run goes on as if never stopped: on a CPU, to the bit (given the same ``steps``; by ``minutes`` the
    learning rate depends on the clock).

    Started by ``torchrun``, its processes share every batch out: they learn what one process would with the same
    settings, but for rounding. ``out`` and ``data`` must be folders that all of them see. The first process writes, and
    a run can be resumed by any number of them.

    Args:
        data: the folder of an `EpisodeStore`; None only when resuming.
        out: the run folder: ``config.json``, ``checkpoint.safetensors``, ``logs`` (TensorBoard), ``world_model``.
        preset: a name of `PRESETS`.
        steps: updates of the denoiser in all, those before a resume included.
        minutes: or the time to train for, likewise.
        init: start from the architecture and weights of this world model (name, folder or hub), not from fresh ones.
        teacher: distil this world model's denoiser to a single step (`gym_dream.models.one_step`); without ``init``,
            start from its architecture and weights.
        resume: go on with the run in ``out``, by its own configuration (``preset``, ``init``, ``seed`` and
            ``held_out_fraction`` are not read).
        seed: of networks, held-out games, batches and noise.
        held_out_fraction: share of the games that training never sees.
        device: a PyTorch device or "auto".
        precision: of the networks' arithmetic, or "auto".
        compile: compile the networks: a minute or two slower to begin, faster from then on.
        checkpoint_minutes: time between checkpoints, the most that an interruption can cost.
        accumulate: pieces that each process works through its share of a batch in, for batches that do not fit on the
            device at once. The gradient is the same, but for rounding.
        training: settings of `TrainingConfig` that differ from the preset's.
        progress: show a progress bar.

    Returns:
        The world model folder.

    Raises:
        FileExistsError: ``out`` already holds a run, and ``resume`` is not set.
        FileNotFoundError: no data, no run to resume, or no model to start from.
        ValueError: settings that cannot be or do not fit together.
        FloatingPointError: a loss is no longer a number; the last checkpoint is kept.
    """
    budget = Budget.of(steps, minutes)
    with joined(device) as (processes, where):
        dtype = resolve_dtype(precision, where)
        if resume:
            config = _stored_config(out, data, teacher, training)
        elif (out / "config.json").exists():
            raise FileExistsError(f"{out} already holds a run. Go on with it by --resume, or choose another --out.")
        else:
            config = _new_config(data, preset, init, training or {}, held_out_fraction, seed, teacher)
        master = _load_teacher(config) if config.teacher else None
        run = Fit(config, _episodes(config), where, dtype, compile, master, accumulate, processes)
        seconds = 0.0
        if resume:
            seconds = run.load(out)
        elif init is not None:
            run.start_from(WorldModel.load(init))
        elif master is not None:
            run.start_from(master)
        run.agree()  # by then all have seen what is in the folder, and the first may change it
        if processes.first and resume:
            remove_torn(out, "world_model")
        elif processes.first:
            # In this order, so that wherever there is a run to resume there is a checkpoint to resume from.
            run.save_checkpoint(out, seconds)
            write_json(out / "config.json", to_json(config))
        with scalar_log(out / "logs", run.step) if processes.first else nullcontext(no_log) as log:
            _train(run, out, budget, seconds, checkpoint_minutes, log, progress and processes.first)
    return out / "world_model"


def _train(
    run: Fit,
    out: Path,
    budget: Budget,
    seconds: float,
    checkpoint_minutes: float,
    log: Callable[[Mapping[str, float], int], None],
    progress: bool,
) -> None:
    began = time.monotonic() - seconds
    saved = time.monotonic()
    losses = Losses(out)
    first = run.processes.first

    def now() -> Moment:
        # By the first process's clock, and by a Ctrl-C in any, so that all take the same updates.
        due = time.monotonic() - saved >= 60 * checkpoint_minutes
        mine = budget.used(run.step, time.monotonic() - began), due
        used, save, stop = run.processes.largest(*(mine if first else (0.0, False)), interrupted())
        return Moment(used, over=bool(stop) or used >= budget.amount, save=bool(save))

    def look() -> None:
        losses.look(f"at step {run.step}")

    def checkpoint() -> None:
        look()
        if first:  # the others wait when they next ask for the moment
            run.save(out, time.monotonic() - began)
            log(run.evaluate(), run.step)

    used = budget.used(run.step, seconds)
    bar = tqdm(total=budget.amount, initial=used, unit=budget.unit, disable=not progress, bar_format=BAR)
    first_step, first_second = run.step, time.monotonic()
    with bar, polite_interrupt() as interrupted:
        moment = now()
        while not moment.over:
            losses.note(run.update(moment.used / budget.amount))
            moment = now()
            if run.step % LOG_INTERVAL == 0 or moment.over:
                look()
                log(losses.values, run.step)
                speed = (run.step - first_step) / (time.monotonic() - first_second)
                bar.set_postfix(step=run.step, **losses.shown(), speed=f"{speed:.2f} steps/s", refresh=False)
            bar.update(moment.used - bar.n)
            if moment.save:
                checkpoint()
                saved = time.monotonic()
        checkpoint()


def _new_config(
    data: Path | None,
    preset: str,
    init: str | None,
    training: Mapping[str, Any],
    held_out_fraction: float,
    seed: int,
    teacher: str | None = None,
) -> FitConfig:
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}.")
    if data is None:
        raise ValueError("Expected the folder of recorded play to fit to (data), got none.")
    store = EpisodeStore(data)
    env = store.env
    if env is None:
        raise FileNotFoundError(f"No episodes in {data}: record some with `gym-dream collect --out {data}`.")
    if missing := sorted({"action_meanings", "frame_shape", "ending"} - env.keys()):
        raise ValueError(f"The environment of the episodes in {data} says nothing of {', '.join(missing)}: {env}.")
    settings = {**to_json(PRESETS[preset].training), **training}
    origin = init or teacher
    world_model = PRESETS[preset].world_model(env) if origin is None else _architecture(origin, env)
    if teacher is not None:
        _check_teacher(teacher, _architecture(teacher, env), world_model)
        # A student starts from N(origin, I); its teacher scales that as its own sampler says.
        sampler = replace(world_model.sampler, num_denoising_steps=1, s_churn=0.0, sigma_start=1.0)
        world_model = replace(world_model, sampler=sampler)
    return FitConfig(
        world_model=world_model,
        training=from_json(TrainingConfig, settings, "training"),
        data=str(data.resolve()),
        games=len(store),
        held_out_fraction=held_out_fraction,
        seed=seed,
        teacher=_lasting(teacher or ""),
        teacher_digest=_digest(teacher) if teacher else "",
    )


def _digest(model: str) -> str:
    folder = resolve(model)
    return digest([folder / "config.json", folder / "denoiser.safetensors"])


def _check_teacher(teacher: str, theirs: WorldModelConfig, student: WorldModelConfig) -> None:
    if theirs.denoiser.context_length != student.denoiser.context_length:
        raise ValueError(
            f"The teacher {teacher} sees {theirs.denoiser.context_length} past frames, the student "
            f"{student.denoiser.context_length}; expected the same."
        )
    if theirs.sampler.s_churn:
        raise ValueError(
            f"The teacher {teacher} samples with fresh noise at every step (s_churn={theirs.sampler.s_churn}): what it "
            "draws does not follow from where it starts, and cannot be learnt in one step. Set s_churn to 0 in its "
            "config.json."
        )


def _load_teacher(config: FitConfig) -> WorldModel:
    if _digest(config.teacher) != config.teacher_digest:
        raise ValueError(
            f"{config.teacher} is no longer the teacher that the run was begun with. Put that one back, or start a new "
            "run with the new teacher and with --init the world model of this run."
        )
    return WorldModel.load(config.teacher)


def _lasting(model: str) -> str:
    """A model's name such that it means the same when the run is resumed from another working directory."""
    return str(Path(model).resolve()) if (Path(model) / "config.json").is_file() else model


def _architecture(init: str, env: dict[str, Any]) -> WorldModelConfig:
    """That of another world model, for the environment at hand."""
    config = WorldModel.load(init).config
    theirs = [config.denoiser.num_actions, *config.reward_termination.frame_size, config.denoiser.image_channels]
    ours = [len(env["action_meanings"]), *env["frame_shape"]]
    if theirs != ours:
        raise ValueError(
            f"{init} is made for {theirs[0]} actions and frames of {theirs[1:]}, the data have {ours[0]} actions and "
            f"frames of {ours[1:]}. Leave init out to start from fresh weights."
        )
    return replace(config, env=env)


def _episodes(config: FitConfig) -> list[Episode]:
    episodes = EpisodeStore(config.data).load_all(mapped=True)[: config.games]
    if len(episodes) < config.games:
        raise ValueError(
            f"The run uses the first {config.games} episodes in {config.data}, but only {len(episodes)} are left there."
        )
    return episodes


def _stored_config(
    out: Path, data: Path | None, teacher: str | None = None, training: Mapping[str, Any] | None = None
) -> FitConfig:
    config = from_json(FitConfig, read_json(out / "config.json"), str(out / "config.json"))
    settings, given = to_json(config.training), training or {}
    if from_json(TrainingConfig, {**settings, **given}, "training") != config.training:
        theirs = ", ".join(f"{name} {settings[name]}" for name in given)
        raise ValueError(f"{out} was begun with {theirs}: leave --training out to go on with it, or begin a new run.")
    if teacher is not None and _lasting(teacher) != config.teacher:
        raise ValueError(
            f"{out} learns from {config.teacher or 'no teacher'}, not from {teacher}. Leave --teacher out to go "
            "on with it."
        )
    if data is not None and str(data.resolve()) != config.data:
        raise ValueError(
            f"{out} was fitted to {config.data}, not to {data}. Leave --data out to go on with it, or start a new run "
            f"on other data with --init {out / 'world_model'}."
        )
    return config
