"""How far a dream can be trusted: the return of the same policies in the dream and in the real game."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gym_dream.configuration import to_json
from gym_dream.data.contexts import Contexts, start_contexts
from gym_dream.data.store import EpisodeStore
from gym_dream.dynamics import DreamModel
from gym_dream.evaluation.kept import KeptEpisodes
from gym_dream.evaluation.play import DreamWorld, EpisodeResult, World, play, real_world
from gym_dream.evaluation.statistics import Agreement, Estimate, agreement, estimate
from gym_dream.files import digest
from gym_dream.policy import Policy, load_policy, short
from gym_dream.registration import model_of
from gym_dream.settings import open_model
from gym_dream.world_model import resolve

HORIZONS = (15, 50, 200, 1000)
WORLDS = ("dream", "real")
LoadPolicy = Callable[[str, Mapping[str, Any]], Policy]


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
    """Of the worlds, where episode i draws from seed + i, and of the policies, whose random numbers run on from episode
    to episode."""
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
    load: LoadPolicy = load_policy,
    **settings: Any,
) -> Comparison:
    """Play policies in a dream and in the game that it dreams of, and compare their returns.

    An episode is what the model's ``config.env`` calls one (for Atari the first life of a game), begun by the same
    opening actions and cut off at the same horizon in both worlds. A policy that cannot be played is left out of the
    figures and named in `Comparison.failed`.

    Args:
        policies: specifications for ``load``, or policies.
        env: the id of the dream, or all settings at once.
        world_model: dreams in place of the one that the settings name.
        out: a folder that keeps every policy's episodes as soon as they are played; None keeps nothing.
        resume: take from ``out`` what was played there with the same settings and the same files of model, starts and
            policies (a ``world_model`` or policy that is handed in as an object is not compared).
        progress: show a progress bar.
        load: makes policies of specifications, given the environment.
        **settings: fields of `Settings`.

    Raises:
        FileExistsError: ``out`` holds played episodes already, and ``resume`` is not set.
        FileNotFoundError: no such model or store.
        ImportError: the extra ``eval`` is not installed.
        ValueError: no policies, one given twice, settings that cannot be, or that are not those of ``out``; starts of
            another game.
    """
    chosen = Settings(**{"env": env, **settings}) if isinstance(env, str) else replace(env, **settings)
    names = [policy if isinstance(policy, str) else policy.name for policy in policies]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Expected at least one policy and none twice, got {', '.join(names) or 'none'}.")
    if missing := [module for module in ("scipy", "matplotlib") if find_spec(module) is None]:
        raise ImportError(f"Comparing needs {' and '.join(missing)}: pip install 'gym-dream[eval]'.")
    contents: list[Path] = []  # of the files that fix the figures
    if world_model is None:
        folder = resolve(chosen.model or model_of(chosen.env))
        contents += [*folder.glob("*.safetensors"), folder / "config.json"]
    model = open_model(folder) if world_model is None else world_model
    spec = model.config.env
    if "game" not in spec:
        raise ValueError("This world model's config names no game under 'env', so there is nothing to compare it with.")
    starts = model.starts
    if chosen.starts is not None:
        store = EpisodeStore(chosen.starts)
        starts = _starts(store, spec, starts.length)
        contents += store.paths
    kept = None if out is None else KeptEpisodes(out, to_json(chosen) | {"digest": digest(contents)}, resume=resume)
    num_envs = min(chosen.num_envs, max(chosen.episodes, chosen.real_episodes))
    dynamics = model.dynamics(device=chosen.device, precision=chosen.precision, **(chosen.model_kwargs or {}))
    dream = DreamWorld(dynamics, starts, min(num_envs, chosen.episodes), chosen.seed)
    real = real_world(spec, starts, num_envs, chosen.seed)
    try:
        worlds: dict[str, tuple[World, int]] = {"dream": (dream, chosen.episodes), "real": (real, chosen.real_episodes)}
        return compare_in(policies, worlds, spec, chosen, kept=kept, progress=progress, load=load)
    finally:
        real.close()


def compare_in(
    policies: Sequence[str | Policy],
    worlds: Mapping[str, tuple[World, int]],
    spec: Mapping[str, Any],
    settings: Settings,
    *,
    kept: KeptEpisodes | None = None,
    progress: bool = False,
    load: LoadPolicy = load_policy,
) -> Comparison:
    """`compare` in worlds of your own: by name ("dream" and "real") each world and the number of episodes in it."""
    figures, failed = [], {}
    total = len(policies) * sum(episodes for _, episodes in worlds.values())
    with tqdm(total=total, unit="episode", disable=not progress) as bar:
        for given in policies:
            name = given if isinstance(given, str) else given.name
            bar.set_postfix_str(name)
            played = {}
            for world, (where, episodes) in worlds.items():
                results = None if kept is None else kept.read(name, world, episodes)
                if results is None:
                    try:
                        policy = load(given, spec) if isinstance(given, str) else given
                        results = play(where, policy, episodes, settings.horizon, settings.seed, bar.update)
                    except Exception as error:  # whatever is wrong with one policy, the others are played
                        failed[name] = f"{type(error).__name__}: {error}"
                        break
                    if kept is not None:
                        kept.write(name, world, results)
                else:
                    bar.update(episodes)
                played[world] = results
            if name in failed:
                continue
            dream, real = (world_figures(played[world], settings.horizons) for world in WORLDS)
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
    base = name.partition("+epsilon=")[0]
    return base if base.startswith(("sb3:", "agent")) else re.sub(r"\(.*?\)", "", base)


def default_policies(env: Mapping[str, Any]) -> tuple[str, ...]:
    """Players of an environment that come with the package, from random to good."""
    random = ("random", "persistent(repeat=0.9)")
    return (*random, "scripted(noise=0.03)", "scripted(noise=0.5)") if env.get("game") == "Breakout" else random


def with_epsilons(policies: Sequence[str], epsilons: Sequence[float]) -> list[str]:
    """Each policy once for every share of random actions; what is random itself, or has a share already, once."""
    grid = []
    for policy in policies:
        plain = policy == "random" or policy.startswith("persistent") or "+epsilon=" in policy
        grid += [policy] if plain else [f"{policy}+epsilon={short(e)}" if e else policy for e in epsilons]
    return grid


def world_figures(results: Sequence[EpisodeResult], horizons: Sequence[int]) -> WorldFigures:
    """What the episodes of a policy in a world come to.

    Args:
        results: the episodes, at least one.
        horizons: steps to read the return off at; the last is the one that the episodes were cut off at.
    """
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


def _starts(store: EpisodeStore, spec: Mapping[str, Any], length: int) -> Contexts:
    episodes = store.load_all()
    there = store.env or {}
    keys = ("id", "action_meanings", "frame_shape", "frame_skip")
    if different := [f"{key} {there.get(key)!r}" for key in keys if there.get(key) != spec.get(key)]:
        raise ValueError(
            f"{store.folder} holds episodes of another environment than the model dreams of: {', '.join(different)}."
        )
    return start_contexts(episodes, length)
