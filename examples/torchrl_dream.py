"""PPO of TorchRL, trained in the dream or in the real game.

    pip install torchrl                                  # not a dependency of gym_dream; tried with 0.14.1
    python examples/torchrl_dream.py                     # trains in Dream/Breakout-v0
    python examples/torchrl_dream.py --world real        # the same in the game itself

Collector, advantages and loss are TorchRL's; all dreams are stepped as one batch. It prints a line an update, and the
return of a life in dream and real game beside that of random play. Figures stand in docs/examples.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.modules import ActorValueOperator, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from gym_dream import WorldModel, real
from gym_dream.evaluation import score_lines
from gym_dream.frame_stack import StackedPolicy, StackFrames
from gym_dream.policy import Policy, RandomPolicy

NUM_FRAMES = 4


@dataclass(frozen=True)
class Args:
    """The command line."""

    world: Literal["dream", "real"] = "dream"
    """where to train"""
    game: str = "Breakout"
    """one of the 26 Atari 100k games; its world model must be on this machine"""
    model: str | None = None
    """a world model folder to dream with, instead of the one that ships for the game"""
    steps: int = 100_000
    """environment steps of training, all environments together; whole updates are done, so it may be some more"""
    num_envs: int = 16
    """dreams or games at a time"""
    horizon: int = 1000
    """steps after which a life is cut off, dreamt or real"""
    rollout: int = 128
    """steps of each environment between updates"""
    learning_rate: float = 2.5e-4
    """of Adam"""
    lives: int = 100
    """to judge by, in the real game"""
    dream_lives: int = 24
    """to judge by, in the dream"""
    seed: int = 0
    """of everything random"""


class ForTorchRL(VectorWrapper[Any, Any, Any, Any, Any]):
    """What TorchRL's GymWrapper wants of a vector environment.

    It asks for the attribute `autoreset_mode`, which Gymnasium's wrappers hide, and wants each entry of ``info`` at
    every step: of ours, only the final observations are left.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(envs)
        self.autoreset_mode = envs.metadata["autoreset_mode"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes."""
        return self.env.reset(seed=seed, options=options)[0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take an action in each."""
        frames, rewards, terminated, truncated, info = self.env.step(actions)
        kept: dict[str, Any] = {key: info[key] for key in ("final_obs", "_final_obs") if key in info}
        return frames, rewards, terminated, truncated, kept


class Body(nn.Module):
    """A CNN: stacked frames, uint8 (…, 64, 64, C), to features (…, 256)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, 32, 8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(64 * 4 * 4, 256), nn.ReLU()),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """See the class."""
        images = observations.flatten(end_dim=-4).movedim(-1, 1).float() / 255
        return self.layers(images).unflatten(0, observations.shape[:-3])


def make_envs(args: Args) -> VectorEnv[Any, Any, Any]:
    settings: dict[str, Any] = {"autoreset_mode": "SameStep", "max_episode_steps": args.horizon}
    if args.world == "real":
        return real.make_vec(args.game, args.num_envs, **settings)
    settings |= {"model": args.model} if args.model else {}
    return gym.make_vec(f"Dream/{args.game}-v0", args.num_envs, **settings)


def learn(envs: VectorEnv[Any, Any, Any], args: Args) -> ActorValueOperator:
    """Train an agent in environments of autoreset mode SAME_STEP."""
    torch.manual_seed(args.seed)
    counted = RecordEpisodeStatistics(StackFrames(envs, NUM_FRAMES))
    space, actions = counted.single_observation_space, counted.single_action_space
    assert isinstance(space, Box) and isinstance(actions, Discrete)
    env = GymWrapper(ForTorchRL(counted), categorical_action_encoding=True)
    env.set_seed(args.seed)
    agent = ActorValueOperator(
        TensorDictModule(Body(space.shape[-1]), in_keys=["observation"], out_keys=["features"]),
        ProbabilisticActor(
            TensorDictModule(nn.Linear(256, int(actions.n)), in_keys=["features"], out_keys=["logits"]),
            in_keys=["logits"],
            distribution_class=Categorical,
            return_log_prob=True,
        ),
        ValueOperator(nn.Linear(256, 1), in_keys=["features"]),
    )
    actor, critic = agent.get_policy_operator(), agent.get_value_operator()
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    loss = ClipPPOLoss(actor, critic, clip_epsilon=0.1, entropy_coeff=0.01, critic_coeff=0.5, normalize_advantage=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=args.learning_rate, eps=1e-5)
    batch = args.rollout * args.num_envs
    collector = Collector(env, actor, frames_per_batch=batch, total_frames=args.steps)
    for number, rollout in enumerate(collector, start=1):
        for _ in range(4):
            with torch.no_grad():
                advantage(rollout)  # anew each time, as the critic has changed
            rows = rollout.reshape(-1)
            for chosen in torch.randperm(batch).chunk(8):
                losses = loss(rows[chosen])
                optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
        mean = np.mean(counted.return_queue or [np.nan])
        print(f"{number * batch:8} steps  return {mean:.3f}  entropy {losses['entropy'].item():.3f}", flush=True)
    collector.shutdown()
    return agent


def main(args: Args) -> None:
    agent = learn(make_envs(args), args)

    @torch.no_grad()
    def logits(observations: np.ndarray) -> np.ndarray:
        seen = TensorDict({"observation": torch.from_numpy(observations)}, batch_size=len(observations))
        return agent.get_policy_operator().get_dist(seen).logits.numpy()

    model = WorldModel.load(args.model or args.game.lower())
    policy = StackedPolicy("torchrl", logits, NUM_FRAMES)
    random = RandomPolicy(len(model.config.env["action_meanings"]))
    players: dict[str, Policy] = {"random": random, "TorchRL": policy}
    print("\nA life, on average:\n")
    unseen = args.seed + 1_000_000  # games and dreams that it was not trained on
    for line in score_lines(players, model, args.dream_lives, args.lives, horizon=args.horizon, seed=unseen):
        print(line, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
