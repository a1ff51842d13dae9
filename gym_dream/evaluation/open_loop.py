"""`gym-dream fidelity`: dreams follow real actions from real frames, and are compared with what really happened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from gym_dream.data.episode import Episode
from gym_dream.data.store import EpisodeStore
from gym_dream.evaluation.drift import (
    SSIM_WINDOW,
    Forecast,
    HalfLife,
    Series,
    at_steps,
    curve,
    half_life,
    on_real_frames,
    series,
)
from gym_dream.evaluation.events import judge, judge_dreams
from gym_dream.evaluation.probes import Validation, all_visible, details_of, validate
from gym_dream.evaluation.rollouts import Windows, draw_windows, repeat_last_frame, replay
from gym_dream.evaluation.statistics import Estimate
from gym_dream.world_model import DreamPrecision, WorldModel

STEPS = (1, 5, 15, 50, 100)
REAL, STATIC = "the game itself", "last frame repeated"


@dataclass(frozen=True)
class Curve:
    """One figure of one forecast.

    Attributes:
        unit: what it is measured in.
        pooled: whether at k it tells of the steps since the k before, and not of the frame after k steps.
        of_itself: whether it needs no real frame beside it.
        at: by row ("1", "5", …, "1-K") the mean with its interval over games.
        means: at every single step.
    """

    unit: str
    pooled: bool
    of_itself: bool
    at: dict[str, Estimate]
    means: list[float]


@dataclass(frozen=True)
class ForecastFigures:
    """Everything measured of one forecast."""

    half_life: HalfLife
    figures: dict[str, Curve]


@dataclass(frozen=True)
class Drift:
    """What `measure` found; the arrays are for pictures.

    Attributes:
        settings: what was asked for, JSON-able.
        data: the real games: how many, and their steps.
        steps: the k.
        reach: by k, how many windows last so long, from how many games.
        validation: of each probe, how often it agrees with the console's memory on these games.
        real_frames: of each model, how well rewards and endings are recognised on real frames.
        forecasts: by name: the dreams, then `STATIC`, then `REAL`.
        windows: what really happened.
        dreams: by name, what was dreamt of them.
    """

    settings: dict[str, Any]
    data: dict[str, Any]
    steps: tuple[int, ...]
    reach: dict[int, tuple[int, int]]
    validation: dict[str, Validation]
    real_frames: dict[str, dict[str, dict[str, Estimate]]]
    forecasts: dict[str, ForecastFigures]
    windows: Windows
    dreams: dict[str, Forecast]


def fidelity(
    model: Sequence[str | os.PathLike[str]],
    data: Path,
    out: Path,
    *,
    windows: int = 24,
    steps: Sequence[int] = STEPS,
    denoising_steps: Sequence[int] = (),
    model_kwargs: Mapping[str, int | float] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: DreamPrecision = "auto",
    compile: bool = False,
    progress: bool = True,
) -> Drift:
    """Measure models against held-out games and write the report: see `measure` and `fidelity_report.write_report`.

    Args:
        model: world models to compare: folders, shipped names or "hub:…".
        data: a store of games that no model was trained on.
        out: the folder of the report.
        windows: dreams of each forecast; this and what follows is as in `measure`.
        steps: the numbers of steps k to look at.
        denoising_steps: passes of the denoiser a frame, each a forecast of its own; none: the model's own setting.
        model_kwargs: other settings of the sampler.
        seed: of the choice of windows and of the dreams.
        device: a PyTorch device or "auto".
        precision: of the networks' arithmetic, or "auto".
        compile: compile the networks.
        progress: show progress bars.

    Raises:
        ImportError: scikit-image or matplotlib is not installed.
        FileNotFoundError: no such model, or no episodes.
        ValueError: models and games do not fit together, or a setting that cannot be.
        FloatingPointError: a model says NaN.
    """
    _need_extra()
    from gym_dream.evaluation.fidelity_report import write_report

    models = {name: WorldModel.load(path) for name, path in zip(_names(model), model, strict=True)}
    found = measure(
        models,
        EpisodeStore(data).load_all(),
        windows=windows,
        steps=steps,
        denoising_steps=denoising_steps,
        model_kwargs=model_kwargs,
        seed=seed,
        device=device,
        precision=precision,
        compile=compile,
        progress=progress,
    )
    write_report(found, out)
    return found


def measure(
    models: Mapping[str, WorldModel],
    episodes: Sequence[Episode],
    *,
    windows: int = 24,
    steps: Sequence[int] = STEPS,
    denoising_steps: Sequence[int] = (),
    model_kwargs: Mapping[str, int | float] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: DreamPrecision = "auto",
    compile: bool = False,
    progress: bool = False,
) -> Drift:
    """Let models dream from held-out moments under the real actions, and compare with what really happened.

    Dreams begin where every probed object is in sight. They are drawn turn by turn from all games, and turn by turn so
    that they can go on for each of the ``steps`` at least; an ending interrupts what comes after. All models dream the
    same windows with the same random numbers.

    Args:
        models: by name.
        episodes: real games that no model was trained on.
        windows: dreams a forecast.
        steps: the numbers of steps k to look at.
        denoising_steps: passes of the denoiser a frame, each a forecast of its own; none: the model's own setting.
        model_kwargs: other settings of the sampler, see `gym_dream.models.sampler.SamplerConfig`.
        seed: of the choice of windows and of the dreams.
        device: a PyTorch device or "auto".
        precision: of the dreams' networks.
        compile: compile the networks: worth a minute's wait for many windows.
        progress: show progress bars.

    Raises:
        ValueError: models and games do not fit together, or a setting that cannot be.
        FloatingPointError: a model says NaN.
    """
    ks, kwargs = tuple(sorted(set(steps))), dict(model_kwargs or {})
    if not ks or ks[0] < 1 or windows < 1:
        raise ValueError(f"Expected numbers of steps and windows of at least 1, got {tuple(steps)} and {windows}.")
    if denoising_steps and "num_denoising_steps" in kwargs:
        raise ValueError(
            "Give the numbers of denoising steps either as denoising_steps or in model_kwargs, not in both."
        )
    for name, world_model in models.items():
        _check(name, world_model, episodes)
    first = next(iter(models.values())).config
    ending, details = first.env["ending"], details_of(first.env)
    if other := [name for name, world_model in models.items() if world_model.config.env["ending"] != ending]:
        raise ValueError(
            f"Models with different endings cannot be compared: not every one ends with the {ending}: {other}."
        )
    drawn = draw_windows(
        episodes,
        max(world_model.config.denoiser.context_length for world_model in models.values()),
        ks,
        windows,
        seed,
        ending=ending,
        begins=all_visible(details.objects) if details.objects else None,
    )

    dreams, real_frames = {}, {}
    for name, world_model in models.items():
        judged = [judge(world_model.reward_termination, [e], ending=ending) for e in _bar(episodes, name, progress)]
        real_frames[name] = on_real_frames(judged)
        for passes in [{"num_denoising_steps": n} for n in sorted(set(denoising_steps))] or [{}]:
            settings: dict[str, Any] = kwargs | passes
            dynamics = world_model.dynamics(device, precision, compile, **settings)
            own = drawn.with_context(dynamics.context_length)
            dynamics.denoiser.register_forward_hook(_finite)  # of this dynamics alone: it has copies of the networks
            batch = 8 if dynamics.device.type == "cpu" else 64
            frames = replay(dynamics, own, seed=seed, max_batch=batch, progress=progress)
            rewards, ends = judge_dreams(world_model.reward_termination, own, frames)
            dreams[f"{name}, n = {dynamics.sampler.num_denoising_steps}"] = Forecast(frames, rewards, ends)
    nothing = np.zeros_like(drawn.rewards)
    forecasts = dreams | {
        STATIC: Forecast(repeat_last_frame(drawn), nothing, nothing.astype(np.bool_)),
        REAL: Forecast(drawn.frames, drawn.rewards, drawn.terminated),
    }
    lasting = {k: drawn.episode[drawn.length >= k] for k in ks}
    return Drift(
        settings={
            "models": list(models),
            "windows": windows,
            "steps": list(ks),
            "denoising_steps": list(denoising_steps),
            "model_kwargs": kwargs,
            "seed": seed,
        },
        data={"game": first.env.get("game", ""), "games": len(episodes), "steps": sum(map(len, episodes))},
        steps=ks,
        reach={k: (len(games), len(set(games.tolist()))) for k, games in lasting.items()},
        validation=validate(details, episodes),
        real_frames=real_frames,
        forecasts={name: _figures(series(drawn, forecast, details), drawn, ks) for name, forecast in forecasts.items()},
        windows=drawn,
        dreams=dreams,
    )


def _figures(figures: Mapping[str, Series], windows: Windows, steps: Sequence[int]) -> ForecastFigures:
    return ForecastFigures(
        half_life=half_life(figures["PSNR"], windows.episode),
        figures={
            name: Curve(
                figure.unit, figure.pooled, figure.of_itself, at_steps(figure, windows.episode, steps), curve(figure)
            )
            for name, figure in figures.items()
        },
    )


def _check(name: str, world_model: WorldModel, episodes: Sequence[Episode]) -> None:
    """Raise ValueError unless the model is sound and made for these games."""
    env = world_model.config.env
    height, width = world_model.config.reward_termination.frame_size
    shape = (height, width, world_model.config.denoiser.image_channels)
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"{name}: SSIM needs frames of at least {SSIM_WINDOW} pixels a side, got {shape}.")
    for episode in episodes:
        if episode.frames.shape[1:] != shape:
            raise ValueError(
                f"{name} dreams frames of shape {shape}, but the games have {episode.frames.shape[1:]}: give games "
                "recorded as the model's own data were."
            )
        for key in ("id", "action_meanings", "frame_skip"):
            there = episode.info.env.get(key)
            if env.get(key) != there:
                raise ValueError(
                    f"{name} is a model of another environment than these games: its {key} is {env.get(key)!r}, theirs "
                    f"{there!r}."
                )
    for network in (world_model.denoiser, world_model.reward_termination):
        for tensor, weights in network.state_dict().items():
            if not torch.isfinite(weights).all():
                raise FloatingPointError(
                    f"{name}: the weights {tensor} hold NaN or infinity. Go back to a checkpoint before the training "
                    "diverged."
                )


def _finite(network: nn.Module, inputs: Any, output: torch.Tensor) -> None:
    if not torch.isfinite(output).all():
        raise FloatingPointError(
            "The denoiser's output holds NaN or infinity. Measure with --precision float32, or with sampler settings "
            "nearer to the model's own."
        )


def _names(models: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The shortest ends of the paths that tell the models apart."""
    if not models:
        raise ValueError("Expected at least one model.")
    parts = [[part for part in Path(model).parts if part != "world_model"] or [str(model)] for model in models]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"Expected different models, got one twice: {', '.join(map(str, models))}.")


def _bar(episodes: Sequence[Episode], name: str, progress: bool) -> Iterable[Episode]:
    return tqdm(episodes, f"{name} on real frames", unit="game", disable=not progress)


def _need_extra() -> None:
    if missing := [name for name in ("matplotlib", "skimage") if find_spec(name) is None]:
        raise ImportError(f"Measuring fidelity needs {' and '.join(missing)}: pip install 'gym-dream[eval]'.")
