"""Catching a falling ball in 16 pixels: the smallest real game in which the whole loop has to learn to play.

The screen has four lanes and four rows. A ball falls straight down from any lane, a row a step, and a paddle one lane
wide moves by one lane or stays. When the ball comes down it turns green on the paddle and the game pays 1, or red
beside it and the game pays -1; either way it is over. Three moves take the paddle to any lane in time, so the optimum
is a return of 1 a game; who does not look is right once in four.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from gym_dream.models.denoiser import DenoiserConfig
from gym_dream.models.reward_termination import RewardTerminationConfig
from gym_dream.models.sampler import SamplerConfig
from gym_dream.trainers.imagination import ImaginationConfig
from gym_dream.trainers.presets import TrainingConfig
from gym_dream.trainers.schedules import LoopPreset, Schedule
from gym_dream.world_model import WorldModelConfig

SIDE = 16
LANES = 4  # and rows
STEPS = LANES - 1  # of a game
OPTIMUM = 1.0
STAY, RIGHT, LEFT = range(3)
ENV: dict[str, Any] = {
    "id": "Catch-v0",
    "game": "Catch",
    "frame_shape": [SIDE, SIDE, 3],
    "frame_skip": 1,
    "action_meanings": ["NOOP", "RIGHT", "LEFT"],
    "keys_to_action": {"": 0, "d": 1, "a": 2},
    "ending": "game",
}
BALL, PADDLE, CAUGHT, MISSED = (250, 250, 90), (60, 160, 250), (60, 250, 60), (250, 60, 60)


class CatchGame(gym.Env[np.ndarray, np.int64]):
    """One game; the seed fixes where ball and paddle start."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(len(ENV["action_meanings"]))
        self.ball = self.row = self.paddle = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.ball, self.paddle = (int(place) for place in self.np_random.integers(LANES, size=2))
        self.row = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.row < STEPS, "a game that is over was not reset"
        self.paddle = min(max(self.paddle + (0, 1, -1)[int(action)], 0), LANES - 1)
        self.row += 1
        over = self.row == STEPS
        return self._frame(), (1.0 if self.ball == self.paddle else -1.0) if over else 0.0, over, False, {}

    def best_action(self) -> int:
        """What moves the paddle under the ball."""
        return STAY if self.ball == self.paddle else RIGHT if self.ball > self.paddle else LEFT

    def _frame(self) -> np.ndarray:
        lanes = np.zeros((LANES, LANES, 3), np.uint8)
        lanes[-1, self.paddle] = PADDLE
        down = CAUGHT if self.ball == self.paddle else MISSED
        lanes[self.row, self.ball] = down if self.row == STEPS else BALL
        return lanes.repeat(LANES, axis=0).repeat(LANES, axis=1)


def world_model(env: dict[str, Any]) -> WorldModelConfig:
    """Networks that see a lane as one patch; one denoising step."""
    return WorldModelConfig(
        env=env,
        denoiser=DenoiserConfig(
            num_actions=3,
            context_length=2,
            cond_channels=32,
            depths=(1,),
            channels=(32,),
            attention=(False,),
            sigma_offset_noise=0.1,
            quantisation="round",
            patch_size=4,
            predict_change=True,
            noisy_change=True,
        ),
        reward_termination=RewardTerminationConfig(
            num_actions=3,
            frame_size=(SIDE, SIDE),
            cond_channels=16,
            depths=(1,),
            channels=(32,),
            attention=(False,),
            lstm_size=64,
            patch_size=4,
            change_input=True,  # without it the reward's sign is not learnt in so few updates
        ),
        sampler=SamplerConfig(num_denoising_steps=1),
    )


LOOP = LoopPreset(
    world_model,
    TrainingConfig(
        batch_size=16,
        learning_rate=5e-3,
        warmup_steps=20,
        weight_decay=0.0,
        average_decay=0.97,
        reward_max_grad_norm=1.0,
        sigma_loc=1.0,
        sigma_scale=1.0,
        sigma_max=6.0,
        reward_steps=STEPS,
    ),
    Schedule(
        first_steps=600,
        most_first_steps=600,
        rare_rewards=0,
        steps=150,
        total_steps=1050,
        epsilon=0.05,
        first_world_model_updates=200,
        world_model_updates=60,
        first_agent_updates=250,
        agent_updates=120,
        extra_epochs=0,
        test_games=100,
        final_games=300,
        max_game_steps=10,
    ),
    {"channels": (8, 16), "lstm_size": 64},
    # With longer rollouts or a smaller bonus the agent settles on one action for hundreds of updates.
    ImaginationConfig(rollout=3, learning_rate=3e-3, warmup=20, entropy_weight=0.06),
    num_dreams=32,
    horizon=10,
)
