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
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecMonitor

from gym_dream import WorldModel, real
from gym_dream.evaluation import score_lines
from gym_dream.policy import Policy, RandomPolicy, load_policy
from gym_dream.sb3 import SB3VecEnv


@dataclass(frozen=True)
class Args:
    """The command line."""

    world: Literal["dream", "real"] = "dream"
    """where to train"""
    agent: Literal["ppo", "recurrent"] = "ppo"
    """a CNN that sees the last 4 frames, or a CNN with an LSTM that sees one at a time"""
    game: str = "Breakout"
    """one of the 26 Atari 100k games; its world model must be on this machine"""
    model: str | None = None
    """a world model folder to dream with, instead of the one that ships for the game"""
    steps: int = 100_000
    """environment steps of training, all environments together"""
    denoising_steps: int | None = None
    """passes of the denoiser a frame, in training and in judging, if not the model's own setting; one takes about half
    the time of two"""
    num_envs: int = 32
    """dreams or games at a time"""
    horizon: int = 200
    """steps after which a life is cut off, dreamt or real"""
    rollout: int = 32
    """steps of each environment between updates"""
    learning_rate: float = 2.5e-4
    """of Adam"""
    lives: int = 100
    """to judge by, in the real game"""
    dream_lives: int = 24
    """to judge by, in the dream"""
    compile: bool = False
    """compile the world model: takes a minute or so at first, then dreams go faster"""
    seed: int = 0
    """of everything random"""
    out: Path = Path("runs/sb3")
    """folder for the trained agent"""
    init: Path | None = None
    """go on from this agent, saved by this program with the same --agent (unpickled: trust it); give another --seed,
    too, or the same dreams come again"""


def make_envs(args: Args) -> VecEnv:
    settings: dict[str, Any] = {"autoreset_mode": "SameStep", "max_episode_steps": args.horizon}
    if args.world == "real":
        envs: gym.vector.VectorEnv = real.make_vec(args.game, args.num_envs, **settings)
    else:
        settings |= {"compile": args.compile, "model_kwargs": model_kwargs(args)}
        settings |= {"model": args.model} if args.model else {}
        envs = gym.make_vec(f"Dream/{args.game}-v0", args.num_envs, **settings)
    monitored = VecMonitor(SB3VecEnv(envs))
    monitored.seed(args.seed)
    # A single frame does not show which way a ball flies: stack some, or remember.
    return VecFrameStack(monitored, 4) if args.agent == "ppo" else monitored


def model_kwargs(args: Args) -> dict[str, Any]:
    return {} if args.denoising_steps is None else {"num_denoising_steps": args.denoising_steps}


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
    algorithm: Any = PPO
    network = "CnnPolicy"
    if args.agent == "recurrent":
        from sb3_contrib import RecurrentPPO

        algorithm, network = RecurrentPPO, "CnnLstmPolicy"
    return algorithm.load(args.init, envs, **settings) if args.init else algorithm(network, envs, **settings)


def main(args: Args) -> None:
    file = args.out / f"{args.game.lower()}_{args.agent}_{args.world}_seed{args.seed}.zip"
    if args.init is not None and args.init.with_suffix(".zip").resolve() == file.resolve():
        raise SystemExit(f"{file} would be overwritten by what goes on from it: give another --seed or --out.")
    envs = make_envs(args)
    agent = make_agent(args, envs)
    agent.learn(args.steps, reset_num_timesteps=args.init is None)
    envs.close()
    args.out.mkdir(parents=True, exist_ok=True)
    agent.save(file)

    model = WorldModel.load(args.model or args.game.lower())
    policy = load_policy(f"sb3:{file}", model.config.env)
    random = RandomPolicy(len(model.config.env["action_meanings"]))
    players: dict[str, Policy] = {"random": random, type(agent).__name__: policy}
    print(f"\nSaved {file}. A life, on average:\n")
    unseen = args.seed + 1_000_000  # games and dreams that it was not trained on
    judged = {"horizon": args.horizon, "seed": unseen} | model_kwargs(args)
    for line in score_lines(players, model, args.dream_lives, args.lives, **judged):
        print(line, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
