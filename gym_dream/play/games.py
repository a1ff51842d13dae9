"""The two worlds behind one face, and a table at which one of them is played by a person or a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.spaces import Discrete

from gym_dream import real
from gym_dream.data.contexts import Contexts
from gym_dream.data.game import Step, take_step
from gym_dream.dynamics import DreamModel
from gym_dream.env import DreamEnv
from gym_dream.models.diamond import DiamondDynamics
from gym_dream.play.session import NO_HORIZON, WorldName
from gym_dream.policy import Policy


class Beginning(NamedTuple):
    """How a game begins."""

    frame: np.ndarray  # uint8 (H, W, 3)
    context: Contexts | None  # what the frame follows on, for policies that remember; None: nothing
    lives: int | None  # None in a dream, which does not say


class Outcome(NamedTuple):
    """What one step of a game led to."""

    frame: np.ndarray  # uint8 (H, W, 3)
    reward: float  # a sign
    points: float | None  # the game's own; None in a dream
    lives: int | None
    ending: str  # what ended with this step, in words; "" while the episode goes on
    over: bool  # a new game must begin
    step: Step | None  # to be recorded; None in a dream


class Game(Protocol):
    """One world, played one game at a time."""

    title: str
    """What it is called in films."""

    def begin(self, seed: int) -> Beginning:
        """Begin a new game, fixed by the seed."""

    def step(self, action: np.int64) -> Outcome:
        """Play one action."""

    def close(self) -> None:
        """Let go of what it holds."""


class DreamGame:
    """A dream, with its horizon and denoising steps at hand while it goes on."""

    title = "Dream"

    def __init__(self, world_model: DreamModel, **settings: Any) -> None:
        """Open a dream.

        Args:
            world_model: what dreams.
            **settings: of `gym_dream.env.DreamEnv`, such as ``device``.

        Raises:
            ValueError: a model whose actions are not a few to choose from, or a setting that cannot be.
        """
        self._env = DreamEnv(world_model, **settings)
        if not isinstance(self._env.action_space, Discrete):
            raise ValueError(f"Only a choice of actions can be played here, got {self._env.action_space}.")

    @property
    def denoising_steps(self) -> int | None:
        """Passes of the denoiser a frame; None for a model of another kind."""
        dynamics = self._env.dream.dynamics
        return dynamics.sampler.num_denoising_steps if isinstance(dynamics, DiamondDynamics) else None

    def keys_to_action(self) -> dict[str, int]:
        """The action of each combination of keys, e.g. ``{"d": 2}``.

        Raises:
            ValueError: the world model does not say.
        """
        return {"".join(keys): action for keys, action in self._env.get_keys_to_action().items()}

    def action_meanings(self) -> list[str]:
        """The name of each action.

        Raises:
            ValueError: the world model does not say.
        """
        return self._env.get_action_meanings()

    def set(self, horizon: int, denoising_steps: int | None = None) -> None:
        """Change the settings from the next step on.

        Args:
            horizon: steps until a dream is cut off, -1 for never.
            denoising_steps: passes of the denoiser a frame; None: as they are.

        Raises:
            ValueError: a horizon that cannot be.
        """
        if horizon != NO_HORIZON and horizon < 1:
            raise ValueError(f"The horizon must be at least 1 step, or {NO_HORIZON} for none; got {horizon}.")
        self._env.dream.horizon = horizon
        dynamics = self._env.dream.dynamics
        if denoising_steps is not None and isinstance(dynamics, DiamondDynamics):
            dynamics.sampler = replace(dynamics.sampler, num_denoising_steps=denoising_steps)

    def begin(self, seed: int) -> Beginning:
        """See `Game.begin`."""
        frame, info = self._env.reset(seed=seed)
        context = Contexts(*(info["context"][name][None] for name in ("frames", "actions", "real")))
        return Beginning(frame, context, None)

    def step(self, action: np.int64) -> Outcome:
        """See `Game.step`."""
        frame, reward, terminated, truncated, _ = self._env.step(action)
        ending = "dream ended" if terminated else "horizon reached" if truncated else ""
        return Outcome(frame, reward, None, None, ending, bool(ending), None)

    def close(self) -> None:
        """See `Game.close`."""
        self._env.close()


class RealGame:
    """The game itself, whole games with all their lives, as `gym_dream.data.collect` plays and records them."""

    title = "Real game"

    def __init__(self, env: Mapping[str, Any]) -> None:
        """Open the game that a specification names.

        Raises:
            ValueError: there is none with the same frames and actions (see `has_real`).
        """
        if not has_real(env):
            raise ValueError("This model dreams of no game that is installed here: there is only the dream to play.")
        self._env = real.make(env["game"], ending="game", repeat_action_probability=_chance(env))
        self._frame = np.zeros(0, np.uint8)
        self._lives = 0

    def begin(self, seed: int) -> Beginning:
        """See `Game.begin`."""
        self._frame, info = self._env.reset(seed=seed)
        self._lives = info["lives"]
        return Beginning(self._frame, None, self._lives)

    def step(self, action: np.int64) -> Outcome:
        """See `Game.step`."""
        step, _ = take_step(self._env, self._frame, action, self._lives)
        self._frame, self._lives = step.next_frame, step.lives
        over = step.game_over or step.truncated
        ending = "game over" if over else "life lost" if step.life_lost else ""
        return Outcome(step.next_frame, float(np.sign(step.reward)), step.reward, step.lives, ending, over, step)

    def close(self) -> None:
        """See `Game.close`."""
        self._env.close()


def has_real(env: Mapping[str, Any]) -> bool:
    """Whether the real game that a model dreams of is one of `gym_dream.real`, with the same frames and actions."""
    try:
        there = real.env_spec(env.get("game", ""))
    except ValueError:
        return False
    return all(list(env.get(key, there[key])) == there[key] for key in ("frame_shape", "action_meanings"))


def real_spec(env: Mapping[str, Any]) -> dict[str, Any]:
    """The specification of what `RealGame` plays, for its episodes: the same as of those that `collect` records."""
    return real.env_spec(env["game"], repeat_action_probability=_chance(env))


def _chance(env: Mapping[str, Any]) -> float:
    return float(env.get("repeat_action_probability", 0.0))


@dataclass(frozen=True)
class Tally:
    """What is shown of a game beside its frame. An episode is a dream, or a life of the real game.

    Attributes:
        step: of the episode.
        action: the last one; None before the first.
        reward: of the last step, a sign.
        total: the episode's return so far.
        ending: what ended with the last step, in words; "" while the episode goes on.
        last_return: of the episode before; None if there was none.
        lives: left in the real game; None in a dream.
        score: the real game's own points so far; None in a dream.
    """

    step: int = 0
    action: int | None = None
    reward: float = 0.0
    total: float = 0.0
    ending: str = ""
    last_return: float | None = None
    lives: int | None = None
    score: float | None = None

    def begun(self, lives: int | None) -> Tally:
        """The tally at the beginning of a new game; what an unfinished episode paid is forgotten."""
        last_return = self.total if self.ending else self.last_return
        return Tally(last_return=last_return, lives=lives, score=None if lives is None else 0.0)

    def after(self, action: int, outcome: Outcome) -> Tally:
        """The tally after a step."""
        before = Tally(last_return=self.total, score=self.score) if self.ending else self
        return Tally(
            step=before.step + 1,
            action=action,
            reward=outcome.reward,
            total=before.total + outcome.reward,
            ending=outcome.ending,
            last_return=before.last_return,
            lives=outcome.lives,
            score=None if outcome.points is None else (before.score or 0.0) + outcome.points,
        )


class Table:
    """One game being played: what is seen, the tally, and what the policy remembers.

    The policy watches while a person plays, so that it can take over at any moment. After the last step of a game the
    frame stays; the step after that begins a new game.

    Attributes:
        game: what is played.
        frame: uint8 (H, W, 3), what is seen.
        tally: what is told.
        over: whether the next step begins a new game.
    """

    def __init__(self, game: Game, policy: Policy) -> None:
        """Sit down; `begin` comes next."""
        self.game = game
        self.frame = np.zeros(0, np.uint8)
        self.tally = Tally()
        self.over = True
        self._policy = policy
        self._memory: Any = None

    def begin(self, seed: int) -> None:
        """Begin a new game; the seed fixes the game's and the policy's random numbers."""
        beginning = self.game.begin(seed)
        self._memory = self._policy.begin(1, seed)
        if beginning.context is not None:
            self._memory = self._policy.reset(self._memory, np.array([True]), beginning.context)
        self.frame = beginning.frame
        self.tally = self.tally.begun(beginning.lives)
        self.over = False

    def step(self, action: int | None) -> Outcome:
        """Play one action, the policy's own for None."""
        chosen, self._memory = self._policy.act(self._memory, self.frame[None], {})
        played = np.int64(action) if action is not None else chosen[0]
        outcome = self.game.step(played)
        self.frame = outcome.frame
        self.tally = self.tally.after(int(played), outcome)
        self.over = outcome.over
        if outcome.ending and not outcome.over:
            self._memory = self._policy.reset(self._memory, np.array([True]))
        return outcome


class Tables:
    """A table in each world, laid when it is first asked for; the one that nobody looks at waits."""

    def __init__(self, world_model: DreamModel, policy: Policy, seed: int, **dream_settings: Any) -> None:
        """Open the dream; the real game is opened when it is wanted.

        Args:
            world_model: what dreams.
            policy: sits at both.
            seed: game i of either world is played with ``seed + i``.
            **dream_settings: of `gym_dream.env.DreamEnv`.

        Raises:
            ValueError: as `DreamGame`.
        """
        self.dream = DreamGame(world_model, **dream_settings)
        self._env, self._policy = world_model.config.env, policy
        self._tables: dict[WorldName, Table] = {}
        self._seeds: dict[WorldName, int] = {"dream": seed, "real": seed}

    def at(self, world: WorldName) -> Table:
        """The table of a world, with a game going on.

        Raises:
            ValueError: there is no such real game.
        """
        if world not in self._tables:
            game: Game = self.dream if world == "dream" else RealGame(self._env)
            self._tables[world] = Table(game, self._policy)
            self.begin(world)
        return self._tables[world]

    def begin(self, world: WorldName, seed: int | None = None) -> None:
        """Begin a new game at a table; without a seed of its own it takes the next."""
        if seed is None:
            seed = self._seeds[world]
            self._seeds[world] += 1
        self._tables[world].begin(seed)

    def close(self) -> None:
        """Close the games."""
        self.dream.close()
        for table in self._tables.values():
            table.game.close()
