"""Updates to be timed: both presets on made-up games, held in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gym_dream.benchmark.engines import Engine
from gym_dream.data import Episode, EpisodeInfo

from .fit import Fit, FitConfig
from .learner import Learner
from .presets import Preset

GAMES, STEPS, LIFE = 4, 200, 50


def made_up_episode(env: dict[str, Any], seed: int) -> Episode:
    """Random frames, actions and signs of rewards; a life ends every 50 steps. What is in them costs no time."""
    rng = np.random.default_rng(seed)
    ends = np.arange(1, STEPS + 1) % LIFE == 0
    return Episode(
        frames=rng.integers(0, 256, (STEPS + 1, *env["frame_shape"]), dtype=np.uint8),
        actions=rng.integers(0, len(env["action_meanings"]), STEPS),
        rewards=rng.integers(-1, 2, STEPS).astype(np.float32),
        terminated=ends,
        truncated=np.zeros(STEPS, np.bool_),
        lives=((STEPS - 1 - np.arange(STEPS)) // LIFE).astype(np.int32),
        ram=None,
        info=EpisodeInfo(env=env, seed=seed, policy="made up"),
    )


def updates(
    preset: Preset, env: dict[str, Any], engine: Engine, device: torch.device
) -> dict[str, Callable[[], object]]:
    """One update of each network of a preset, by the network's name, with the preset's own batch sizes.

    Args:
        preset: networks and schedule.
        env: the environment's specification.
        engine: precision, layout, and whether to compile and record.
        device: where to train.
    """
    episodes = [made_up_episode(env, seed) for seed in range(GAMES)]
    config = FitConfig(preset.world_model(env), preset.training, "made up", GAMES, 1 / GAMES, seed=0)
    fit = Fit(config, episodes, device, getattr(torch, engine.precision), engine.compile, record=not engine.plain)
    if engine.plain:
        for learner in (fit.denoiser, fit.reward_termination):
            _contiguous(learner)

    def update(**due: int) -> Callable[[], object]:
        only = replace(config.training, **due)

        def once() -> None:
            fit.training = only
            fit.update(progress=0.0)

        return once

    return {
        "denoiser": update(denoiser_interval=1, reward_interval=0),
        "reward and termination model": update(denoiser_interval=0, reward_interval=1),
    }


def _contiguous(learner: Learner) -> None:
    """Lay the weights and their average out as PyTorch does by default."""
    for network in (learner.network, learner.average):
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
