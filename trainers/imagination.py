"""Training an agent by policy gradient in a batch of dreams, or of anything that is stepped like one.

REINFORCE with lambda-returns, as DIAMOND does it: the agent acts for some steps, gradients running through its memory,
and is updated once; then it goes on where it was. Or proximal policy optimisation (PPO), which learns from the same
steps several times. Whatever ends is begun anew, and the agent catches up on the new context. Everything stays on the
device of the dreams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gym_dream.dream import DreamReset, DreamStep
from gym_dream.state import named_tensors, put_rows, under, with_tensors

from .learner import Learner
from .processes import Processes


@dataclass(frozen=True)
class ImaginationConfig:
    """How an agent is trained. The defaults are DIAMOND's, with 32 dreams of 15 steps."""

    rollout: int = 15
    """Steps between updates, through which REINFORCE's gradients run."""
    gamma: float = 0.985
    """Discount factor."""
    lambda_: float = 0.95
    """From 0, trust the values of the next frames, to 1, trust the rewards seen."""
    entropy_weight: float = 0.001
    """Of the bonus for acting at random."""
    value_weight: float = 1.0
    """Of the value's squared error."""
    clip: float = 0.0
    """0: REINFORCE, which learns from a rollout once. Above: PPO, for agents without recurrence, and how far an
    action's probability may move, as a share, before the objective no longer pays for it."""
    epochs: int = 1
    """Of PPO: times that a rollout is learnt from."""
    minibatches: int = 1
    """Of PPO: pieces of a rollout, each of some of its steps, that are learnt from one after the other."""
    learning_rate: float = 1e-4
    warmup: int = 100
    """Updates over which the learning rate rises linearly."""
    max_grad_norm: float = 100.0

    def __post_init__(self) -> None:
        if self.rollout < 1 or self.warmup < 0:
            raise ValueError(f"Expected rollout >= 1 and warmup >= 0, got {self.rollout} and {self.warmup}.")
        if not (0 <= self.gamma <= 1 and 0 <= self.lambda_ <= 1):
            raise ValueError(f"gamma and lambda_: expected from 0 to 1, got {self.gamma} and {self.lambda_}.")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}.")
        for name, least in {"entropy_weight": 0, "value_weight": 0, "clip": 0, "epochs": 1, "minibatches": 1}.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}.")
        if not self.proximal and (self.epochs > 1 or self.minibatches > 1):
            raise ValueError(
                f"epochs and minibatches, {self.epochs} and {self.minibatches}, are PPO's, which needs a clip above 0, "
                "such as 0.1; REINFORCE learns from a rollout once."
            )

    @property
    def proximal(self) -> bool:
        """Whether the agent learns by PPO."""
        return self.clip > 0


class Agent(Protocol):
    """What learns, beside being a `torch.nn.Module`. `gym_dream.agents.ActorCritic` is one.

    A memory is a NamedTuple or dataclass of tensors with the batch first.
    """

    recurrent: bool
    """Its memory depends on its weights, so that after an update it would have remembered otherwise; not for PPO."""

    def __call__(self, frames: Tensor, memory: Any) -> tuple[Tensor, Tensor, Any]:
        """Logits of actions float32 (B, A), value float32 (B,) and memory, having seen frames uint8 (B, H, W, C)."""

    def empty_memory(self, batch_size: int) -> Any:
        """Nothing remembered."""

    def burn_in(self, frames: Tensor, real: Tensor) -> Any:
        """The memory after frames uint8 (B, T, H, W, C) of which ``real``, bool (B, T), are no padding; T may be 0."""


class World(Protocol):
    """What the agent acts in: `gym_dream.dream.Dream`, or `VectorEnvWorld` around a real vector environment.

    Nothing is reset by itself, so the observation after a step that ends an episode is its final frame.
    """

    @property
    def observation(self) -> Tensor | None:
        """uint8 (B, H, W, C), the current frames; None before the first reset."""

    def reset(self, mask: Tensor | None = None) -> DreamReset:
        """Begin the episodes in the mask, bool (B,), anew; all by default, as at first."""

    def step(self, actions: Tensor) -> DreamStep:
        """Take an action, int64 (B,), in each."""

    def tensors(self) -> dict[str, Tensor]:
        """All that it goes on from."""

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave; a world that cannot has no observation afterwards and begins anew."""


def lambda_returns(
    rewards: Tensor, terminated: Tensor, truncated: Tensor, next_values: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """Mixtures of all n-step returns, within episodes.

        R_t = r_t + gamma (1 - end_t) [trunc_t V'_t + (1 - trunc_t) ((1 - lambda) V'_t + lambda R_{t+1})]

    and, after the last step, R_{t+1} is V'_t.

    Args:
        rewards: float32 (B, T); their signs count.
        terminated: bool (B, T), ``end``: nothing comes after.
        truncated: bool (B, T), ``trunc``: something would come, but is not to be seen.
        next_values: float32 (B, T), V'_t, the value of the frame after step t; where an episode ended, of its final
            frame.
        gamma: discount factor.
        lambda_: see `ImaginationConfig`.

    Returns:
        float32 (B, T), without gradient.
    """
    next_values = next_values.detach()
    goes_on = gamma * (~terminated).float()
    mix = lambda_ * (~truncated).float()
    following = next_values[:, -1]
    returns = []
    for t in reversed(range(rewards.shape[1])):
        bootstrapped = torch.lerp(next_values[:, t], following, mix[:, t])
        following = rewards[:, t].sign() + goes_on[:, t] * bootstrapped
        returns.append(following)
    return torch.stack(returns[::-1], dim=1)


class AgentLoss(NamedTuple):
    """The parts of the loss, scalars; ``total`` is minimised."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    """Of the policy, in nats."""


def agent_loss(
    logits: Tensor, actions: Tensor, values: Tensor, returns: Tensor, config: ImaginationConfig
) -> AgentLoss:
    """REINFORCE with the value as baseline, squared error of the value, entropy bonus; means over all steps.

    Args:
        logits: float32 (B, T, A) of the policy.
        actions: int64 (B, T), taken.
        values: float32 (B, T) of the frames that were acted on.
        returns: float32 (B, T), as from `lambda_returns`; no gradient runs through them.
        config: weighs the parts.
    """
    log_policy = logits.log_softmax(dim=-1)
    returns = returns.detach()
    policy = -(_taken(log_policy, actions) * (returns - values.detach())).mean()
    return _agent_loss(policy, log_policy, values, returns, config)


def proximal_loss(
    logits: Tensor,
    actions: Tensor,
    values: Tensor,
    returns: Tensor,
    log_probs: Tensor,
    advantages: Tensor,
    config: ImaginationConfig,
) -> AgentLoss:
    """PPO's clipped objective (Schulman et al. 2017, equation 7) in place of REINFORCE's, the rest as in `agent_loss`.

    Args:
        logits: float32 (N, A) of the policy as it is now.
        actions: int64 (N,), taken.
        values: float32 (N,) of the frames that were acted on, as they are judged now.
        returns: float32 (N,).
        log_probs: float32 (N,), of the actions when they were taken.
        advantages: float32 (N,), returns less the values of that time; they are standardised.
        config: says where to clip, and weighs the parts.
    """
    log_policy = logits.log_softmax(dim=-1)
    ratio = (_taken(log_policy, actions) - log_probs).exp()
    weight = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    policy = -torch.min(ratio * weight, ratio.clamp(1 - config.clip, 1 + config.clip) * weight).mean()
    return _agent_loss(policy, log_policy, values, returns, config)


def _agent_loss(
    policy: Tensor, log_policy: Tensor, values: Tensor, returns: Tensor, config: ImaginationConfig
) -> AgentLoss:
    value = F.mse_loss(values, returns)
    entropy = -(log_policy.exp() * log_policy).sum(dim=-1).mean()
    total = policy + config.value_weight * value - config.entropy_weight * entropy
    return AgentLoss(total, policy, value, entropy)


def _taken(log_policy: Tensor, actions: Tensor) -> Tensor:
    """The log probabilities (B, T) of the actions."""
    return log_policy.gather(-1, actions[..., None])[..., 0]


class _Position(NamedTuple):
    """Where an agent is in its world, between two updates."""

    memory: Any
    """The agent's, without gradient history."""
    ended: Tensor
    """bool (B,), the episodes to be begun anew before the next step."""
    running: Tensor
    """float64 (2, B), return and length so far of the episodes at hand."""
    finished: Tensor
    """float64 (3,), number, summed return and summed length of the episodes that ended since it was last asked for."""


class _Rollout(NamedTuple):
    """T steps of B episodes."""

    memories: Any  # tensors (B, T, …), before the frames were seen; None unless they are learnt from again
    frames: Tensor  # uint8 (B, T, H, W, C), acted on
    logits: Tensor  # float32 (B, T, A)
    values: Tensor  # float32 (B, T), of the frames acted on
    actions: Tensor  # int64 (B, T)
    rewards: Tensor  # float32 (B, T)
    terminated: Tensor  # bool (B, T)
    truncated: Tensor  # bool (B, T)
    next_values: Tensor  # float32 (B, T), without gradient, of the frames after the steps, final ones among them


class Imagination:
    """An agent in training: it, its optimiser, where it is in its world, and the number of updates so far.

    The actions and minibatches of update i are drawn from a generator seeded with (seed, i), and a dream has random
    streams of its own, so with the `tensors` and the number of updates a run goes on as if never stopped; on a CPU to
    the bit.

    Attributes:
        step: updates done.
    """

    def __init__(
        self,
        agent: Agent,
        world: World,
        config: ImaginationConfig,
        seed: int,
        processes: Processes = Processes(),  # noqa: B008  (frozen)
    ) -> None:
        """Take over an agent, which is updated in place, and a world, which the first update begins.

        Args:
            agent: what learns.
            world: what it acts in; of several processes, each has dreams of its own.
            config: how it is trained.
            seed: of the actions; of several processes, each has one of its own.
            processes: those that train the agent together. What each learns from its own dreams counts alike.

        Raises:
            ValueError: it is to learn by PPO and is recurrent.
        """
        if config.proximal and agent.recurrent:
            raise ValueError(
                "A clip above 0, PPO, is for agents without recurrence, such as gym_dream.agents.StackedActorCritic; "
                "got one whose memories change with its weights."
            )
        self.agent, self.world, self.config, self.seed, self.processes = agent, world, config, seed, processes
        self.step = 0
        # Agents are modules, which a protocol cannot say. They act by the weights as they are: no averages.
        self.learner = Learner(agent, config.learning_rate, 0.0, config.max_grad_norm, average_decay=0.0)  # type: ignore[arg-type]
        self._position: _Position | None = None

    def update(self) -> dict[str, Tensor]:
        """Act for a rollout, learn from it.

        Returns:
            Losses, entropy and gradient norm, as scalars on the device; of the last minibatch, if there are several.
        """
        config = self.config
        with torch.set_grad_enabled(not config.proximal):
            position = self._start() if self._position is None else self._position
            generator = self._generator(position.ended.device)
            rollout = self._roll_out(position, generator)
        returns = lambda_returns(
            rollout.rewards, rollout.terminated, rollout.truncated, rollout.next_values, config.gamma, config.lambda_
        )
        losses = self._proximal_losses(rollout, returns, generator) if config.proximal else self._loss(rollout, returns)
        for loss in losses:
            self.learner.forget()
            (loss.total / self.processes.count).backward()
            gradient = self.learner.gradient()
            self.processes.add(gradient)
            norm = self.learner.descend(min(1.0, (self.step + 1) / max(1, config.warmup)), gradient)
        self.step += 1
        return {
            "agent/loss": loss.total.detach(),
            "agent/policy_loss": loss.policy.detach(),
            "agent/value_loss": loss.value.detach(),
            "agent/entropy": loss.entropy.detach(),
            "agent/grad_norm": norm,
        }

    @property
    def steps_taken(self) -> int:
        """Steps in the world, those of all its episodes together."""
        return 0 if self._position is None else self.step * self.config.rollout * len(self._position.ended)

    def finished_episodes(self) -> dict[str, float]:
        """How the episodes went that ended since the last call: their number, mean return (of signs) and length."""
        if self._position is None:
            return {"episodes": 0.0}
        count, total, steps = self._position.finished.tolist()
        self._position = self._position._replace(finished=torch.zeros_like(self._position.finished))
        return {"episodes": count} | ({"return": total / count, "length": steps / count} if count else {})

    def tensors(self) -> dict[str, Tensor]:
        """Everything an uninterrupted run would go on with, beside the number of updates."""
        tensors = {f"learner.{name}": tensor for name, tensor in self.learner.tensors().items()}
        tensors |= {f"world.{name}": tensor for name, tensor in self.world.tensors().items()}
        if self._position is not None:
            tensors |= named_tensors(self._position, "position")
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor], step: int, *, world: bool = True) -> None:
        """Go on from what `tensors` gave after so many updates.

        Args:
            tensors: as given.
            step: updates done.
            world: go on in the world where it was, too, and not begin it anew.

        Raises:
            KeyError, RuntimeError, ValueError: they are those of another agent or world.
        """
        self.learner.load_tensors(under("learner.", tensors))
        self.step, self._position = step, None
        if not world:
            return
        self.world.load_tensors(under("world.", tensors))
        frames = self.world.observation
        if frames is not None:  # else this world cannot go on where it was and begins anew
            like = _beginning(self.agent.empty_memory(len(frames)), frames)
            # Copied even on a CPU: tensors of a file lie anywhere in memory, where arithmetic may round differently.
            moved = {name: tensor.to(frames.device, copy=True) for name, tensor in tensors.items()}
            self._position = with_tensors(like, "position", moved)

    def _loss(self, rollout: _Rollout, returns: Tensor) -> Iterator[AgentLoss]:
        """REINFORCE's, once, by the gradients of acting itself."""
        yield agent_loss(rollout.logits, rollout.actions, rollout.values, returns, self.config)

    def _proximal_losses(self, rollout: _Rollout, returns: Tensor, generator: torch.Generator) -> Iterator[AgentLoss]:
        """PPO's, a minibatch after the other, each by the agent as it is when its turn comes."""
        config = self.config
        log_probs = _taken(rollout.logits.log_softmax(dim=-1), rollout.actions)
        columns = (rollout.frames, rollout.actions, returns, log_probs, returns - rollout.values)
        if returns.numel() < 2 * config.minibatches:  # of a single step nothing can be standardised
            raise ValueError(
                f"minibatches: {config.minibatches} of at least 2 steps each cannot be made of {returns.numel()}, "
                f"those of {len(returns)} episodes and a rollout of {returns.shape[1]}. Take fewer or longer rollouts."
            )
        for _ in range(config.epochs):
            order = torch.randperm(returns.numel(), generator=generator, device=returns.device)
            for steps in order.tensor_split(config.minibatches):
                frames, actions, aims, before, advantages = (column.flatten(0, 1)[steps] for column in columns)
                memory = _changed(rollout.memories, lambda tensor, steps=steps: tensor.flatten(0, 1)[steps])  # type: ignore[misc]
                logits, values, _ = self.agent(frames, memory)
                yield proximal_loss(logits, actions, values, aims, before, advantages, config)

    def _roll_out(self, position: _Position, generator: torch.Generator) -> _Rollout:
        """Act for a rollout, from where the last one ended."""
        memory, over = position.memory, bool(position.ended.any())
        ended = position.ended
        columns: list[tuple[Tensor, ...]] = []
        memories = []
        for t in range(self.config.rollout):
            if over:  # begun only here, not after the step, so that gradients always run through catching up
                context = self.world.reset(ended).context
                caught_up = self.agent.burn_in(context.frames[:, :-1], context.real[:, :-1])
                memory = put_rows(memory, ended.nonzero()[:, 0], caught_up)
            memories.append(memory)
            frames = self._frames()
            logits, value, memory = self.agent(frames, memory)
            # The largest of logits with Gumbel noise is a draw from their distribution, and waits for no device.
            gumbel = -torch.empty_like(logits).exponential_(generator=generator).log()
            action = (logits.detach() + gumbel).argmax(dim=1)
            step = self.world.step(action)
            ended = step.terminated | step.truncated
            over = bool(ended.any())
            # Of the frame after the step, as long as it is to be seen: a final frame, or the last one of the rollout.
            # All others are judged at the step after.
            seen_now = over or t == self.config.rollout - 1
            next_value = self._value(memory) if seen_now else torch.zeros_like(value)
            columns.append((frames, logits, value, action, step.reward, step.terminated, step.truncated, next_value))
        stacked = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
        rollout = _Rollout(_stacked(memories) if self.config.proximal else None, *stacked)
        ends = rollout.terminated | rollout.truncated
        values_after = torch.cat([rollout.values[:, 1:].detach(), rollout.next_values[:, -1:]], dim=1)
        running, finished = _tally(position.running, position.finished, rollout.rewards.sign(), ends)
        self._position = _Position(_changed(memory, Tensor.detach), ended, running, finished)
        return rollout._replace(next_values=torch.where(ends, rollout.next_values, values_after))

    def _start(self) -> _Position:
        """Begin all episodes."""
        context = self.world.reset().context
        return _beginning(self.agent.burn_in(context.frames[:, :-1], context.real[:, :-1]), context.frames)

    @torch.no_grad()
    def _value(self, memory: Any) -> Tensor:
        """Of the current frames, float32 (B,); what is remembered stays as it is."""
        return self.agent(self._frames(), memory)[1]

    def _frames(self) -> Tensor:
        frames = self.world.observation
        assert frames is not None  # the world was begun
        return frames

    def _generator(self, device: torch.device) -> torch.Generator:
        """What the actions and minibatches of this update are drawn from."""
        seed = np.random.default_rng([self.seed, self.step]).integers(2**62)
        return torch.Generator(device).manual_seed(int(seed))


def _beginning(memory: Any, frames: Tensor) -> _Position:
    """Nothing has ended yet, and nothing been paid."""
    zeros = torch.zeros(2, len(frames), dtype=torch.float64, device=frames.device)
    return _Position(memory, zeros[0].bool(), zeros, zeros.new_zeros(3))


def _tally(running: Tensor, finished: Tensor, rewards: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Count on over T steps; arguments as in `_Position`, rewards float and ends bool (B, T)."""
    for reward, end in zip(rewards.unbind(1), ends.unbind(1), strict=True):
        running = running + torch.stack([reward, torch.ones_like(reward)])
        finished = finished + torch.cat([end.sum()[None], (running * end).sum(dim=1)])
        running = running * ~end
    return running, finished


def _changed(memory: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A memory with each of its tensors changed."""
    return with_tensors(memory, "memory", {name: change(tensor) for name, tensor in named_tensors(memory, "memory")})


def _stacked(memories: Sequence[Any]) -> Any:
    """Memories of T steps as one of tensors (B, T, …)."""
    named = [dict(named_tensors(memory, "memory")) for memory in memories]
    tensors = {name: torch.stack([step[name] for step in named], dim=1) for name in named[0]}
    return with_tensors(memories[0], "memory", tensors)
