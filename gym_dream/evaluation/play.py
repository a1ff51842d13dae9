"""Playing episodes in either world: one policy, many games at a time, every step's reward kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

from gym_dream import real
from gym_dream.data.contexts import Contexts
from gym_dream.dream import Dream
from gym_dream.dynamics import Dynamics
from gym_dream.policy import Policy


@dataclass(frozen=True)
class EpisodeResult:
    """What one episode paid.

    Attributes:
        rewards: (step, reward) of every step whose reward is not zero; steps count from 1.
        length: steps played.
        terminated: it came to an end of its own, before the horizon.
        points: the game's own score; None in a dream, which has none.
    """

    rewards: tuple[tuple[int, float], ...]
    length: int
    terminated: bool
    points: float | None

    def total(self, horizon: int) -> float:
        """The return of the first ``horizon`` steps."""
        return sum(reward for step, reward in self.rewards if step <= horizon)


class Outcome(NamedTuple):
    """One step of all N games of a world."""

    observations: np.ndarray  # uint8 (N, H, W, C)
    rewards: np.ndarray  # float (N,), signs
    terminated: np.ndarray  # bool (N,)
    points: np.ndarray | None  # float (N,), the game's own; None where there are none
    life_lost: np.ndarray | None = None  # bool (N,), in games that go on with another life
    truncated: np.ndarray | None = None  # bool (N,), cut off by the world itself, where it does so


class World(Protocol):
    """N games side by side, each begun anew at will."""

    @property
    def num_envs(self) -> int:
        """Games at a time, N."""

    def begin(self, mask: np.ndarray, episodes: np.ndarray) -> Contexts:
        """Begin a new episode in the games of the mask, bool (N,).

        Args:
            mask: which games.
            episodes: int64 (N,), the number of the episode, which fixes how it begins and its random numbers.

        Returns:
            What the episodes begin from, N rows, of which those in the mask count; the last frame is the observation.
        """

    def step(self, actions: np.ndarray) -> Outcome:
        """Play one action in every game, int64 (N,), begun or not; an ended game's outcome means nothing."""


class DreamWorld:
    """A batch of dreams; episode i begins from context i (modulo their number) and draws from seed + i."""

    def __init__(self, dynamics: Dynamics[Any], starts: Contexts, num_envs: int, seed: int) -> None:
        self.num_envs = num_envs
        self._starts, self._seed = starts, seed
        self._dream = Dream(dynamics, num_envs, starts, seed=seed)

    def begin(self, mask: np.ndarray, episodes: np.ndarray) -> Contexts:
        """See `World.begin`."""
        contexts = self._starts[episodes % len(self._starts)]
        if self._dream.observation is None:
            mask = np.ones_like(mask)  # a first reset is of all dreams
        self._dream.reset(mask, seeds=(self._seed + episodes).tolist(), contexts=contexts)
        return contexts

    def step(self, actions: np.ndarray) -> Outcome:
        """See `World.step`."""
        step = self._dream.step(actions)
        observations, rewards, terminated = (
            tensor.cpu().numpy() for tensor in (step.observation, step.reward, step.terminated)
        )
        return Outcome(observations, rewards, terminated, None)


class RealWorld:
    """The game itself: episode i is the first life of a game with seed + i.

    A dream begins from the first frames of a game and the actions between them. So that both worlds begin alike, the
    same opening actions are played here before the policy takes over.
    """

    def __init__(
        self, make: Callable[[], gym.Env[np.ndarray, Any]], opening: np.ndarray, num_envs: int, seed: int
    ) -> None:
        """Open the games.

        Args:
            make: one game; ``info["raw_reward"]`` is its own score, if it has one.
            opening: int64 (S, L - 1), the actions between the frames of S contexts.
            num_envs: games at a time.
            seed: see above.
        """
        self.num_envs = num_envs
        self._games = [make() for _ in range(num_envs)]
        self._opening, self._seed = opening, seed
        shape = self._games[0].observation_space.shape
        self._frames = np.zeros((num_envs, opening.shape[1] + 1, *(shape or ())), np.uint8)
        self._over = np.ones(num_envs, np.bool_)
        self._truncated = np.zeros(num_envs, np.bool_)
        self._lives = np.zeros(num_envs, np.int64)

    def begin(self, mask: np.ndarray, episodes: np.ndarray) -> Contexts:
        """See `World.begin`."""
        actions = self._opening[episodes % len(self._opening)]
        for row in np.flatnonzero(mask).tolist():
            game = self._games[row]
            self._frames[row, 0] = game.reset(seed=self._seed + int(episodes[row]))[0]
            self._lives[row] = 0  # unknown until the first step; none is lost with it
            for index, action in enumerate(actions[row]):
                self._frames[row, index + 1] = game.step(action)[0]
        self._over &= ~mask
        return Contexts(self._frames.copy(), actions, np.ones(self._frames.shape[:2], np.bool_))

    def step(self, actions: np.ndarray) -> Outcome:
        """See `World.step`."""
        rewards, points = np.zeros((2, self.num_envs))
        lives = self._lives.copy()
        observations = self._frames[:, -1].copy()
        for row in np.flatnonzero(~self._over).tolist():
            observation, rewards[row], terminated, truncated, info = self._games[row].step(actions[row])
            observations[row], points[row] = observation, info.get("raw_reward", rewards[row])
            self._over[row], self._truncated[row] = terminated or truncated, truncated and not terminated
            lives[row] = info.get("lives", 0)
        self._frames[:, -1] = observations
        life_lost, self._lives = lives < self._lives, lives
        terminated = self._over & ~self._truncated
        return Outcome(observations, rewards, terminated, points, life_lost, self._over & self._truncated)

    def close(self) -> None:
        """Close the games."""
        for game in self._games:
            game.close()


def real_world(env: Mapping[str, Any], starts: Contexts, num_envs: int, seed: int) -> RealWorld:
    """The game that a world model's ``config.env`` describes, opened as its start contexts are.

    Raises:
        ValueError: it names no game.
    """
    if "game" not in env:
        raise ValueError("This world model's config names no game under 'env', so there is none to play beside it.")

    def make() -> gym.Env[np.ndarray, Any]:
        return real.make(
            env["game"],
            ending=env.get("ending", "life"),
            repeat_action_probability=env.get("repeat_action_probability", 0.0),
        )

    return RealWorld(make, starts.actions, num_envs, seed)


def play(
    world: World,
    policy: Policy,
    episodes: int,
    horizon: int,
    seed: int,
    on_episode: Callable[[], object] = lambda: None,
) -> list[EpisodeResult]:
    """Let a policy play episodes 0 to ``episodes - 1``; where one ends, the next that waits begins.

    Args:
        world: where.
        policy: what plays; it sees frames only.
        episodes: how many.
        horizon: steps after which an episode is cut off.
        seed: of the policy.
        on_episode: called after each.

    Raises:
        ValueError: a reward is not a number.
        gymnasium.error.InvalidAction: the policy does what the world does not know.
    """
    rows = world.num_envs
    number = np.arange(rows)  # which episode each game plays
    running = number < episodes
    state = policy.begin(rows, seed)
    steps = np.zeros(rows, np.int64)
    rewards: list[list[tuple[int, float]]] = [[] for _ in range(rows)]
    points = np.zeros(rows)
    finished: dict[int, EpisodeResult] = {}
    contexts = world.begin(running, number)
    state = policy.reset(state, running, contexts)
    observations = contexts.frames[:, -1].copy()
    while running.any():
        actions, state = policy.act(state, observations, {})
        outcome = world.step(actions)
        observations = outcome.observations.copy()
        paid = outcome.rewards if outcome.points is None else outcome.rewards + outcome.points
        if not np.isfinite(paid[running]).all():
            where = number[running & ~np.isfinite(paid)].tolist()
            raise ValueError(f"Policy {policy.name}: a reward is not a number, in episode {where}.")
        steps += running
        for row in np.flatnonzero(running & (outcome.rewards != 0)).tolist():
            rewards[row].append((int(steps[row]), float(outcome.rewards[row])))
        if outcome.points is not None:
            points += np.where(running, outcome.points, 0)
        over = running & (outcome.terminated | (steps >= horizon))
        if outcome.truncated is not None:
            over |= running & outcome.truncated
        if outcome.life_lost is not None and (lost := running & outcome.life_lost & ~over).any():
            state = policy.reset(state, lost)  # as where its games are recorded
        if not over.any():
            continue
        for row in np.flatnonzero(over).tolist():
            own = None if outcome.points is None else float(points[row])
            finished[int(number[row])] = EpisodeResult(
                tuple(rewards[row]), int(steps[row]), bool(outcome.terminated[row]), own
            )
            rewards[row] = []
            on_episode()
        steps[over], points[over] = 0, 0
        number, running = _next(number, over, episodes, running)
        again = over & running
        if again.any():
            contexts = world.begin(again, number)
            state = policy.reset(state, again, contexts)
            observations[again] = contexts.frames[again, -1]
    return [finished[index] for index in range(episodes)]


def _next(number: np.ndarray, over: np.ndarray, episodes: int, running: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hand the waiting episodes to the games that are over, in their order; the others stand still."""
    waiting: Sequence[int] = range(int(number.max()) + 1, episodes)
    number, running = number.copy(), running & ~over
    for row, episode in zip(np.flatnonzero(over).tolist(), waiting, strict=False):
        number[row], running[row] = episode, True
    return number, running
