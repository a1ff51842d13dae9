"""A real environment that is quick to make in another process (nothing here imports torch)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class Clock(gym.Wrapper):
    """Tells in its info how many steps an episode has lasted."""

    def reset(self, **kwargs: Any) -> Any:
        self.time = 0
        return self.env.reset(**kwargs)[0], {"time": 0}

    def step(self, action: Any) -> Any:
        self.time += 1
        return (*self.env.step(action)[:4], {"time": self.time})


def make_cartpole() -> gym.Env:
    return Clock(gym.make("CartPole-v1", max_episode_steps=12))
