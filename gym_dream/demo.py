"""The main job in one look: a dream and the real game side by side, played by one policy."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from gym_dream import real
from gym_dream.data import Contexts
from gym_dream.dynamics import DreamModel
from gym_dream.env import DreamEnv
from gym_dream.policy import Policy
from gym_dream.video import GREEN, RED, WHITE, Panel, check_format, compose, write_video

NOOP = 0  # of every game


@dataclass(frozen=True)
class Played:
    """What became of one world.

    Attributes:
        steps_per_second: of the environment alone, resets included; deciding on actions and drawing are not.
        total_return: sum of the rewards' signs over all steps.
        lives: how many ended.
    """

    steps_per_second: float
    total_return: float
    lives: int


def demo(
    world_model: DreamModel,
    policy: Policy,
    out: str | os.PathLike[str],
    *,
    steps: int = 300,
    seed: int = 0,
    progress: bool = True,
    **dream_settings: Any,
) -> dict[str, Played]:
    """Play a dream and the real game side by side and write the two as a video.

    Both begin from the same frames, the opening of a real game, and the policy draws the same random numbers in both;
    from there each goes its own way. An episode is one life: after it the real game goes on with the next life, the
    dream begins anew from one of the model's starts.

    Args:
        world_model: what dreams.
        policy: plays in both; it sees frames only.
        out: the video, ``.gif`` or ``.mp4``.
        steps: in each world.
        seed: of the dream, the game and the policy.
        progress: show a progress bar.
        **dream_settings: of `gym_dream.env.DreamEnv`, such as ``device``.

    Returns:
        How it went, under ``"dream"`` and ``"real"``.

    Raises:
        ValueError: fewer than one step, a file name that is no video's, or a model of no Atari game.
        OSError: the video cannot be written.
    """
    check_format(out)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    spec = world_model.config.env
    if "game" not in spec:
        raise ValueError("This world model's config names no game under 'env', so there is nothing to show beside it.")
    game = real.make(spec["game"], repeat_action_probability=spec.get("repeat_action_probability", 0.0))
    with game, DreamEnv(world_model, **dream_settings) as dream:
        context = opening(game, dream.dream.dynamics.context_length, seed)
        dream.reset(seed=seed, options={"context": {"frames": context.frames[0], "actions": context.actions[0]}})
        actions = dream.get_action_meanings()
        worlds = {
            "dream": _World("Dream", dream, policy, seed, context, actions),
            "real": _World("Real game", game, policy, seed, context, actions),
        }
        pictures = []
        for step in tqdm(range(1, steps + 1), "playing", unit="step", disable=not progress):
            pictures.append(compose([world.step() for world in worlds.values()], f"step {step}"))
    write_video(out, np.stack(pictures))
    return {name: world.played() for name, world in worlds.items()}


def opening(env: gym.Env[np.ndarray, Any], length: int, seed: int) -> Contexts:
    """Begin a new game and wait until there are ``length`` frames: a batch of one context."""
    observation, _ = env.reset(seed=seed)
    frames = [observation] + [env.step(NOOP)[0] for _ in range(length - 1)]
    return Contexts(
        np.stack(frames)[None], np.full((1, length - 1), NOOP, np.int64), np.ones((1, length), dtype=np.bool_)
    )


class _World:
    """One environment while it is played: `step` advances it and returns what to draw."""

    def __init__(
        self,
        title: str,
        env: gym.Env[np.ndarray, Any],
        policy: Policy,
        seed: int,
        context: Contexts,
        actions: list[str],
    ) -> None:
        self._title, self._env, self._policy, self._actions = title, env, policy, actions
        self._observation = context.frames[0, -1]
        self._memory = policy.reset(policy.begin(1, seed), np.array([True]), context)
        self._steps, self._seconds, self._return, self._lives = 0, 0.0, 0.0, 0

    def step(self) -> Panel:
        actions, self._memory = self._policy.act(self._memory, self._observation[None], {})
        began = time.perf_counter()
        frame, pay, terminated, truncated, info = self._env.step(actions[0])
        reward, self._observation = float(pay), frame
        ended = terminated or truncated
        if ended:
            self._observation, info = self._env.reset()
        self._seconds += time.perf_counter() - began
        self._steps += 1
        self._return += reward
        lines = (
            (self._actions[actions[0]], f"reward {reward:+g}" if reward else "reward 0"),
            (f"life {self._lives + 1}" + " ended" * ended, f"return {self._return:g}"),
        )
        colour = GREEN if reward > 0 else RED if reward < 0 else WHITE if ended else None
        if ended:
            self._lives += 1
            self._memory = self._policy.reset(self._memory, np.array([True]), _context(info))
        return Panel(self._title, frame, lines, colour)

    def played(self) -> Played:
        return Played(self._steps / self._seconds, self._return, self._lives)


def _context(info: Mapping[str, Any]) -> Contexts | None:
    """What a dream began from; a real game does not say."""
    context = info.get("context")
    return context and Contexts(*(context[name][None] for name in ("frames", "actions", "real")))
