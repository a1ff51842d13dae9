"""The outer loop's settings, and those that come with a name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from gym_dream.models.denoiser import DenoiserConfig
from gym_dream.models.reward_termination import RewardTerminationConfig
from gym_dream.models.sampler import SamplerConfig
from gym_dream.world_model import WorldModelConfig

from .imagination import ImaginationConfig
from .presets import PRESETS, TrainingConfig

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Schedule:
    """How much is played, fitted and dreamt. The defaults are DIAMOND's for Atari 100k."""

    first_steps: int = 5_000
    """Real steps of the first epoch, by an agent that has learnt nothing."""
    most_first_steps: int = 10_000
    """Up to so many, until the two rarer signs of rewards have been seen `rare_rewards` times together."""
    rare_rewards: int = 10
    steps: int = 100
    """Real steps of every later epoch, by the agent as it is then, until there are `total_steps`."""
    total_steps: int = 100_000
    epsilon: float = 0.01
    """Share of these steps that are random."""
    first_world_model_updates: int = 10_000
    """Of each network of the world model, in the first epoch."""
    world_model_updates: int = 400
    """In every later one."""
    first_agent_updates: int = 5_000
    agent_updates: int = 400
    extra_epochs: int = 50
    """Epochs without real steps, at the end."""
    test_every: int = 10
    """Epochs from one test in the real game to the next; there is one after the first epoch and one at the end, too."""
    test_games: int = 4
    final_games: int = 100
    """Of the test at the end."""
    max_game_steps: int = 27_000
    """Steps after which a test game is cut off: half an hour of play."""

    def __post_init__(self) -> None:
        least = {"first_steps": 1, "steps": 1, "test_every": 1, "test_games": 1, "final_games": 1, "max_game_steps": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}: expected at least {low}, got {getattr(self, name)}.")
        if not self.first_steps <= self.most_first_steps <= self.total_steps:
            raise ValueError(
                "Expected first_steps <= most_first_steps <= total_steps, got "
                f"{self.first_steps}, {self.most_first_steps} and {self.total_steps}."
            )
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon: expected a probability, got {self.epsilon}.")
        updates = self.first_world_model_updates, self.world_model_updates, self.first_agent_updates, self.agent_updates
        if min(*updates, self.rare_rewards, self.extra_epochs) < 0:
            raise ValueError("Expected no negative numbers of updates, rare rewards or epochs.")

    def epochs(self, first: int) -> int:
        """Epochs in all, when the first one took so many real steps."""
        return 1 + math.ceil((self.total_steps - first) / self.steps) + self.extra_epochs

    def real_steps(self, epoch: int, first: int) -> int:
        """Real steps when an epoch (from 0) has been collected."""
        return min(self.total_steps, first + epoch * self.steps)

    def world_model_done(self, epoch: int) -> int:
        """Updates of the world model at the end of an epoch."""
        return self.first_world_model_updates + epoch * self.world_model_updates

    def agent_done(self, epoch: int) -> int:
        """Updates of the agent at the end of an epoch."""
        return self.first_agent_updates + epoch * self.agent_updates

    def test_due(self, epoch: int) -> bool:
        """Whether the agent is tested in the real game at the end of an epoch."""
        return epoch % self.test_every == 0


@dataclass(frozen=True)
class LoopConfig:
    """What a run of the outer loop is; its ``config.json`` holds just this."""

    preset: str
    """The name that the settings come from, for whoever reads this."""
    world_model: WorldModelConfig
    training: TrainingConfig
    agent: dict[str, Any]
    """The agent's sizes, in the words of who makes it."""
    imagination: ImaginationConfig
    schedule: Schedule
    num_dreams: int
    """Side by side, in which the agent acts."""
    horizon: int
    """Steps after which a dream is cut off."""
    seed: int
    first_share: float = 0.0
    """The share of dreams that begin with a life's first frame; others begin anywhere in the replay, as DIAMOND's."""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.num_dreams < 1 or self.horizon < 1:
            raise ValueError(f"Expected num_dreams >= 1 and horizon >= 1, got {self.num_dreams} and {self.horizon}.")
        if not 0 <= self.first_share <= 1:
            raise ValueError(f"first_share: expected a share of the dreams, from 0 to 1, got {self.first_share}.")


@dataclass(frozen=True)
class LoopPreset:
    """A loop for any game."""

    world_model: Callable[[dict[str, Any]], WorldModelConfig]
    training: TrainingConfig
    schedule: Schedule
    agent: dict[str, Any] = field(default_factory=dict)
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    num_dreams: int = 32
    horizon: int = 50
    first_share: float = 0.0

    def config(self, name: str, env: dict[str, Any], seed: int) -> LoopConfig:
        """For the environment that a specification describes (`gym_dream.real.env_spec`)."""
        return LoopConfig(
            name,
            self.world_model(env),
            self.training,
            self.agent,
            self.imagination,
            self.schedule,
            self.num_dreams,
            self.horizon,
            seed,
            self.first_share,
        )


def _smoke(env: dict[str, Any]) -> WorldModelConfig:
    num_actions, (height, width, channels) = len(env["action_meanings"]), env["frame_shape"]
    return WorldModelConfig(
        env=env,
        denoiser=DenoiserConfig(
            num_actions,
            image_channels=channels,
            cond_channels=32,
            depths=(1, 1),
            channels=(16, 16),
            attention=(False, False),
            quantisation="round",
            patch_size=4,
            predict_change=True,
            noisy_change=True,
            change_input=True,
        ),
        reward_termination=RewardTerminationConfig(
            num_actions,
            (height, width),
            image_channels=channels,
            cond_channels=16,
            depths=(1, 1),
            channels=(16, 16),
            attention=(False, False),
            lstm_size=32,
            patch_size=4,
            change_input=True,
        ),
        sampler=SamplerConfig(num_denoising_steps=1),
    )


# Where dreams are dear, learn from each several times.
PPO = ImaginationConfig(
    rollout=16,
    gamma=0.99,
    entropy_weight=0.01,
    value_weight=0.5,
    epochs=4,
    minibatches=2,
    clip=0.1,
    learning_rate=2.5e-4,
    warmup=0,
    max_grad_norm=0.5,
)

LOOPS = {
    # The paper's networks and schedule: 4.4M + 5.9M + 3.2M parameters, 100,000 real steps; days on one GPU.
    "diamond-100k": LoopPreset(
        PRESETS["diamond-atari"].world_model,
        # The paper's agents dream in the weights as they are.
        replace(PRESETS["diamond-atari"].training, average_decay=0.0),
        Schedule(),
    ),
    # 2.3M + 1.2M + 0.6M parameters, 100,000 real steps, PPO in 16 dreams of 2 denoising steps; hours on 2 CPU cores.
    "laptop": LoopPreset(
        PRESETS["small"].world_model,
        # Agents dream in it all along, not at the run's end, so a lower rate and a longer average for a cool-down.
        replace(
            PRESETS["small"].training,
            cooldown=0.0,
            learning_rate=1e-3,
            muon_learning_rate=1e-3,
            average_decay=0.998,
            warmup_steps=50,
        ),
        Schedule(
            # Real steps cost next to nothing here, and bounces from the paddle are rare in random play.
            first_steps=20_000,
            most_first_steps=30_000,
            steps=5_000,
            total_steps=100_000,
            first_world_model_updates=1_500,
            world_model_updates=300,
            first_agent_updates=120,
            agent_updates=120,
            extra_epochs=0,
            test_every=2,
            test_games=8,
            final_games=50,
            max_game_steps=3_000,
        ),
        agent={"num_frames": 4},  # which only an agent without recurrence has
        imagination=PPO,
        num_dreams=16,
        # From anywhere in play chance is paid as well as skill; from a life's start an agent is paid for what it does.
        horizon=200,
        first_share=0.5,
    ),
    # Tiny networks that learn next to nothing, 600 real steps: does everything run? Minutes on two CPU cores.
    "smoke": LoopPreset(
        _smoke,
        replace(PRESETS["small"].training, batch_size=4, targets=2, reward_batch_size=4, reward_interval=1),
        Schedule(
            first_steps=400,
            most_first_steps=400,
            steps=100,
            total_steps=600,
            first_world_model_updates=60,
            world_model_updates=20,
            first_agent_updates=20,
            agent_updates=10,
            extra_epochs=1,
            test_every=2,
            test_games=1,
            final_games=2,
            max_game_steps=200,
        ),
        agent={"channels": (8, 8, 8, 8), "lstm_size": 32},
        num_dreams=4,
    ),
}
