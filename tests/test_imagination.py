"""The imagination trainer: against a plain computation of the same, its runs and their checkpoints, and that it learns.

Learning is tested in a real vector environment handed to the trainer (the model-free control experiment), whose optimum
is known. Not caught there is a rollout whose last value is taken for zero: episodes are no longer than rollouts. The
plain computation catches it.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import catch
import fakes
import numpy as np
import pytest
import tiny
import torch
from gymnasium.vector import AutoresetMode
from safetensors.torch import load_file
from torch import Tensor

from gym_dream.agents import (
    ActorCritic,
    ActorCriticConfig,
    AgentConfig,
    AgentPolicy,
    StackedActorCritic,
    StackedConfig,
    load_agent,
)
from gym_dream.agents.actor_critic import Memory
from gym_dream.dream import Dream, DreamReset, DreamStep
from gym_dream.dynamics import ContextTensors
from gym_dream.trainers import agent_run, imagination
from gym_dream.trainers.agent_run import train_agent
from gym_dream.trainers.checkpoint import NAME
from gym_dream.trainers.imagination import (
    Imagination,
    ImaginationConfig,
    agent_loss,
    lambda_returns,
    proximal_loss,
)
from gym_dream.trainers.vector_world import VectorEnvWorld
from gym_dream.vector_env import DreamVectorEnv

SETTINGS = ImaginationConfig(rollout=4, learning_rate=1e-3, warmup=1, entropy_weight=0.1)
PROXIMAL = replace(SETTINGS, clip=0.2, epochs=2, minibatches=2)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that sums have the same order
    yield
    torch.set_num_threads(threads)


def network(frame_size: tuple[int, int], num_actions: int = 4, seed: int = 0) -> ActorCritic:
    """With random weights everywhere, so that it depends on what it sees and remembers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = ActorCritic(ActorCriticConfig(num_actions, frame_size, channels=(4, 4), lstm_size=5))
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return made


# Returns and loss


def returns_of(rewards: list[float], ends: list[int] = (), cuts: list[int] = (), lambda_: float = 0.5) -> list[float]:
    """With values 10, 20, … of the next frames and gamma 0.5."""
    steps = len(rewards)
    marks = [torch.tensor([[t in where for t in range(steps)]]) for where in (ends, cuts)]
    values = 10.0 * torch.arange(1, steps + 1)[None]
    return lambda_returns(torch.tensor([rewards]), *marks, values, gamma=0.5, lambda_=lambda_)[0].tolist()


def test_lambda_returns_by_hand() -> None:
    assert returns_of([1.0, 0.0]) == [1 + 0.5 * (0.5 * 10 + 0.5 * 10), 0.5 * 20]
    assert returns_of([1.0, -1.0], ends=[0]) == [1, -1 + 0.5 * 20]  # a termination hides all that comes after
    assert returns_of([1.0, -1.0], cuts=[0]) == [1 + 0.5 * 10, -1 + 0.5 * 20]  # a truncation hides all but the value
    assert returns_of([1.0, -1.0], ends=[0], cuts=[0]) == [1, 9]
    assert returns_of([0.0, 0.0, 7.0], ends=[2], lambda_=1.0) == [0.25, 0.5, 1]  # of rewards, signs count
    assert returns_of([0.0, 0.0], lambda_=0.0) == [5, 10]


def test_the_loss_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]]], requires_grad=True)
    values = torch.tensor([[1.0, 2.0]], requires_grad=True)
    returns = torch.tensor([[3.0, 1.0]], requires_grad=True)
    loss = agent_loss(logits, torch.tensor([[1, 0]]), values, returns, replace(SETTINGS, value_weight=0.5))
    entropies = [-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), math.log(2)]
    assert loss.policy.item() == pytest.approx(-(2 * math.log(0.75) - math.log(0.5)) / 2)
    assert loss.value.item() == pytest.approx((4 + 1) / 2)
    assert loss.entropy.item() == pytest.approx(sum(entropies) / 2)
    assert loss.total.item() == pytest.approx((loss.policy + 0.5 * loss.value - 0.1 * loss.entropy).item())
    loss.total.backward()
    torch.testing.assert_close(values.grad, torch.tensor([[-1.0, 0.5]]))  # of the value's error alone
    assert returns.grad is None


def test_the_proximal_loss_by_hand() -> None:
    """Four actions: paid and likelier than the clip allows, paid and less likely, and the same for two that cost."""
    ratios, advantages = torch.tensor([[1.5, 0.5], [1.5, 0.5]]), torch.tensor([[3.0, 3.0], [1.0, 1.0]])
    logits = torch.zeros(2, 2, 2, requires_grad=True)
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    log_probs = math.log(0.5) - ratios.log()
    actions, returns = torch.tensor([[1, 0], [0, 1]]), torch.zeros(2, 2)
    loss = proximal_loss(logits, actions, values, returns, log_probs, advantages, replace(PROXIMAL, value_weight=0.5))
    weight = 1 / torch.tensor([1.0, 1.0, -1.0, -1.0]).std().item()  # standardised, advantages are this and its opposite
    assert loss.policy.item() == pytest.approx(-weight * (1.2 + 0.5 - 1.5 - 0.8) / 4, abs=1e-6)
    assert loss.value.item() == pytest.approx((1 + 4 + 9 + 16) / 4)
    assert loss.total.item() == pytest.approx(loss.policy.item() + 0.5 * 7.5 - 0.1 * math.log(2))
    loss.total.backward()
    moved = logits.grad.abs().sum(dim=2) > 0
    assert moved.tolist() == [[False, True], [True, False]]  # what was clipped no longer pulls


@pytest.mark.parametrize(
    "wrong",
    [
        {"rollout": 0},
        {"gamma": 1.5},
        {"lambda_": -1},
        {"learning_rate": 0.0},
        {"entropy_weight": -1.0},
        {"clip": -0.1},
        {"epochs": 0},
        {"minibatches": 0},
        {"epochs": 2},  # of REINFORCE
        {"minibatches": 2},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImaginationConfig(**wrong)


# An update against a plain computation of the same


class Recorder:
    """A world that notes what happens in it, row by row."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.rows: list[list[Any]] = []

    @property
    def observation(self) -> Tensor | None:
        return self.world.observation

    def reset(self, mask: Tensor | None = None) -> DreamReset:
        reset = self.world.reset(mask)
        for index, row in enumerate(reset.reset.nonzero()[:, 0].tolist()):
            self.rows[row].append((reset.context.frames[index], reset.context.real[index]))
        return reset

    def step(self, actions: Tensor) -> DreamStep:
        before = self.world.observation
        step = self.world.step(actions)
        for row, events in enumerate(self.rows):
            after = (step.reward, step.terminated, step.truncated, step.observation)
            events.append((before[row], actions[row], *(tensor[row] for tensor in after)))
        return step


def plain_loss(
    agent: ActorCritic, rows: list[list[Any]], memories: list[Memory | None], c: ImaginationConfig
) -> Tensor:
    """The loss of a rollout from its definition: row by row, every value judged from scratch, returns by recursion."""
    log_probs, advantages, errors, entropies = [], [], [], []
    for events, memory in zip(rows, memories, strict=True):
        steps = []
        for event in events:
            if len(event) == 2:
                memory = agent.empty_memory(1)
                for frame, real in zip(event[0][:-1], event[1][:-1], strict=True):
                    memory = agent(frame[None], memory).memory if real else memory
                continue
            frame, action, reward, terminated, truncated, after = event
            logits, value, memory = agent(frame[None], memory)
            with torch.no_grad():
                next_value = agent(after[None], memory).value[0]
            steps.append((logits[0].softmax(0), action, value[0], reward.sign(), terminated, truncated, next_value))
        following = steps[-1][-1]
        for policy, action, value, reward, terminated, truncated, next_value in reversed(steps):
            if terminated:
                following = reward
            elif truncated:
                following = reward + c.gamma * next_value
            else:
                following = reward + c.gamma * ((1 - c.lambda_) * next_value + c.lambda_ * following)
            log_probs.append(policy[action].log())
            advantages.append((following - value).detach())
            errors.append((value - following) ** 2)
            entropies.append(-(policy * policy.log()).sum())
    means = [torch.stack(column).mean() for column in (log_probs, errors, entropies)]
    policy_loss = -(torch.stack(log_probs) * torch.stack(advantages)).mean()
    return policy_loss + means[1] - c.entropy_weight * means[2]


def fake_dream(seed: int = 0, horizon: int = 5) -> Dream:
    """Four dreams; a quarter of the actions ends one, and contexts are padded."""
    return Dream(fakes.FakeDynamics(), 4, fakes.contexts(20, padded=1), horizon=horizon, seed=seed)


def test_updates_are_those_of_the_definition() -> None:
    """Over updates in which dreams end, are cut off, end at an update's last step, and go on into the next one.

    So it holds that the final frame is what bootstraps, that memories are carried but gradients are not, and that
    gradients run through catching up.
    """
    world, agent = Recorder(fake_dream()), network((40, 48))
    training = Imagination(agent, world, SETTINGS, seed=0)
    memories: list[Memory | None] = [None] * 4
    ends = {"terminated": 0, "truncated": 0, "at the last step": 0, "goes on": 0}
    for _ in range(6):
        world.rows = [[] for _ in range(4)]
        before = copy.deepcopy(agent)
        report = training.update()
        expected = plain_loss(before, world.rows, memories, SETTINGS)
        assert report["agent/loss"].item() == pytest.approx(expected.item(), abs=1e-5)
        expected.backward()
        for ours, theirs in zip(agent.parameters(), before.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
        for name, count in ends.items():
            steps = (
                [events[-1] for events in world.rows] if name.startswith(("at", "goes")) else list(chain(*world.rows))
            )
            kinds = [(bool(e[3]), bool(e[4])) for e in steps if len(e) > 2]
            hits = {"terminated": (True, False), "truncated": (False, True), "goes on": (False, False)}
            found = sum(k[0] or k[1] for k in kinds) if name.startswith("at") else kinds.count(hits.get(name))
            ends[name] = count + found
        position = training._position
        assert position is not None and not position.memory.hidden.requires_grad
        memories = [Memory(h[None], c[None]) for h, c in zip(*position.memory, strict=True)]
    assert all(ends.values()), ends


def stacked(frame_size: tuple[int, int]) -> StackedActorCritic:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        agent = StackedActorCritic(StackedConfig(4, frame_size, num_frames=3, channels=(4,), hidden_size=5))
        for parameter in agent.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return agent


def test_ppo_judges_each_step_by_what_was_known_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the weights are the same, actions are as likely and frames worth as much as when they were met.

    Over rollouts in which dreams go on, end, and are begun anew with padded contexts.
    """
    seen: list[tuple[Tensor, ...]] = []

    def spy(*arguments: Any) -> Any:
        seen.append(arguments[:6])
        assert arguments[6] is training.config
        return proximal_loss(*arguments)

    monkeypatch.setattr(imagination, "proximal_loss", spy)
    world = Recorder(fake_dream())
    training = Imagination(stacked((40, 48)), world, replace(PROXIMAL, learning_rate=1e-30), seed=0)
    per_epoch, steps = PROXIMAL.minibatches, 4 * PROXIMAL.rollout
    ends: set[Any] = set()
    for number in range(6):
        world.rows = [[] for _ in range(4)]
        training.update()
        assert len(seen) == (number + 1) * PROXIMAL.epochs * per_epoch
        happened = list(chain(*world.rows))
        ends |= {(bool(e[3]), bool(e[4])) for e in happened if len(e) > 2} | (
            {"begun"} if len(happened) > steps else set()
        )
        for epoch in (seen[-2 * per_epoch : -per_epoch], seen[-per_epoch:]):
            taken = torch.cat([minibatch[1] for minibatch in epoch])
            assert sorted(taken.tolist()) == sorted(int(e[1]) for e in happened if len(e) > 2)
    assert ends >= {"begun", (False, False), (True, False), (False, True)}
    for logits, actions, values, returns, log_probs, advantages in seen:
        now = logits.log_softmax(-1).gather(-1, actions[:, None])[:, 0]
        torch.testing.assert_close(now, log_probs, atol=1e-5, rtol=0)
        torch.testing.assert_close(returns - values, advantages, atol=1e-5, rtol=0)
    assert len({tuple(found[1].tolist()) for found in seen[:4]}) == 4  # each epoch in another order
    assert not torch.equal(seen[0][2], seen[2][2]) and torch.equal(
        torch.cat([seen[0][2], seen[1][2]]).sort().values, torch.cat([seen[2][2], seen[3][2]]).sort().values
    )


def test_ppo_needs_steps_enough_for_its_minibatches() -> None:
    training = Imagination(stacked((40, 48)), fake_dream(), replace(PROXIMAL, minibatches=9), seed=0)
    with pytest.raises(ValueError, match="minibatches: 9 of at least 2 steps each cannot be made of 16"):
        training.update()


def test_ppo_is_not_for_agents_whose_memory_changes_with_their_weights() -> None:
    with pytest.raises(ValueError, match="without recurrence"):
        Imagination(network((40, 48)), fake_dream(), PROXIMAL, seed=0)


def test_actions_are_drawn_from_the_policy_anew_at_every_update() -> None:
    """Frequencies agree with the policy's probabilities; every update has random numbers of its own."""
    agent = network((40, 48))
    torch.nn.init.zeros_(agent.actor_linear.weight)
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    agent.actor_linear.bias.data = probabilities.log()
    world = Recorder(Dream(fakes.FakeDynamics(), 64, fakes.contexts(20), seed=0))
    training = Imagination(agent, world, ImaginationConfig(rollout=10, learning_rate=1e-30), seed=0)
    drawn = []
    for _ in range(3):
        world.rows = [[] for _ in range(64)]
        training.update()
        drawn.append([[int(e[1]) for e in events if len(e) > 2] for events in world.rows])
    assert drawn[0] != drawn[1]
    frequencies = np.bincount(np.ravel(drawn), minlength=4) / np.size(drawn)
    np.testing.assert_allclose(frequencies, probabilities, atol=0.04)


def test_episodes_are_counted_across_updates() -> None:
    world = fake_dream(horizon=5)
    world.dynamics.step = (
        lambda state, action, noise, step=world.dynamics.step: (  # every action pays 3
            *step(state, torch.ones_like(action), noise)[:2],
            torch.full((4,), 3.0),
            torch.zeros(4, dtype=torch.bool),
        )
    )
    training = Imagination(network((40, 48)), world, SETTINGS, seed=0)
    assert training.finished_episodes() == {"episodes": 0.0}
    training.update()
    assert training.finished_episodes() == {"episodes": 0.0}
    for _ in range(4):
        training.update()
    assert training.finished_episodes() == {"episodes": 16.0, "return": 5.0, "length": 5.0}
    assert training.finished_episodes() == {"episodes": 0.0}
    assert training.steps_taken == 5 * 4 * 4


# Worlds


def disabled(**settings: Any) -> DreamVectorEnv:
    return DreamVectorEnv(
        fakes.FakeWorldModel(), 4, **{"autoreset_mode": "Disabled", "max_episode_steps": 5} | settings
    )


def test_a_vector_environment_of_dreams_is_as_good_as_the_dreams() -> None:
    """The same frames, endings and contexts reach the agent, so it becomes the same agent."""
    envs = disabled(reset_from="replay")
    world = VectorEnvWorld(envs, seed=3)
    seed = int(np.random.default_rng([3, 0]).integers(2**30))
    dream = Dream(fakes.FakeDynamics(), 4, envs.dream.contexts, horizon=5, seed=seed)
    agents = [network((40, 48)), network((40, 48))]
    for agent, where in zip(agents, (world, dream), strict=True):
        training = Imagination(agent, where, SETTINGS, seed=0)
        for _ in range(5):
            training.update()
    for ours, theirs in zip(*(agent.parameters() for agent in agents), strict=True):
        assert torch.equal(ours, theirs)


def test_environments_without_contexts_begin_with_one_frame() -> None:
    world = VectorEnvWorld(catch.CatchVectorEnv(3), seed=0)
    context = world.reset().context
    assert isinstance(context, ContextTensors) and context.frames.shape == (3, 1, 16, 16, 3)
    assert torch.equal(context.frames[:, 0], world.observation) and context.real.all()
    assert context.actions.shape == (3, 0)
    kept = world.observation.clone()
    some = world.reset(torch.tensor([False, True, False]))
    assert some.context.frames.shape[0] == 1 and torch.equal(some.context.frames[0, 0], world.observation[1])
    assert torch.equal(world.observation[[0, 2]], kept[[0, 2]])


def test_environments_that_reset_themselves_are_refused() -> None:
    for mode in ("SameStep", "NextStep"):
        with pytest.raises(ValueError, match="autoreset_mode='Disabled'"):
            VectorEnvWorld(disabled(autoreset_mode=AutoresetMode(mode)), seed=0)


def test_resumed_environments_begin_with_other_seeds() -> None:
    world, other = (VectorEnvWorld(catch.CatchVectorEnv(64), seed=0) for _ in range(2))
    first = world.reset().observation
    other.load_tensors(world.tensors())
    assert other.observation is None
    assert not torch.equal(other.reset().observation, first)
    assert torch.equal(VectorEnvWorld(catch.CatchVectorEnv(64), seed=0).reset().observation, first)


# Runs

CONFIG = AgentConfig(tiny.ENV, ActorCriticConfig(4, (16, 16), channels=(4,), lstm_size=5))
SETUP = {"world": "tiny"}


@pytest.fixture(scope="module")
def tiny_model() -> Any:
    return tiny.world_model()


@pytest.fixture
def train(tiny_model: Any) -> Callable[..., Path]:
    """Train in three dreams of the tiny model, as a user would who makes everything anew for each call."""

    def call(out: Path, sizes: Any = CONFIG.actor_critic, **changes: Any) -> Path:
        policy = AgentPolicy.create(replace(CONFIG, actor_critic=sizes), seed=0)
        dream = Dream(tiny_model.dynamics("cpu", "float32"), 3, tiny_model.starts, horizon=6, seed=0)
        arguments: dict[str, Any] = {
            "save": policy.save,
            "setup": SETUP,
            "settings": SETTINGS,
            "updates": 6,
            "progress": False,
            "evaluate_every": 2,
        }
        return train_agent(policy.network, dream, out, **arguments | changes)

    return call


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = load_file(one / NAME), load_file(other / NAME)
    assert ours.keys() == theirs.keys()
    assert not [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]
    curves = [json.loads((run / "curve.json").read_text()) for run in (one, other)]
    for curve in curves:
        for point in curve:
            del point["seconds"]
    assert curves[0] == curves[1]


def at_update(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    update = Imagination.update

    def patched(self: Imagination) -> dict[str, Tensor]:
        report = update(self)
        if self.step == step:
            action()
        return report

    monkeypatch.setattr(Imagination, "update", patched)


def killed() -> None:
    raise SystemExit("killed")


def test_a_run_leaves_agent_curve_and_checkpoint(train, tmp_path) -> None:
    figures = iter(range(10))
    folder = train(tmp_path / "run", evaluate=lambda: {"real/return": float(next(figures))})
    assert folder == tmp_path / "run" / "agent"
    agent = load_agent(folder, tiny.ENV)
    weights = load_file(tmp_path / "run" / NAME)
    for name, tensor in agent.network.state_dict().items():
        assert torch.equal(tensor, weights[f"learner.network.{name}"])
    assert not torch.equal(agent.network.actor_linear.bias, torch.zeros(4))
    curve = json.loads((tmp_path / "run" / "curve.json").read_text())
    assert [(p["update"], p["steps"], p["real/return"]) for p in curve] == [
        (0, 0, 0),
        (2, 24, 1),
        (4, 48, 2),
        (6, 72, 3),
    ]
    assert curve[-1]["world/episodes"] > 0 and "world/return" in curve[-1]
    assert list((tmp_path / "run" / "logs").iterdir())


@pytest.mark.parametrize(("step", "settings"), [(1, SETTINGS), (4, SETTINGS), (4, PROXIMAL)])
def test_an_interrupted_run_goes_on_to_the_bit(train, tmp_path, monkeypatch, step, settings) -> None:
    sizes = CONFIG.actor_critic if settings is SETTINGS else StackedConfig(4, (16, 16), channels=(4,), hidden_size=5)
    train = functools.partial(train, settings=settings, sizes=sizes)
    train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_update(patch, step, lambda: signal.raise_signal(signal.SIGINT))
        train(tmp_path / "run")
    assert load_file(tmp_path / "run" / NAME).keys() == load_file(tmp_path / "whole" / NAME).keys()
    train(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_killed_run_goes_on_from_its_last_checkpoint(train, tmp_path, monkeypatch) -> None:
    train(tmp_path / "whole")
    for step in (1, 3, 5):
        with monkeypatch.context() as patch:
            at_update(patch, step, killed)
            with pytest.raises(SystemExit):
                train(tmp_path / "run", resume=step > 1, checkpoint_minutes=0)
        (tmp_path / "run" / f".{NAME}.1.tmp").write_bytes(b"torn")
    train(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert not list((tmp_path / "run").glob(".*"))


def test_a_longer_budget_goes_on(train, tmp_path) -> None:
    train(tmp_path / "whole")
    train(tmp_path / "run", updates=4)
    train(tmp_path / "run", updates=6, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_in_a_real_environment_can_be_resumed(tmp_path) -> None:
    config = AgentConfig(catch.ENV, ActorCriticConfig(3, (16, 16), channels=(4,), lstm_size=5))
    for updates in (2, 4):
        policy = AgentPolicy.create(config, seed=0)
        world = VectorEnvWorld(catch.CatchVectorEnv(3), seed=0)
        train_agent(
            policy.network,
            world,
            tmp_path / "run",
            save=policy.save,
            setup={},
            settings=SETTINGS,
            updates=updates,
            resume=updates > 2,
            progress=False,
        )
    curve = json.loads((tmp_path / "run" / "curve.json").read_text())
    assert [point["update"] for point in curve] == [0, 2, 4]


def test_what_does_not_fit_is_told(train, tmp_path) -> None:
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        train(run, resume=True)
    with pytest.raises(ValueError, match="either steps or minutes"):
        train(run, minutes=1.0)
    with pytest.raises(ValueError, match="evaluate_every"):
        train(run, evaluate_every=0)
    assert not run.exists()
    train(run, updates=1)
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(run)
    with pytest.raises(ValueError, match=r"setup.world 'tiny', now 'huge'"):
        train(run, resume=True, setup={"world": "huge"})
    with pytest.raises(ValueError, match=r"imagination.rollout 4, now 15; seed 0, now 1"):
        train(run, resume=True, settings=ImaginationConfig(**vars(SETTINGS) | {"rollout": 15}), seed=1)
    whole = (run / NAME).read_bytes()
    for damaged in (whole[:-50], b"text", (run / "agent" / "actor_critic.safetensors").read_bytes()):
        (run / NAME).write_bytes(damaged)
        with pytest.raises(ValueError, match=NAME):
            train(run, resume=True)


def test_a_checkpoint_of_another_agent_or_world_is_named(train, tmp_path, tiny_model) -> None:
    train(tmp_path / "run", updates=1)
    wider = AgentPolicy.create(AgentConfig(tiny.ENV, ActorCriticConfig(4, (16, 16), channels=(8,), lstm_size=5)), 0)
    dreams = {n: Dream(tiny_model.dynamics("cpu", "float32"), n, tiny_model.starts, horizon=6, seed=0) for n in (3, 2)}
    same = {"setup": SETUP, "settings": SETTINGS, "updates": 2, "resume": True, "progress": False, "save": wider.save}
    with pytest.raises(ValueError, match=rf"(?s){NAME} is not a checkpoint of the run.*encoder"):
        train_agent(wider.network, dreams[3], tmp_path / "run", **same)
    with pytest.raises(ValueError, match=rf"(?s){NAME} is not a checkpoint of the run.*keys"):
        train_agent(AgentPolicy.create(CONFIG, seed=0).network, dreams[2], tmp_path / "run", **same)


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(train, tmp_path, monkeypatch) -> None:
    train(tmp_path / "run", updates=2)
    before = (tmp_path / "run" / NAME).read_bytes()
    loss = imagination.agent_loss
    monkeypatch.setattr(imagination, "agent_loss", lambda *a: loss(*a)._replace(total=loss(*a).total * math.nan))
    with pytest.raises(FloatingPointError, match=r"update \d.*last good checkpoint"):
        train(tmp_path / "run", resume=True)
    assert (tmp_path / "run" / NAME).read_bytes() == before
    load_agent(tmp_path / "run" / "agent")


def test_the_bar_shows_how_it_goes(train, tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(agent_run, "LOG_INTERVAL", 1)
    train(tmp_path / "run", progress=True)
    shown = capfd.readouterr().err
    assert "100%" in shown and "entropy=" in shown and "steps/s" in shown


# Learning

UPDATES = 500
LEARNING = ImaginationConfig(rollout=4, learning_rate=1e-3, warmup=20, entropy_weight=0.03)
"""Rollouts that begin and end in the midst of most episodes: what was seen before an update counts after it, too."""

PPO = ImaginationConfig(
    rollout=8, learning_rate=1e-3, warmup=0, entropy_weight=0.01, epochs=4, minibatches=2, value_weight=0.5, clip=0.1
)
RECURRENT = ActorCriticConfig(3, (16, 16), channels=(8, 16), lstm_size=32)
STACKED = StackedConfig(3, (16, 16), channels=(8, 16), hidden_size=32)

Break = Callable[[pytest.MonkeyPatch], None]


def learn(
    monkeypatch: pytest.MonkeyPatch,
    broken: Break | None = None,
    seed: int = 0,
    sizes: ActorCriticConfig | StackedConfig = RECURRENT,
    settings: ImaginationConfig = LEARNING,
    updates: int = UPDATES,
) -> tuple[AgentPolicy, float]:
    """Train in the ball game; the agent, and the mean return of the last tenth of the episodes that it trained on."""
    policy = AgentPolicy.create(AgentConfig(catch.ENV, sizes), seed)
    training = Imagination(policy.network, VectorEnvWorld(catch.CatchVectorEnv(32), seed=seed), settings, seed)
    with monkeypatch.context() as patch:
        if broken is not None:
            broken(patch)
        for _ in range(updates):
            if training.step == updates * 9 // 10:
                training.finished_episodes()
            training.update()
    return policy, training.finished_episodes()["return"]


def play(policy: AgentPolicy, games: int) -> float:
    """The mean return of so many games, played through the policy protocol."""
    envs = catch.CatchVectorEnv(games)
    envs.reset(seed=1000)
    frames, _ = envs.reset()
    state = policy.begin(games, seed=0)
    state = policy.reset(state, np.ones(games, np.bool_))
    total = np.zeros(games)
    for _ in range(catch.STEPS):
        actions, state = policy.act(state, frames, {})
        frames, rewards, *_ = envs.step(actions)
        total += rewards
    return float(total.mean())


def test_it_learns_to_catch(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, trained = learn(monkeypatch)
    assert trained >= 0.9 * catch.OPTIMUM
    assert play(policy, 500) >= 0.9 * catch.OPTIMUM


def test_ppo_learns_it_from_a_fifth_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, trained = learn(monkeypatch, sizes=STACKED, settings=PPO, updates=UPDATES // 10)
    assert trained >= 0.9 * catch.OPTIMUM
    assert play(policy, 500) >= 0.9 * catch.OPTIMUM


def test_who_sees_one_frame_at_a_time_cannot_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ball was there first is then out of sight before the paddle can move."""
    sizes = replace(STACKED, num_frames=1)
    assert learn(monkeypatch, sizes=sizes, settings=PPO, updates=UPDATES // 10)[1] < 0.7


def memory_not_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every update begins with an empty memory."""
    monkeypatch.setattr(imagination, "_changed", lambda memory, change: Memory(*map(torch.zeros_like, memory)))


def no_memory_of_the_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends, the memories of all are emptied."""
    monkeypatch.setattr(imagination, "put_rows", lambda memory, rows, new: Memory(*map(torch.zeros_like, memory)))


def _change_returns(monkeypatch: pytest.MonkeyPatch, change: Callable[..., Tensor]) -> None:
    monkeypatch.setattr(imagination, "lambda_returns", change)


def nothing_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns are the steps' own rewards."""
    _change_returns(monkeypatch, lambda rewards, *_: rewards)


def returns_of_the_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is paid what came after the one before."""
    _change_returns(monkeypatch, lambda *arguments: lambda_returns(*arguments).roll(1, dims=1))


def endings_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the next episode pays is added to what this one does."""
    _change_returns(monkeypatch, lambda r, ends, cuts, *rest: lambda_returns(r, torch.zeros_like(ends), cuts, *rest))


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        memory_not_carried,
        no_memory_of_the_ended,
        nothing_comes_after,
        returns_of_the_step_before,
        endings_ignored,
    ],
)
def test_it_does_not_learn_to_catch_if_broken(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    assert learn(monkeypatch, broken)[1] < 0.9 * catch.OPTIMUM
