"""How far a dream can be trusted: the return of the same policies in the dream and in the real game."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import Error as GymnasiumError
from tqdm import tqdm

from gym_dream.configuration import to_json
from gym_dream.data.contexts import Contexts, start_contexts
from gym_dream.data.store import EpisodeStore
from gym_dream.dynamics import DreamModel
from gym_dream.evaluation.play import DreamWorld, EpisodeResult, World, play, real_world
from gym_dream.evaluation.statistics import Agreement, Estimate, agreement, estimate
from gym_dream.files import read_json, write_json
from gym_dream.policy import Policy, load_policy
from gym_dream.settings import open_model

HORIZONS = (15, 50, 200, 1000)
WORLDS = ("dream", "real")


@dataclass(frozen=True)
class Settings:
    """All that fixes the figures, beside the policies."""

    env: str = "Dream/Breakout-v0"
    """The id of the dream."""
    model: str | None = None
    """Another world model to dream with: a folder, a shipped name or "hub:…"."""
    episodes: int = 24
    """Episodes of each policy in the dream."""
    real_episodes: int = 100
    """Episodes of each policy in the real game."""
    horizon: int = 200
    """Steps after which an episode is cut off, dreamt or real."""
    num_envs: int = 8
    """Games at a time. Fewer than episodes, so that where one ends early the next takes its place in the batch."""
    seed: int = 0
    """Episode i draws from seed + i, in either world."""
    starts: str | None = None
    """A store of games held out from training, whose openings the dreams begin from; None: the model's own."""
    device: str = "auto"
    precision: str = "auto"
    model_kwargs: dict[str, Any] | None = None
    """The model's own settings, such as num_denoising_steps."""

    def __post_init__(self) -> None:
        for name in ("episodes", "real_episodes", "horizon", "num_envs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}.")

    @property
    def horizons(self) -> tuple[int, ...]:
        """Horizons at which one rollout's return is read off."""
        return (*(h for h in HORIZONS if h < self.horizon), self.horizon)


@dataclass(frozen=True)
class WorldFigures:
    """One policy in one world."""

    returns: Estimate
    """Sum of reward signs of an episode."""
    length: Estimate
    """Steps of an episode."""
    reward_rate: float
    """Rewards a step, over all episodes."""
    ended: float
    """Share of the episodes that ended before the horizon."""
    points: Estimate | None
    """The game's own score; None in a dream."""
    at_horizon: dict[int, Estimate]
    """The return of the first so many steps of the same episodes."""


@dataclass(frozen=True)
class PolicyFigures:
    """One policy in both worlds."""

    name: str
    family: str
    dream: WorldFigures
    real: WorldFigures


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    settings: Settings
    policies: tuple[PolicyFigures, ...]
    failed: dict[str, str]
    """Policies that could not be played, and why."""
    overall: dict[int, Agreement]
    """How dream and real returns agree over all policies, by horizon."""
    families: dict[str, Agreement]
    """The same within each family of at least three policies, at the full horizon."""


def compare(
    policies: Sequence[str | Policy],
    env: str | Settings = "Dream/Breakout-v0",
    *,
    world_model: DreamModel | None = None,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Comparison:
    """Play policies in a dream and in the game that it dreams of, and compare their returns.

    An episode is what the model's ``config.env`` calls one (for Atari the first life of a game), begun by the same
    opening actions and cut off at the same horizon in both worlds. A policy that cannot be played is left out of the
    figures and named in `Comparison.failed`.

    Args:
        policies: specifications for `gym_dream.policy.load_policy`, or policies.
        env: the id of the dream, or all settings at once.
        world_model: dreams in place of the one that the settings name.
        out: a folder that keeps every policy's episodes as soon as they are played; None keeps nothing.
        resume: take from ``out`` what was played there with the same settings.
        progress: show a progress bar.
        **settings: fields of `Settings`.

    Raises:
        FileExistsError: ``out`` holds played episodes already, and ``resume`` is not set.
        FileNotFoundError: no such model or store.
        ValueError: no policies, one given twice, settings that cannot be, or that are not those of ``out``.
    """
    chosen = Settings(**{"env": env, **settings}) if isinstance(env, str) else env
    model = open_model(chosen.model or _model_of(chosen.env)) if world_model is None else world_model
    spec = model.config.env
    if "game" not in spec:
        raise ValueError("This world model's config names no game under 'env', so there is nothing to compare it with.")
    names = [policy if isinstance(policy, str) else policy.name for policy in policies]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Expected at least one policy and none twice, got {', '.join(names) or 'none'}.")
    starts = model.starts if chosen.starts is None else _starts(Path(chosen.starts), model)
    num_envs = min(chosen.num_envs, max(chosen.episodes, chosen.real_episodes))
    dynamics = model.dynamics(device=chosen.device, precision=chosen.precision, **(chosen.model_kwargs or {}))
    real = real_world(spec, starts, num_envs, chosen.seed)
    worlds: dict[str, tuple[World, int]] = {
        "dream": (DreamWorld(dynamics, starts, min(num_envs, chosen.episodes), chosen.seed), chosen.episodes),
        "real": (real, chosen.real_episodes),
    }
    kept = None if out is None else _Kept(out, chosen, resume)
    try:
        return compare_in(policies, worlds, spec, chosen, kept=kept, progress=progress)
    finally:
        real.close()


def compare_in(
    policies: Sequence[str | Policy],
    worlds: Mapping[str, tuple[World, int]],
    spec: Mapping[str, Any],
    settings: Settings,
    *,
    kept: _Kept | None = None,
    progress: bool = False,
) -> Comparison:
    """`compare` in worlds of your own: by name ("dream" and "real") each world and the number of episodes in it."""
    figures, failed = [], {}
    total = len(policies) * sum(episodes for _, episodes in worlds.values())
    with tqdm(total=total, unit="episode", disable=not progress) as bar:
        for given in policies:
            name = given if isinstance(given, str) else given.name
            bar.set_postfix_str(name)
            try:
                policy = load_policy(given, spec) if isinstance(given, str) else given
                played = {}
                for world, (where, episodes) in worlds.items():
                    results = None if kept is None else kept.read(name, world)
                    if results is None:
                        results = play(where, policy, episodes, settings.horizon, settings.seed, bar.update)
                        if kept is not None:
                            kept.write(name, world, results)
                    else:
                        bar.update(episodes)
                    played[world] = results
            except (ValueError, OSError, ImportError, GymnasiumError) as error:
                failed[name] = str(error)
                continue
            dream, real = (_figures(played[world], settings.horizons) for world in WORLDS)
            figures.append(PolicyFigures(name, family(name), dream, real))
    return summarise(settings, figures, failed)


def summarise(settings: Settings, figures: Sequence[PolicyFigures], failed: Mapping[str, str]) -> Comparison:
    """How the worlds agree over the policies."""

    def agree(group: Sequence[PolicyFigures], horizon: int) -> Agreement:
        real = {p.name: p.real.at_horizon[horizon].mean for p in figures}
        unit = max(real.values()) - real.get("random", min(real.values())) if real else 0.0
        dream = [p.dream.at_horizon[horizon].mean for p in group]
        return agreement(dream, [real[p.name] for p in group], unit)

    members: dict[str, list[PolicyFigures]] = {}
    for policy in figures:
        members.setdefault(policy.family, []).append(policy)
    return Comparison(
        settings,
        tuple(figures),
        dict(failed),
        overall={horizon: agree(figures, horizon) for horizon in settings.horizons},
        families={name: agree(group, settings.horizon) for name, group in members.items() if len(group) >= 3},
    )


def family(name: str) -> str:
    """What kind of policy a specification names, whatever its settings: its name without noise and epsilon."""
    base = re.sub(r"\(.*?\)", "", name.partition("+epsilon=")[0])
    return Path(base).stem if base.startswith("sb3:") else base


def with_epsilons(policies: Sequence[str], epsilons: Sequence[float]) -> list[str]:
    """Each policy once for every share of random actions; what is random itself, or has a share already, once."""
    grid = []
    for policy in policies:
        plain = policy == "random" or policy.startswith("persistent") or "+epsilon=" in policy
        grid += [policy] if plain else [f"{policy}+epsilon={e:g}" if e else policy for e in epsilons]
    return grid


def _figures(results: Sequence[EpisodeResult], horizons: Sequence[int]) -> WorldFigures:
    lengths = [result.length for result in results]
    at_horizon = {h: estimate([result.total(h) for result in results]) for h in horizons}
    returns = [result.total(horizons[-1]) for result in results]
    points = [result.points for result in results]
    return WorldFigures(
        returns=at_horizon[horizons[-1]],
        length=estimate(lengths),
        reward_rate=sum(returns) / sum(lengths),
        ended=float(np.mean([result.terminated for result in results])),
        points=None if None in points else estimate([p for p in points if p is not None]),
        at_horizon=at_horizon,
    )


def _model_of(env: str) -> str:
    model = gym.spec(env).kwargs.get("model")
    if model is None:
        raise ValueError(f"{env} needs a world model: name one (model), or choose an id such as Dream/Breakout-v0.")
    return model


def _starts(folder: Path, model: DreamModel) -> Contexts:
    return start_contexts(EpisodeStore(folder).load_all(), model.starts.length)


class _Kept:
    """The folder in which played episodes are kept, one file for each policy and world."""

    def __init__(self, out: Path, settings: Settings, resume: bool) -> None:
        self._folder = out / "episodes"
        path = self._folder / "settings.json"
        wanted = to_json(settings)
        if not path.exists():
            write_json(path, wanted)
            return
        if not resume:
            raise FileExistsError(f"{out} already holds an evaluation. Go on with it by --resume, or choose another.")
        there = read_json(path)
        if there != wanted:
            other = [f"{name} {there.get(name)!r}" for name in wanted if there.get(name) != wanted[name]]
            raise ValueError(f"{out} was begun with other settings ({', '.join(other)}): choose another folder.")

    def read(self, policy: str, world: str) -> list[EpisodeResult] | None:
        path = self._path(policy, world)
        if not path.exists():
            return None
        try:
            stored = read_json(path)
            if stored["policy"] != policy:
                raise ValueError(f"{path} holds the episodes of {stored['policy']}, not of {policy}: remove it.")
            return [
                EpisodeResult(**e | {"rewards": tuple((int(s), float(r)) for s, r in e["rewards"])})
                for e in stored["episodes"]
            ]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} does not hold played episodes: remove it, and they are played again.") from error

    def write(self, policy: str, world: str, results: Sequence[EpisodeResult]) -> None:
        write_json(self._path(policy, world), {"policy": policy, "episodes": [asdict(result) for result in results]})

    def _path(self, policy: str, world: str) -> Path:
        digest = hashlib.sha256(policy.encode()).hexdigest()[:8]  # names of files may differ in what is replaced here
        return self._folder / f"{re.sub(r'[^A-Za-z0-9.=,+-]', '_', policy)}-{digest}-{world}.json"
