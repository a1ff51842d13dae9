"""Dream against real, on a game of colours of which perfect and broken dreams are known."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from gym_dream import cli, real
from gym_dream.configuration import to_json
from gym_dream.data import Contexts, EpisodeStore
from gym_dream.dynamics import ContextTensors
from gym_dream.evaluation.kept import KeptEpisodes
from gym_dream.evaluation.play import DreamWorld, EpisodeResult, RealWorld, World, play, real_world
from gym_dream.evaluation.report import text, write_report
from gym_dream.evaluation.returns import (
    Comparison,
    Settings,
    compare,
    compare_in,
    default_policies,
    family,
    with_epsilons,
)
from gym_dream.evaluation.statistics import agreement, estimate
from gym_dream.files import digest
from gym_dream.noise import RowNoise
from gym_dream.policy import EpsilonPolicy, PersistentPolicy, Policy, RandomPolicy, load_policy

SHAPE = (4, 4, 3)
END = 3
SPEC = {"game": "Colours", "action_meanings": ["NOOP", "A", "B", "C"], "frame_shape": list(SHAPE), "ending": "life"}


def picture(colour: Any) -> np.ndarray:
    return np.full(SHAPE, 80 * int(colour), np.uint8)


class Colours(gym.Env[np.ndarray, np.int64]):
    """Naming the colour in sight (0, 1 or 2) pays 1, action 3 ends the episode; the next colour is random."""

    observation_space = Box(0, 255, SHAPE, np.uint8)
    action_space = Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.colour = 0
        return picture(0), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.colour)
        self.colour = int(self.np_random.integers(3))
        return picture(self.colour), reward, bool(action == END), False, {"raw_reward": 10 * reward}


@dataclass(frozen=True)
class Colour:
    colour: Tensor  # int64 (B,)


@dataclass
class ColoursDreamt:
    """The same game as dynamics, and ways to dream it wrongly."""

    frozen: bool = False
    shuffled: bool = False
    endless: bool = False
    not_a_number: bool = False
    context_length = 2
    frame_shape = SHAPE
    action_space = Discrete(4)
    device = torch.device("cpu")

    def begin(self, context: ContextTensors, noise: RowNoise) -> Colour:
        return Colour(context.frames[:, -1, 0, 0, 0].long() // 80)

    def step(self, state: Colour, action: Tensor, noise: RowNoise) -> tuple[Colour, Tensor, Tensor, Tensor]:
        chance = noise.uniform((2,))
        colour = (chance[:, 0] * 3).long()
        shown = torch.zeros_like(colour) if self.frozen else colour
        reward = chance[:, 1] < 0.5 if self.shuffled else action == state.colour
        frames = (80 * shown)[:, None, None, None].expand(-1, *SHAPE).to(torch.uint8)
        reward = reward.float() * (math.nan if self.not_a_number else 1)
        return Colour(colour), frames, reward, (action == END) & (not self.endless)


@dataclass(frozen=True)
class Reader:
    """Names the colour that it sees."""

    name: str = "reader"

    def begin(self, num_envs: int, seed: int) -> None:
        return None

    def reset(self, state: None, mask: np.ndarray, contexts: Contexts | None = None) -> None:
        return None

    def act(self, state: None, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, None]:
        return observations[:, 0, 0, 0].astype(np.int64) // 80, None


class Faulty(Reader):
    """Is not finished."""

    def act(self, *args: Any) -> Any:
        return self.memory  # type: ignore[attr-defined]


class Wrong(Reader):
    """Does what the game does not know."""

    def act(self, state: None, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, None]:
        return np.full(len(observations), 4), None


POLICIES: list[Policy] = [RandomPolicy(4), *(EpsilonPolicy(Reader(), e, 4) for e in (0.05, 0.1, 0.2, 0.4, 0.7))]
SETTINGS = Settings(episodes=80, real_episodes=80, horizon=30, num_envs=16)


def starts() -> Contexts:
    """A single start, as the game has: black, and an action that pays, of which no policy knows."""
    return Contexts(np.zeros((1, 2, *SHAPE), np.uint8), np.zeros((1, 1), np.int64), np.ones((1, 2), np.bool_))


def worlds(dynamics: ColoursDreamt, num_envs: int = 16) -> dict[str, tuple[World, int]]:
    dream = DreamWorld(dynamics, starts(), num_envs, seed=0)
    real = RealWorld(Colours, starts().actions, num_envs, seed=0)
    return {"dream": (dream, SETTINGS.episodes), "real": (real, SETTINGS.real_episodes)}


def keep(out: Path, resume: bool) -> KeptEpisodes:
    return KeptEpisodes(out, to_json(SETTINGS), resume=resume)


def compared(dynamics: ColoursDreamt) -> Comparison:
    return compare_in(POLICIES, worlds(dynamics), SPEC, SETTINGS)


@pytest.fixture(scope="module")
def perfect() -> Comparison:
    return compared(ColoursDreamt())


# What a comparison says


def test_a_perfect_dream_agrees_with_the_game(perfect):
    overall = perfect.overall[30]
    assert overall.policies == 6 and not perfect.failed
    assert overall.spearman > 0.9 and overall.pearson > 0.98
    assert overall.slope == pytest.approx(1, abs=0.1) and overall.gap < 0.08
    assert perfect.families["reader"].policies == 5 and perfect.families["reader"].spearman > 0.8
    for policy in perfect.policies:
        assert policy.real.returns.low <= policy.real.returns.mean <= policy.real.returns.high
        assert policy.dream.points is None
        assert policy.real.points.mean == pytest.approx(10 * policy.real.returns.mean)


def test_returns_lengths_and_rates_follow_from_the_rules_of_the_game(perfect):
    random = next(policy for policy in perfect.policies if policy.name == "random")
    for world in (random.dream, random.real):
        # Each step ends it with probability 1/4 and pays with probability 1/4.
        assert world.length.mean == pytest.approx(4, abs=1.3)
        assert world.reward_rate == pytest.approx(0.25, abs=0.07)
        assert world.ended == 1
    best = next(policy for policy in perfect.policies if policy.name == "reader+epsilon=0.05")
    assert best.real.returns.mean > best.real.at_horizon[15].mean > 10
    assert 0.1 < best.real.ended < 0.6  # (1 - 0.05 / 4)^30 = 0.69 of them reach the horizon


@pytest.mark.parametrize("fault", ["frozen", "shuffled", "endless"])
def test_a_broken_dream_is_caught(perfect, fault):
    """Frozen frames, rewards that have nothing to do with what is done, no endings: each shows in the figures.

    Rank correlation alone does not show the second: who plays well lives longer, so is paid more even at random.
    """
    broken, sound = compared(ColoursDreamt(**{fault: True})), perfect.overall[30]
    overall = broken.overall[30]
    assert overall.gap > 0.15 > 3 * sound.gap
    if fault == "frozen":  # who reads well gains no more than who guesses
        assert max(p.dream.returns.mean for p in broken.policies) < 0.6 * max(
            p.real.returns.mean for p in broken.policies
        )
    if fault == "shuffled":  # pay no longer depends on what is done
        assert np.ptp([p.dream.reward_rate for p in broken.policies]) < 0.1
        assert np.ptp([p.real.reward_rate for p in broken.policies]) > 0.5
        assert overall.slope > 1.5
    if fault == "endless":
        assert all(p.dream.length.mean == 30 and p.dream.ended == 0 for p in broken.policies)
        assert all(p.real.length.mean < 28 and p.real.ended > 0.2 for p in broken.policies)


def test_the_number_of_games_at_a_time_does_not_change_the_figures_beyond_chance(perfect):
    few = compare_in(POLICIES[:2], worlds(ColoursDreamt(), num_envs=3), SPEC, SETTINGS)
    for policy in few.policies:
        other = next(p for p in perfect.policies if p.name == policy.name)
        assert policy.dream.returns.mean == pytest.approx(other.dream.returns.mean, abs=2.5)


def test_a_policy_that_cannot_play_is_named_and_the_others_are_kept():
    policies = [Wrong("wrong"), Faulty("faulty"), RandomPolicy(4)]
    found = compare_in(policies, worlds(ColoursDreamt()), SPEC, SETTINGS)
    assert [p.name for p in found.policies] == ["random"]
    assert "AttributeError" in found.failed["faulty"]
    assert "Discrete(4)" in found.failed["wrong"]
    assert "wrong" in text(found)


def test_a_reward_that_is_no_number_is_named():
    found = compare_in([RandomPolicy(4)], worlds(ColoursDreamt(not_a_number=True)), SPEC, SETTINGS)
    assert not found.policies and "not a number" in found.failed["random"]


# Playing


def test_every_episode_is_played_once_and_begins_as_its_number_says():
    begun: list[int] = []

    class Spy(RealWorld):
        def begin(self, mask: np.ndarray, episodes: np.ndarray) -> Contexts:
            begun.extend(episodes[mask].tolist())
            return super().begin(mask, episodes)

    results = play(Spy(Colours, starts().actions, 4, seed=0), RandomPolicy(4), 11, horizon=5, seed=0)
    assert sorted(begun) == list(range(11)) and len(results) == 11
    assert all(1 <= result.length <= 5 for result in results)
    assert all(result.terminated or result.length == 5 for result in results)


def test_games_open_with_the_actions_of_the_start():
    """The opening action pays, but before the policy's first step: it is not counted."""
    results = play(RealWorld(Colours, starts().actions, 2, seed=0), Reader(), 2, horizon=1, seed=0)
    assert [result.length for result in results] == [1, 1]
    assert [result.rewards for result in results] == [((1, 1.0),)] * 2


def test_a_return_counts_the_steps_up_to_the_horizon():
    result = EpisodeResult(rewards=((2, 1.0), (5, -1.0), (9, 1.0)), length=12, terminated=True, points=None)
    assert [result.total(horizon) for horizon in (1, 2, 5, 9, 100)] == [0, 1, 0, 1, 1]


def test_a_persistent_policy_holds_on():
    policy = PersistentPolicy(0.9, 4)
    state, actions = policy.begin(500, seed=0), []
    for _ in range(20):
        action, state = policy.act(state, np.zeros((500, *SHAPE), np.uint8), {})
        actions.append(action)
    same = np.mean([np.mean(a == b) for a, b in itertools.pairwise(actions)])
    assert same == pytest.approx(0.9 + 0.1 / 4, abs=0.02)
    assert np.bincount(np.concatenate(actions), minlength=4).min() > 2000


# Keeping and reporting


def test_identical_seeds_give_an_identical_report(tmp_path):
    for name in ("one", "other"):
        write_report(compared(ColoursDreamt()), tmp_path / name)
    assert (tmp_path / "one/report.json").read_bytes() == (tmp_path / "other/report.json").read_bytes()
    assert (tmp_path / "one/report.png").read_bytes()[:4] == b"\x89PNG"
    report = json.loads((tmp_path / "one/report.json").read_text())
    assert [policy["name"] for policy in report["policies"]] == [policy.name for policy in POLICIES]
    assert report["overall"]["30"]["spearman"] > 0.9


def test_a_resumed_comparison_plays_only_what_is_missing(tmp_path, monkeypatch):
    whole = compare_in(POLICIES, worlds(ColoursDreamt()), SPEC, SETTINGS)
    compare_in(POLICIES[:2], worlds(ColoursDreamt()), SPEC, SETTINGS, kept=keep(tmp_path, resume=False))
    played: list[str] = []

    def spy(world: World, policy: Policy, *args: Any) -> list[EpisodeResult]:
        played.append(policy.name)
        return play(world, policy, *args)

    monkeypatch.setattr("gym_dream.evaluation.returns.play", spy)
    kept = keep(tmp_path, resume=True)
    resumed = compare_in(POLICIES, worlds(ColoursDreamt()), SPEC, SETTINGS, kept=kept)
    assert set(played) == {policy.name for policy in POLICIES[2:]}
    assert resumed == whole


def test_an_interrupted_comparison_keeps_what_was_played(tmp_path):
    class Interrupted(Reader):
        def act(self, *args: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_in(
            [RandomPolicy(4), Interrupted()],
            worlds(ColoursDreamt()),
            SPEC,
            SETTINGS,
            kept=keep(tmp_path, resume=False),
        )
    kept = keep(tmp_path, resume=True)
    assert len(kept.read("random", "dream", 80)) == len(kept.read("random", "real", 80)) == 80
    assert kept.read("reader", "dream", 80) is None


def test_a_folder_in_use_is_not_mixed_with_other_settings(tmp_path):
    keep(tmp_path, resume=False)
    with pytest.raises(FileExistsError, match="--resume"):
        keep(tmp_path, resume=False)
    with pytest.raises(ValueError, match="seed 0"):
        KeptEpisodes(tmp_path, to_json(replace(SETTINGS, seed=1)), resume=True)


def test_too_few_played_episodes_are_not_taken_for_all(tmp_path):
    kept = keep(tmp_path, resume=False)
    kept.write("random", "dream", [EpisodeResult((), 3, True, None)] * 2)
    assert len(kept.read("random", "dream", 2)) == 2
    with pytest.raises(ValueError, match="holds 2 episodes, expected 3: remove it"):
        kept.read("random", "dream", 3)


def test_episodes_of_an_agent_that_has_changed_since_are_refused(tmp_path):
    kept, agent = keep(tmp_path, resume=False), tmp_path / "agent.zip"
    agent.write_bytes(b"one")
    for policy in (f"sb3:{agent}", f"sb3:{agent}+epsilon=0.1"):
        kept.write(policy, "dream", [])
        assert kept.read(policy, "dream", 0) == []
    agent.write_bytes(b"other")
    for policy in (f"sb3:{agent}", f"sb3:{agent}+epsilon=0.1"):
        with pytest.raises(ValueError, match="as it was then"):
            kept.read(policy, "dream", 0)
    other = tmp_path / "other.zip"
    other.write_bytes(b"other")
    assert digest([agent]) != digest([other]) != digest([agent, other])


def test_a_full_disk_ends_the_comparison_and_blames_no_policy(tmp_path, monkeypatch):
    kept = keep(tmp_path, resume=False)
    monkeypatch.setattr("gym_dream.evaluation.kept.write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        compare_in([RandomPolicy(4)], worlds(ColoursDreamt()), SPEC, SETTINGS, kept=kept)


def test_another_report_is_not_replaced(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(FileExistsError, match="choose another folder"):
        keep(tmp_path, resume=False)


@pytest.mark.parametrize("content", ['{"policy": "random"}', '{"policy": "random", "episodes": [{"length": 3}]}', "[]"])
def test_a_file_of_played_episodes_that_is_none_is_named(tmp_path, content):
    kept = keep(tmp_path, resume=False)
    path = kept._path("random", "dream")
    path.write_text(content)
    with pytest.raises(ValueError, match=path.name.split("-")[0]):
        kept.read("random", "dream", 80)


def test_names_that_differ_only_in_signs_have_files_of_their_own(tmp_path):
    kept = keep(tmp_path, resume=False)
    assert kept._path("sb3:a/b.zip", "dream") != kept._path("sb3:a_b.zip", "dream")


# Statistics


def test_agreement_of_known_lines():
    assert agreement([0, 1, 2], [1, 3, 5], unit=4).slope == pytest.approx(2)
    assert agreement([0, 1, 2], [1, 3, 5], unit=4).gap == pytest.approx((1 + 2 + 3) / 3 / 4)
    assert agreement([0, 1, 2], [5, 3, 1], unit=4).spearman == pytest.approx(-1)
    assert math.isnan(agreement([1, 1, 1], [1, 2, 3], unit=2).spearman)
    assert math.isnan(agreement([1, 2], [1, 2], unit=0).gap)


@pytest.mark.parametrize(("game", "scripted"), [("Breakout", True), ("Pong", False)])
def test_the_command_by_itself_lets_those_play_who_can(game, scripted, tmp_path, monkeypatch):
    tiny.world_model().save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["env"]["game"] = game
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    asked = []
    monkeypatch.setattr(
        "gym_dream.evaluation.returns.compare", lambda policies, *_, **__: asked.extend(policies) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        cli.main(["evaluate", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")])
    assert "random" in asked and any(policy.startswith("scripted") for policy in asked) == scripted


def test_a_model_that_names_no_game_has_none_to_play_beside_it():
    with pytest.raises(ValueError, match="names no game"):
        real_world({"ending": "life"}, tiny.world_model().starts, 1, seed=0)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = [e.low <= 3 <= e.high for e in (estimate(rng.normal(3, 1, 40)) for _ in range(200))]
    assert 0.88 <= np.mean(covered) <= 0.99
    weighted = estimate([1.0, 0.0, math.nan], [3, 1, 5])
    assert weighted.mean == 0.75 and weighted.count == 2
    assert str(estimate([3.0])) == "3.00 [-]"
    assert estimate([]).count == 0 and math.isnan(estimate([]).mean) and str(estimate([])) == "-"


def test_families_and_copies_with_noise():
    assert family("scripted(noise=0.1,lag=2)+epsilon=0.3") == "scripted"
    assert family("sb3:runs/ppo_(a).zip+epsilon=0.1") == "sb3:runs/ppo_(a).zip"
    assert with_epsilons(["scripted"], [1e-7]) == ["scripted+epsilon=1e-07"]
    for game, scripted in {"Breakout": 2, "Pong": 0}.items():
        players = default_policies({"game": game})
        assert players[0] == "random" and sum(player.startswith("scripted") for player in players) == scripted
        for player in players:
            assert load_policy(player, real.env_spec(game)).name == player
    assert with_epsilons(["random", "persistent(repeat=0.5)", "scripted", "scripted+epsilon=0.7"], [0, 0.5]) == [
        "random",
        "persistent(repeat=0.5)",
        "scripted",
        "scripted+epsilon=0.5",
        "scripted+epsilon=0.7",
    ]


# The real command, and what it refuses


def test_the_command_compares_in_dream_and_game(tmp_path, capsys):
    out = tmp_path / "evaluation"
    arguments = ["evaluate", "--policies", "random", "scripted", "sb3:none.zip", "--epsilon", "0", "--episodes", "2"]
    arguments += ["--real-episodes", "3", "--horizon", "3", "--num-envs", "2", "--out", str(out)]
    arguments += ["--model-kwargs", "num_denoising_steps", "1"]
    assert cli.main(arguments) == 2  # there is no such file, and the others are kept
    printed = capsys.readouterr()
    assert "| scripted" in printed.out and "none.zip" in printed.err
    report = json.loads((out / "report.json").read_text())
    assert [p["name"] for p in report["policies"]] == ["random", "scripted"]
    assert report["policies"][0]["dream"]["returns"]["count"] == 2
    assert report["policies"][0]["real"]["points"]["count"] == 3
    assert cli.main(arguments) == 2 and "--resume" in capsys.readouterr().err


def test_unknown_ids_stores_and_policies_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one policy"):
        compare([])
    with pytest.raises(ValueError, match="none twice"):
        compare(["random", "random"])
    with pytest.raises(ValueError, match="needs a world model"):
        compare(["random"], "DreamEnv-v0")
    with pytest.raises(FileNotFoundError, match="gym-dream"):
        compare(["random"], "Dream/Pong-v0")
    with pytest.raises(FileNotFoundError, match="gym-dream collect"):
        compare(["random"], starts=str(tmp_path))
    with pytest.raises(ValueError, match="horizon"):
        compare(["random"], Settings(), horizon=0)
    assert cli.main(["evaluate", "--results", str(tmp_path)]) == 2


def test_starts_of_another_game_are_refused(tmp_path: Path):
    EpisodeStore(tmp_path).add(tiny.episode(0))
    with pytest.raises(ValueError, match=r"another environment .* id 'Dot-v0'"):
        compare(["random"], starts=str(tmp_path))


def test_a_policy_hears_of_lost_lives_in_games_that_go_on() -> None:
    from dot_game import LIFE, DotGame

    from gym_dream.policy import RandomPolicy

    resets = []

    class Hearing(RandomPolicy):
        def reset(self, state: Any, mask: np.ndarray, contexts: Any = None) -> Any:
            resets.append((mask.tolist(), contexts is not None))
            return state

    world = RealWorld(DotGame, np.zeros((1, 0), np.int64), 2, seed=0)
    (one, other) = play(world, Hearing(4), 2, 100, seed=0)
    assert one.length == other.length == 2 * LIFE
    assert resets == [([True, True], True), ([True, True], False)]
