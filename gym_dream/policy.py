"""What acts: a batch of observations in, a batch of actions out, with a state carried by the caller.

A policy itself is a constant. What it remembers between steps (random streams, recent frames, a recurrent memory) lives
in a state that `begin` makes and `reset` and `act` hand on. A state handed in is used up: carry the one handed back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from gym_dream.data.contexts import Contexts


class Policy(Protocol):
    """Acts in a batch of environments, real or dreamt."""

    @property
    def name(self) -> str:
        """Kind and settings, such that `load_policy` understands it; recorded with every episode."""
        ...

    def begin(self, num_envs: int, seed: int) -> Any:
        """The state for a batch of fresh environments."""
        ...

    def reset(self, state: Any, mask: np.ndarray, contexts: Contexts | None = None) -> Any:
        """Forget what ended, and catch up on what came before where that is known.

        Args:
            state: as `begin` or the last call handed it back.
            mask: bool (N,), the environments that begin a new episode.
            contexts: N of them, of which the rows in `mask` count. The last frame of a context is the observation that
                the next `act` will see, so a policy catches up on the frames before it.
        """
        ...

    def act(self, state: Any, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
        """Decide.

        Args:
            state: as `begin` or the last call handed it back.
            observations: uint8 (N, H, W, C).
            info: what the environments say beside, each entry with N rows.

        Returns:
            Actions int64 (N,) and the state to carry on.
        """
        ...


def streams(num_envs: int, seed: int, purpose: int) -> list[np.random.Generator]:
    """One random stream a row, the same whatever the number of rows; another purpose gives other streams."""
    return [np.random.default_rng((seed, purpose, row)) for row in range(num_envs)]


def short(number: float) -> str:
    """A number in a policy's name, as people would write it, and exactly: 0.1, 1, 0.123456789."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(float(number))


@dataclass(frozen=True)
class RandomPolicy:
    """Every action equally likely."""

    num_actions: int

    @property
    def name(self) -> str:
        """Always ``"random"``."""
        return "random"

    def begin(self, num_envs: int, seed: int) -> list[np.random.Generator]:
        """The rows' random streams."""
        return streams(num_envs, seed, purpose=0)

    def reset(self, state: Any, mask: np.ndarray, contexts: Contexts | None = None) -> Any:
        """Nothing to forget."""
        return state

    def act(self, state: Any, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
        """Roll each row's die."""
        return np.array([stream.integers(self.num_actions) for stream in state]), state


@dataclass(frozen=True)
class PersistentPolicy:
    """Random actions, each held for a while: at every step another is drawn with probability ``1 - repeat``."""

    repeat: float
    num_actions: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.repeat < 1.0:
            raise ValueError(f"repeat is a probability below 1, got {self.repeat}.")

    @property
    def name(self) -> str:
        """E.g. ``"persistent(repeat=0.9)"``."""
        return f"persistent(repeat={short(self.repeat)})"

    def begin(self, num_envs: int, seed: int) -> tuple[list[np.random.Generator], np.ndarray]:
        """The rows' random streams, and no action to hold yet (-1)."""
        return streams(num_envs, seed, purpose=4), np.full(num_envs, -1)

    def reset(self, state: Any, mask: np.ndarray, contexts: Contexts | None = None) -> Any:
        """Let go of the action held."""
        random, held = state
        return random, np.where(mask, -1, held)

    def act(self, state: Any, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
        """Hold on or draw anew."""
        random, held = state
        keep = np.array([stream.random() < self.repeat for stream in random]) & (held >= 0)
        drawn = np.array([stream.integers(self.num_actions) for stream in random])
        actions = np.where(keep, held, drawn)
        return actions, (random, actions)


@dataclass(frozen=True)
class EpsilonPolicy:
    """Another policy, overruled at every step with probability `epsilon` by a random action."""

    inner: Policy
    epsilon: float
    num_actions: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon <= 1.0:
            raise ValueError(f"epsilon is a probability between 0 and 1, got {self.epsilon}.")

    @property
    def name(self) -> str:
        """E.g. ``"scripted(noise=0.03)+epsilon=0.1"``."""
        return f"{self.inner.name}+epsilon={short(self.epsilon)}"

    def begin(self, num_envs: int, seed: int) -> tuple[Any, list[np.random.Generator]]:
        """The other policy's state, and random streams of this one's own."""
        return self.inner.begin(num_envs, seed), streams(num_envs, seed, purpose=1)

    def reset(self, state: Any, mask: np.ndarray, contexts: Contexts | None = None) -> Any:
        """Reset the other policy."""
        inner, random = state
        return self.inner.reset(inner, mask, contexts), random

    def act(self, state: Any, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
        """Ask the other policy, then maybe overrule it."""
        inner, random = state
        actions, inner = self.inner.act(inner, observations, info)
        overruled = np.array([stream.random() < self.epsilon for stream in random])
        dice = np.array([stream.integers(self.num_actions) for stream in random])
        return np.where(overruled, dice, actions), (inner, random)


class AgentLoader(Protocol):
    """How agents are loaded: `gym_dream.agents.load_agent`, which is handed in, since this package knows no agents."""

    def __call__(self, folder: Path, env: Mapping[str, Any], *, greedy: bool) -> Policy:
        """The agent in a folder, made sure to be one for the environment."""
        ...


def load_policy(
    spec: str,
    env: Mapping[str, Any],
    *,
    source: Literal["pixels", "ram"] = "pixels",
    load_agent: AgentLoader | None = None,
) -> Policy:
    """The policy that a few words describe.

    Args:
        spec: ``random``; ``persistent(repeat=0.9)``, random actions held for a while; ``scripted``, a player of
            Breakout, or ``scripted(noise=0.1,lag=2)`` (see `gym_dream.breakout.ScriptedBreakout`); ``agent:FOLDER``,
            an agent of `gym_dream.agents` that draws its actions, ``agent(greedy):FOLDER``, the same at its best;
            ``sb3:FILE.zip``, a model saved by Stable-Baselines3 or sb3-contrib, which unpickles: only open files you
            trust. Each may end in ``+epsilon=0.1`` for a share of random actions.
        env: the specification of the environment it is to play: `gym_dream.real.env_spec` or a world model's
            `config.env`.
        source: where a scripted player looks: dreams have pixels only.
        load_agent: what opens ``agent:FOLDER``: `gym_dream.agents.load_agent`.

    Raises:
        ValueError: no policy has that name or those settings, or there is none for this game; an agent, and nothing to
            load it with.
        FileNotFoundError: there is no such file.
    """
    base, plus, epsilon = spec.partition("+epsilon=")
    num_actions = len(env["action_meanings"])
    if plus:
        inner = load_policy(base, env, source=source, load_agent=load_agent)
        return EpsilonPolicy(inner, _number(float, epsilon, spec), num_actions)
    if base == "random":
        return RandomPolicy(num_actions)
    if base.startswith("sb3:"):
        from gym_dream.sb3_policy import load_sb3_policy

        return load_sb3_policy(Path(base.removeprefix("sb3:")), num_actions, tuple(env["frame_shape"]))
    if agent := re.fullmatch(r"agent(\(greedy\))?:(.*)", base):
        if load_agent is None:
            raise ValueError(
                f"To load {spec!r}, hand on the function that loads agents: load_policy(…, load_agent=gym_dream.agents."
                "load_agent)."
            )
        return load_agent(Path(agent[2]), env, greedy=agent[1] is not None)
    if persistent := re.fullmatch(r"persistent(?:\(repeat=(.*)\))?", base):
        return PersistentPolicy(_number(float, persistent[1] or "0.9", spec), num_actions)
    scripted = re.fullmatch(r"scripted(?:\((.*)\))?", base)
    if scripted is None:
        raise ValueError(
            f"Unknown policy {spec!r}: expected 'random', 'persistent(repeat=0.9)', 'scripted', "
            "'scripted(noise=0.1,lag=2)', 'agent:FOLDER', 'agent(greedy):FOLDER' or 'sb3:FILE.zip', each with or "
            "without '+epsilon=0.1' behind it."
        )
    if env.get("game") != "Breakout":
        raise ValueError(
            f"There is a scripted player for Breakout only, not for {env.get('game', 'this environment')}: use "
            "'random', 'agent:FOLDER' or 'sb3:FILE.zip'."
        )
    from gym_dream.breakout import ScriptedBreakout

    settings: dict[str, Any] = {}
    for setting in filter(None, (scripted[1] or "").split(",")):
        key, _, value = setting.partition("=")
        if key not in ("noise", "lag"):
            raise ValueError(f"Unknown setting {setting!r} in {spec!r}: expected noise=NUMBER or lag=STEPS.")
        settings[key] = _number(float if key == "noise" else int, value, spec)
    return ScriptedBreakout(source, **settings)


def _number(kind: type, text: str, spec: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"Expected a number of type {kind.__name__} in {spec!r}, got {text!r}.") from None
