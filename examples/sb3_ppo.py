"""PPO, trained in a dream or in the real game and then judged in both.

    python examples/sb3_ppo.py                       # trains in Dream/Breakout-v0
    python examples/sb3_ppo.py --world real          # the same in the game itself
    python examples/sb3_ppo.py --agent recurrent     # an LSTM instead of stacked frames; needs gym-dream[contrib]

It saves the agent, which `gym-dream demo --policy sb3:FILE.zip` then plays, and prints the return of a life in dream
and real game beside that of random play. What it reaches, and how fast, stands in docs/examples.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecMonitor

import gym_dream
from gym_dream.games import find_game
from gym_dream.sb3 import SB3VecEnv

World = Literal["dream", "real"]


@dataclass(frozen=True)
class Args:
    """The command line."""

    world: World = "dream"
    """where to train"""
    agent: Literal["ppo", "recurrent"] = "ppo"
    """a CNN that sees the last 4 frames, or a CNN with an LSTM that sees one at a time"""
    game: str = "Breakout"
    """one of the 26 Atari 100k games; its world model must be on this machine"""
    model: str | None = None
    """a world model folder to dream with, instead of the one that ships for the game"""
    steps: int = 100_000
    """environment steps of training, all environments together"""
    num_envs: int = 16
    """dreams or games at a time"""
    horizon: int = 1000
    """steps after which a life is cut off, dreamt or real"""
    rollout: int = 128
    """steps of each environment between updates"""
    learning_rate: float = 2.5e-4
    """of Adam"""
    lives: int = 64
    """to judge by, in each world"""
    compile: bool = False
    """compile the world model: takes a minute or so at first, then dreams go faster"""
    seed: int = 0
    """of everything random"""
    out: Path = Path("runs/sb3")
    """folder for the trained agent"""


def make_envs(world: World, args: Args, seed: int) -> VecEnv:
    settings: dict[str, Any] = {"autoreset_mode": "SameStep", "max_episode_steps": args.horizon}
    if world == "real":
        envs: gym.vector.VectorEnv = gym_dream.real.make_vec(args.game, args.num_envs, **settings)
    else:
        settings |= {"compile": args.compile} | ({"model": args.model} if args.model else {})
        envs = gym.make_vec(f"Dream/{args.game}-v0", args.num_envs, **settings)
    monitored = VecMonitor(SB3VecEnv(envs))
    monitored.seed(seed)
    # A single frame does not show which way a ball flies: stack some, or remember.
    return VecFrameStack(monitored, 4) if args.agent == "ppo" else monitored


def make_agent(args: Args, envs: VecEnv) -> Any:
    settings: dict[str, Any] = {
        "learning_rate": args.learning_rate,
        "n_steps": args.rollout,
        "batch_size": args.num_envs * args.rollout // 8,
        "n_epochs": 4,
        "clip_range": 0.1,
        "ent_coef": 0.01,
        "seed": args.seed,
        "verbose": 1,
    }
    if args.agent == "recurrent":
        from sb3_contrib import RecurrentPPO

        return RecurrentPPO("CnnLstmPolicy", envs, **settings)
    return PPO("CnnPolicy", envs, **settings)


class RandomAgent:
    """Every action equally likely."""

    def __init__(self, num_actions: int, seed: int) -> None:
        self.num_actions = num_actions
        self.rng = np.random.default_rng(seed)

    def predict(self, observations: np.ndarray, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        """What `evaluate_policy` asks for."""
        return self.rng.integers(self.num_actions, size=len(observations)), state


def judge(agent: Any, world: World, args: Args) -> str:
    """Play some lives; the mean return with its 95% bootstrap interval, and the game's own score, as a line of text."""
    points = []  # a dream does not know any
    played = evaluate_policy(
        agent,
        make_envs(world, args, seed=args.seed + 1_000_000),
        args.lives,
        deterministic=False,
        return_episode_rewards=True,
        callback=lambda step, _: points.append(step["info"].get("raw_reward", np.nan)),
    )
    returns, lengths = map(np.array, played)
    means = np.random.default_rng(args.seed).choice(returns, (10_000, len(returns))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return (
        f"{world:6}{type(agent).__name__:14}{np.mean(returns):7.2f} [{low:6.2f}, {high:6.2f}]"
        f"{np.mean(lengths):9.1f}{np.sum(points) / len(returns):9.2f}"
    )


def main(args: Args) -> None:
    envs = make_envs(args.world, args, seed=args.seed)
    agent = make_agent(args, envs)
    agent.learn(args.steps)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{args.game.lower()}_{args.agent}_{args.world}_seed{args.seed}.zip"
    agent.save(file)
    print(f"\nSaved {file}. A life of the game, on average over {args.lives}:\n")
    print("world agent          return [95% interval]    steps   points")
    worlds: tuple[World, World] = ("dream", "real")
    for world in worlds:
        for player in (RandomAgent(find_game(args.game).actions, args.seed), agent):
            print(judge(player, world, args), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
