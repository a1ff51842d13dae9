"""PPO in a single file, in the manner of CleanRL: to read from top to bottom, to copy and to change.

    python examples/cleanrl_ppo.py                       # trains in Dream/Breakout-v0
    python examples/cleanrl_ppo.py --world real          # the same in the game itself

Only Gymnasium and PyTorch stand between the network and the dreams: clipped surrogate objective, generalised advantage
estimation, the last four frames as one observation. It prints a line an update, saves the network's weights, and prints
the return of a life in dream and real game beside that of random play. Figures stand in docs/examples.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn
from torch.distributions import Categorical

from gym_dream import WorldModel, real
from gym_dream.evaluation import score_lines
from gym_dream.files import save_tensors
from gym_dream.frame_stack import StackedPolicy, StackFrames
from gym_dream.policy import Policy, RandomPolicy
from gym_dream.world_model import resolve_device


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
    reset_from: Literal["start", "replay"] = "start"
    """where dreams begin: with a game, or at moments of recorded play that the model brings"""
    num_frames: int = 4
    """frames that the agent sees at a time"""
    rollout: int = 128
    """steps of each environment between updates"""
    epochs: int = 4
    """times that an update goes over its rollout"""
    minibatches: int = 8
    """pieces of a rollout, each of which makes one gradient step"""
    learning_rate: float = 2.5e-4
    """of Adam at first; it falls to zero in a straight line"""
    gamma: float = 0.99
    """discount"""
    gae_lambda: float = 0.95
    """how far advantages look before they trust the value function"""
    clip: float = 0.1
    """how far the policy's probabilities may move, as a share, before the objective no longer rewards it"""
    entropy_weight: float = 0.01
    """of the bonus for acting at random"""
    value_weight: float = 0.5
    """of the value function's loss"""
    max_grad_norm: float = 0.5
    """longer gradients are shortened to this norm"""
    lives: int = 100
    """to judge by, in the real game"""
    dream_lives: int = 24
    """to judge by, in the dream"""
    compile: bool = False
    """compile the world model: takes a minute or so at first, then dreams go faster"""
    device: str = "auto"
    """where dreams and agent run"""
    seed: int = 0
    """of everything random"""
    out: Path = Path("runs/cleanrl")
    """folder for the agent's weights"""


def make_envs(args: Args) -> VectorEnv[np.ndarray, np.ndarray, np.ndarray]:
    settings: dict[str, Any] = {"autoreset_mode": "SameStep", "max_episode_steps": args.horizon}
    if args.world == "real":
        return real.make_vec(args.game, args.num_envs, **settings)
    settings |= {"device": args.device, "compile": args.compile, "reset_from": args.reset_from}
    settings |= {"model": args.model} if args.model else {}
    return gym.make_vec(f"Dream/{args.game}-v0", args.num_envs, **settings)


def layer(module: nn.Linear | nn.Conv2d, gain: float = 2**0.5) -> nn.Module:
    """Orthogonal weights: PPO is known to learn faster from them."""
    nn.init.orthogonal_(module.weight, gain)
    assert module.bias is not None
    nn.init.zeros_(module.bias)
    return module


class Agent(nn.Module):
    """A CNN with two heads, the logits of the actions and the value."""

    def __init__(self, frame_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        height, width, channels = frame_shape
        layers: list[nn.Module] = []
        for out_channels in (32, 32, 64, 64):
            if min(height, width) <= 4:
                break
            layers += [layer(nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)), nn.ReLU()]
            height, width, channels = (height + 1) // 2, (width + 1) // 2, out_channels
        self.body = nn.Sequential(*layers, nn.Flatten(), layer(nn.Linear(height * width * channels, 256)), nn.ReLU())
        self.actor = layer(nn.Linear(256, num_actions), gain=0.01)  # at first every action is about equally likely
        self.critic = layer(nn.Linear(256, 1), gain=1.0)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, C) to logits (N, num_actions) and values (N,)."""
        features = self.body(observations.permute(0, 3, 1, 2).float() / 255)
        return self.actor(features), self.critic(features)[:, 0]

    @torch.no_grad()
    def logits(self, observations: np.ndarray) -> np.ndarray:
        """What `gym_dream.frame_stack.StackedPolicy` asks for."""
        device = next(self.parameters()).device
        return self(torch.from_numpy(observations).to(device))[0].cpu().numpy()


class Rollout(NamedTuple):
    """T steps of N environments; everything (T, N, …)."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    next_values: Tensor  # of what came next; 0 where the episode terminated
    rewards: Tensor
    ended: Tensor  # terminated or truncated: what is next in time belongs to another episode


def advantages(rollout: Rollout, gamma: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimation, (T, N): A_t = delta_t + gamma lambda A_t+1, within an episode.

    delta_t = r_t + gamma V(s_t+1) - V(s_t). An episode that was cut off goes on in truth, so its last step counts the
    value of its final frame; only one that terminated has nothing to come.
    """
    deltas = rollout.rewards + gamma * rollout.next_values - rollout.values
    found, following = torch.empty_like(deltas), torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = deltas[t] + gamma * gae_lambda * ~rollout.ended[t] * following
        found[t] = following
    return found


class Collector:
    """Lets an agent act, and writes down what happened."""

    def __init__(self, envs: VectorEnv[np.ndarray, np.ndarray, np.ndarray], seed: int, device: torch.device) -> None:
        self.envs, self.device = envs, device
        self.observation = self._tensor(envs.reset(seed=seed)[0])

    @torch.no_grad()
    def collect(self, agent: Agent, steps: int) -> Rollout:
        """So many steps of each environment, episodes going on from one call to the next."""
        rows = []
        for _ in range(steps):
            logits, values = agent(self.observation)
            distribution = Categorical(logits=logits)
            actions = distribution.sample()
            before = (self.observation, actions, distribution.log_prob(actions), values)
            frames, rewards, terminated, truncated, info = self.envs.step(actions.cpu().numpy())
            self.observation = self._tensor(frames)
            # Where an episode ended, `frames` are the next one's already: what came next is in `final_obs`.
            cut = truncated & ~terminated
            final_values = torch.zeros_like(values)
            if cut.any():
                final_values[self._tensor(cut)] = agent(self._tensor(info["final_obs"][cut]))[1]
            rows.append((*before, final_values, self._tensor(rewards).float(), self._tensor(terminated | truncated)))
        rollout = Rollout(*map(torch.stack, zip(*rows, strict=True)))
        following = torch.cat([rollout.values[1:], agent(self.observation)[1][None]])
        return rollout._replace(next_values=torch.where(rollout.ended, rollout.next_values, following))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.device)


def update(agent: Agent, optimizer: torch.optim.Optimizer, rollout: Rollout, args: Args) -> dict[str, float]:
    """One PPO update: some epochs of clipped policy gradient over a rollout. Returns the last minibatch's figures."""
    advantage = advantages(rollout, args.gamma, args.gae_lambda)
    returns = (advantage + rollout.values).flatten()
    observations, actions, old_log_probs = (part.flatten(0, 1) for part in rollout[:3])
    advantage = advantage.flatten()
    for _ in range(args.epochs):
        for rows in torch.randperm(len(actions), device=actions.device).tensor_split(args.minibatches):
            logits, values = agent(observations[rows])
            distribution = Categorical(logits=logits)
            ratio = (distribution.log_prob(actions[rows]) - old_log_probs[rows]).exp()
            weight = advantage[rows]
            weight = (weight - weight.mean()) / (weight.std() + 1e-8)
            clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
            policy_loss = -torch.min(ratio * weight, clipped * weight).mean()
            value_loss = 0.5 * (values - returns[rows]).square().mean()
            entropy = distribution.entropy().mean()
            loss = policy_loss + args.value_weight * value_loss - args.entropy_weight * entropy
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()
    return {"value loss": value_loss.item(), "entropy": entropy.item()}


def learn(envs: VectorEnv[np.ndarray, np.ndarray, np.ndarray], args: Args) -> Agent:
    """Train an agent in environments of autoreset mode SAME_STEP."""
    torch.manual_seed(args.seed)
    device = resolve_device(args.device)
    stacked = RecordEpisodeStatistics(StackFrames(envs, args.num_frames))
    space, actions = stacked.single_observation_space, stacked.single_action_space
    assert isinstance(space, Box) and isinstance(actions, Discrete)
    agent = Agent(space.shape, int(actions.n)).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    collector = Collector(stacked, args.seed, device)
    batch = args.rollout * stacked.num_envs
    updates = -(-args.steps // batch)
    began = time.monotonic()
    for number in range(updates):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - number / updates)
        losses = update(agent, optimizer, collector.collect(agent, args.rollout), args)
        steps = (number + 1) * batch
        shown = {"return": np.mean(stacked.return_queue or [np.nan]), **losses}
        print(
            f"{steps:8} steps  {'  '.join(f'{name} {value:.3f}' for name, value in shown.items())}"
            f"  {steps / (time.monotonic() - began):.0f} steps/s",
            flush=True,
        )
    return agent


def main(args: Args) -> None:
    envs = make_envs(args)
    agent = learn(envs, args)
    envs.close()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{args.game.lower()}_{args.world}_seed{args.seed}.safetensors"
    save_tensors(file, {name: weights.cpu().numpy() for name, weights in agent.state_dict().items()})

    model = WorldModel.load(args.model or args.game.lower())
    policy = StackedPolicy("ppo", agent.logits, args.num_frames)
    random = RandomPolicy(len(model.config.env["action_meanings"]))
    players: dict[str, Policy] = {"random": random, "PPO": policy}
    print(f"\nSaved {file}. A life, on average:\n")
    unseen = args.seed + 1_000_000  # games and dreams that it was not trained on
    settings = {"horizon": args.horizon, "seed": unseen, "device": args.device}
    for line in score_lines(players, model, args.dream_lives, args.lives, **settings):
        print(line, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
