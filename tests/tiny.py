"""A game of one dot and world models of a few thousand weights, for tests that train, save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gym_dream.data import Episode, EpisodeInfo, start_contexts
from gym_dream.models.denoiser import DenoiserConfig
from gym_dream.models.reward_termination import RewardTerminationConfig
from gym_dream.trainers import fit as fitting
from gym_dream.trainers import run
from gym_dream.trainers.presets import PRESETS, Preset, TrainingConfig
from gym_dream.world_model import WorldModel, WorldModelConfig

SIDE = 16
ENV: dict[str, Any] = {
    "id": "Dot-v0",
    "game": "Dot",
    "frame_shape": [SIDE, SIDE, 3],
    "frame_skip": 1,
    "action_meanings": ["NOOP", "FIRE", "RIGHT", "LEFT"],
    "keys_to_action": {"": 0, " ": 1, "d": 2, "a": 3},
    "ending": "life",
}


def episode(seed: int, steps: int = 24) -> Episode:
    """A dot walks over a dark background of the seed's own shade; two lives, a reward on the right half."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 4, steps)
    place = np.clip(8 + np.cumsum((actions == 2).astype(int) - (actions == 3)), 0, SIDE - 2)
    frames = np.full((steps + 1, SIDE, SIDE, 3), seed % 100, np.uint8)
    for frame, x in zip(frames[1:], place, strict=True):
        frame[6:8, x : x + 2] = 255
    terminated = np.zeros(steps, np.bool_)
    terminated[[steps // 2, steps - 1]] = True
    return Episode(
        frames=frames,
        actions=actions,
        rewards=(place > 9).astype(np.float32) * 3,
        terminated=terminated,
        truncated=np.zeros(steps, np.bool_),
        lives=np.where(np.arange(steps) < steps // 2, 1, 0).astype(np.int32),
        ram=None,
        info=EpisodeInfo(env=ENV, seed=seed, policy="random"),
    )


def config(env: dict[str, Any] = ENV) -> WorldModelConfig:
    """As the small preset, with fewer and narrower levels."""
    num_actions, (height, width, _) = len(env["action_meanings"]), env["frame_shape"]
    return WorldModelConfig(
        env=env,
        denoiser=DenoiserConfig(
            num_actions,
            cond_channels=16,
            depths=(1, 1),
            channels=(8, 8),
            attention=(False, False),
            quantisation="round",
            patch_size=2,
            predict_change=True,
            noisy_change=True,
        ),
        reward_termination=RewardTerminationConfig(
            num_actions,
            (height, width),
            cond_channels=8,
            depths=(1, 1),
            channels=(8, 8),
            attention=(False, False),
            lstm_size=8,
            patch_size=4,
        ),
    )


PRESET = Preset(
    config,
    TrainingConfig(
        batch_size=3,
        reward_batch_size=2,
        reward_steps=6,
        reward_interval=2,
        cooldown=0.5,
        warmup_steps=3,
        first_share=0.2,
    ),
)


def world_model(seed: int = 0) -> WorldModel:
    """Networks with random weights everywhere, zero-initialised layers included, so that all of them take part."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WorldModel.create(config(), start_contexts([episode(i) for i in range(3)], 4))
        for network in (model.denoiser, model.reward_termination):
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def fit(out: Path, data: Path | None = None, **settings: Any) -> Path:
    """As a user would call it, with the preset above, which must be among the presets."""
    return run.fit(data, out, **{"preset": "tiny", "steps": 8, "progress": False, "device": "cpu"} | settings)


def fit_here(out: str, data: str, steps: int) -> None:
    """What a user does in a process of its own: begin a run or go on with it, a checkpoint after every step."""
    torch.set_num_threads(1)
    PRESETS["tiny"] = PRESET
    fitting.HELD_OUT_BATCHES = 1  # to spend the time on what is tested
    resume = (Path(out) / "config.json").exists()
    fit(Path(out), None if resume else Path(data), steps=steps, resume=resume, checkpoint_minutes=0)
