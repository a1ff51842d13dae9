from __future__ import annotations

import inspect
import signal
import subprocess
import sys
import time
import typing
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from gym_dream import cli
from gym_dream.cli import main
from gym_dream.data import EpisodeStore
from gym_dream.games import GAMES
from gym_dream.trainers import schedules
from gym_dream.trainers.imagination import Imagination, ImaginationConfig
from gym_dream.trainers.schedules import LoopConfig
from gym_dream.world_model import WorldModel


def help_of(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_help_names_the_verbs_and_the_one_danger(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys=capsys)
    for verb in ("demo", "play", "list", "collect", "fit", "train", "fidelity", "card", "bench"):
        assert f"• {verb} " in text
    assert "sb3:FILE.zip is loaded by Stable-Baselines3, which unpickles it" in text
    for verb in ("demo", "play", "collect"):
        assert "sb3:FILE.zip (unpickled: trust it)" in help_of(verb, capsys=capsys)


def test_help_and_list_need_no_torch() -> None:
    program = (
        "import sys; from gym_dream.cli import main; main(['list'])\n"
        "try: main(['--help'])\nexcept SystemExit: assert not {'torch', 'cv2', 'ale_py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_list_shows_every_game_and_the_way_to_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for game in GAMES:
        assert f"Dream/{game.name}-v0" in text
    assert "gym-dream collect --game" in text
    assert "gym-dream fit --data" in text


def defaults(function: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name not in without}


def test_verbs_take_what_their_functions_take() -> None:
    from gym_dream.benchmark.run import Clock, Part, bench
    from gym_dream.evaluation.card import write_card
    from gym_dream.evaluation.open_loop import fidelity
    from gym_dream.trainers.outer_loop import train
    from gym_dream.trainers.presets import PRESETS
    from gym_dream.trainers.run import fit
    from gym_dream.trainers.schedules import LOOPS
    from gym_dream.world_model import DreamPrecision, Precision

    assert defaults(cli.Card) == defaults(write_card, without=["progress"])
    odd = ("model_kwargs", "progress")
    assert defaults(cli.Fidelity, without=odd) == defaults(fidelity, without=odd)
    odd = ("training", "data", "progress")
    assert defaults(cli.Fit, without=odd) == defaults(fit, without=odd)
    odd = ("model", "out", "presets", "original", "updates", "update_agent")
    assert defaults(cli.Bench, without=odd) == defaults(bench, without=odd)
    hints = typing.get_type_hints(cli.Bench)
    assert hints["clock"] == Clock and hints["measure"] == tuple[Part, ...]
    assert set(cli.Bench().presets) == set(PRESETS)
    given = ("game", "preset", "seed", "schedule", "config", "policy", "make_env", "progress")
    assert defaults(cli.Train, without=given) == defaults(train, without=given)
    assert set(typing.get_args(typing.get_type_hints(cli.Train)["preset"])) == set(LOOPS)
    hints = typing.get_type_hints(cli.Fit)
    assert set(typing.get_args(hints["preset"])) == set(PRESETS)
    assert hints["precision"] == Precision
    assert typing.get_type_hints(cli.Fidelity)["precision"] == DreamPrecision


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("collect --game Brekout --steps 5 --out {tmp}/data", "Did you mean Breakout"),
        ("collect --game Pong --steps 5 --out {tmp}/data --policy scripted", "scripted player for Breakout only"),
        ("collect --game Pong --steps 5 --out {tmp}/data --policy sb3:{tmp}/no.zip", "no.zip"),
        (
            "collect --game Pong --steps 5 --out {tmp}/data --last-bricks 3",
            "for Breakout only, got ALE/Pong-v5",
        ),
        ("collect --game Breakout --steps 5 --out {tmp}/data --last-bricks 109", "from 1 to 108, got 109"),
        ("collect --game Breakout --steps 5 --out {tmp}/data --max-game-steps 0", "max_game_steps must be at least 1"),
        ("collect --game Pong --steps 0 --out {tmp}/data", "steps must be at least 1"),
        ("collect --game Pong --steps 5 --out {tmp}/data --epsilon 2", "between 0 and 1"),
        ("fit --data {tmp}/none --out {tmp}/run --steps 5 --device gpu", "device: 'gpu' cannot be used here"),
        ("demo --model {tmp}/nothing --out {tmp}/demo.gif", "gym-dream fit"),
        ("fidelity --model {tmp}/nothing --data {tmp}/none --out {tmp}/out", "gym-dream fit"),
        ("fidelity --model breakout --data {tmp}/none --out {tmp}/out", "gym-dream collect"),
        ("card --model {tmp}/nothing --data {tmp}/none --out {tmp}/card", "gym-dream fit"),
        ("fit --data {tmp}/none --out {tmp}/run --steps 5", "gym-dream collect"),
        ("fit --data {tmp}/none --out {tmp}/run", "either steps or minutes"),
        ("fit --out {tmp}/run --steps 5 --resume", "config.json"),
        ("train --out {tmp}/run", "Say which game"),
        ("train --out {tmp}/run --game Brekout", "Did you mean Breakout"),
        ("train --out {tmp}/run --resume", "no run to resume"),
        ("train --out {tmp}/run --resume --schedule total_steps 9", "--schedule is for a new run"),
        ("train --out {tmp}/run --game Pong --schedule step 9", "unknown 'step'"),
        ("train --out {tmp}/run --game Pong --device gpu", "device: 'gpu' cannot be used here"),
        ("bench --model {tmp}/nothing --out {tmp}/out", "gym-dream fit"),
        ("bench --out {tmp}/out --batch-sizes 0", "batch_sizes: expected one or several numbers of at least 1"),
        ("bench --out {tmp}/out --denoising-steps 3 -1", "denoising_steps: expected"),
        ("bench --out {tmp}/out --minutes 0", "minutes: expected more than 0"),
        ("bench --out {tmp}/out --repeats 0", "repeats: expected at least 1"),
        ("bench --out {tmp}/out --threads 0", "threads: expected at least 1"),
        ("bench --out {tmp}/out --device gpu", "device: 'gpu' cannot be used here"),
        ("bench --out {tmp}/out --threads 2 --clock cpu", "Add --threads 1 --device cpu"),
    ],
)
def test_bad_requests_get_one_plain_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert main(arguments.format(tmp=tmp_path).split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gym-dream: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_word_that_cannot_be_read_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--steps", "many"])
    assert stop.value.code == 2
    assert "steps" in capsys.readouterr().err


def test_a_traceback_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GYM_DREAM_DEBUG", "1")
    with pytest.raises(ValueError, match="Unknown game"):
        main(["collect", "--game", "Brekout", "--steps", "5", "--out", str(tmp_path)])


def test_errors_that_nobody_expected_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(cli.List, "__call__", broken)
    with pytest.raises(KeyError):
        main(["list"])


def test_ctrl_c_ends_with_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.List, "__call__", interrupted)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_game_by_any_of_its_names_begun_with_its_last_bricks_and_cut_off(tmp_path: Path) -> None:
    last = ["--last-bricks", "3", "--max-game-steps", "20", "--policy", "scripted"]
    assert main(["collect", "--game", "breakout", "--steps", "50", "--out", str(tmp_path), *last]) == 0
    games = EpisodeStore(tmp_path).load_all()
    assert [len(game) for game in games] == [20, 20, 10]
    assert all(game.info.start == "last_bricks=3" for game in games)


def test_from_real_play_to_a_dream_of_a_second_game(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run, video = tmp_path / "data", tmp_path / "run", tmp_path / "pong.gif"
    collect = ["collect", "--game", "Pong", "--steps", "60", "--out", str(data), "--epsilon", "0", "0.5"]
    fit = ["fit", "--out", str(run), "--training", "batch_size", "2", "reward_batch_size", "2"]
    assert [main(collect), main(collect)] == [0, 0]
    assert main([*fit, "--data", str(data), "--steps", "2"]) == 0
    assert main([*fit, "--steps", "3", "--resume"]) == 0
    model = run / "world_model"
    assert main(["demo", "--model", str(model), "--policy", "random", "--steps", "4", "--out", str(video)]) == 0

    out = capsys.readouterr().out
    assert f"Added 60 steps to {data}, in games: 1." in out
    assert f'gymnasium.make("DreamEnv-v0", model="{model}")' in out
    assert out.splitlines()[-1].endswith(f"Wrote {video}.")
    assert video.stat().st_size > 0
    with gym.make("DreamEnv-v0", model=str(model)) as env:
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        assert env.action_space == gym.spaces.Discrete(6)
        assert env.unwrapped.get_action_meanings()[:2] == ["NOOP", "FIRE"]  # type: ignore[attr-defined]


def test_help_of_train_states_what_each_preset_does(capsys: pytest.CaptureFixture[str]) -> None:
    """The figures in it are those of the code."""
    from gym_dream.trainers.schedules import LOOPS

    text = help_of("train", capsys=capsys)
    for name, preset in LOOPS.items():
        schedule = preset.schedule
        paragraph = text.split(f"{name}:")[1].split(".\n")[0]
        assert f"{schedule.total_steps:,}".removesuffix(",000") in paragraph
    laptop = LOOPS["laptop"].schedule
    assert (laptop.first_steps, laptop.most_first_steps, laptop.steps) == (20_000, 30_000, 5_000)
    assert "20,000 to 30,000 real steps, then 5,000 an epoch up to 100,000" in text
    assert (laptop.world_model_updates, laptop.agent_updates) == (300, 120)
    assert (laptop.first_world_model_updates, laptop.first_agent_updates) == (1_500, 120)
    assert "300 updates of the world model and 120 of the agent, by PPO, an epoch (1,500 and 120 in the first)" in text
    paper = LOOPS["diamond-100k"].schedule
    assert (paper.first_steps, paper.most_first_steps, paper.steps) == (5_000, 10_000, 100)
    assert "5,000 to 10,000 real steps, then 100 an epoch up to 100,000" in text


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smoke preset, some updates only."""
    from gym_dream.trainers import schedules

    smoke = schedules.LOOPS["smoke"]
    schedule = replace(
        smoke.schedule,
        first_steps=40,
        most_first_steps=40,
        steps=20,
        total_steps=60,
        first_world_model_updates=4,
        world_model_updates=2,
        first_agent_updates=2,
        agent_updates=1,
        extra_epochs=0,
        max_game_steps=20,
    )
    short = replace(smoke, schedule=schedule, imagination=ImaginationConfig(rollout=3))
    monkeypatch.setitem(schedules.LOOPS, "smoke", short)


def test_a_new_run_takes_a_schedule_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[LoopConfig] = []
    monkeypatch.setattr("gym_dream.trainers.outer_loop.train", lambda out, config, *_, **__: asked.append(config) or [])
    changed = ["--schedule", "total_steps", "700", "epsilon", "0.5"]
    assert main(["train", "--game", "Pong", "--preset", "smoke", "--out", str(tmp_path / "run"), *changed]) == 130
    assert asked[0].schedule == replace(schedules.LOOPS["smoke"].schedule, total_steps=700, epsilon=0.5)


def test_where_no_policy_is_named_the_agent_that_ships_plays_or_chance() -> None:
    env = WorldModel.load("breakout").config.env
    assert cli._player(None, env).name == "agent:breakout"
    assert cli._player(None, env | {"game": "Pong"}).name == "random"
    assert cli._player("persistent(repeat=0.9)", env).name == "persistent(repeat=0.9)"


@pytest.mark.usefixtures("brief")
def test_the_whole_loop_on_a_real_game_interrupted_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    update = Imagination.update

    def interrupted(self: Imagination) -> Any:
        signal.raise_signal(signal.SIGINT)
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Imagination, "update", interrupted)
        assert main(["train", "--game", "pong", "--preset", "smoke", "--out", str(out)]) == 130
    assert main(["train", "--out", str(out), "--resume", "--game", "Breakout"]) == 2
    assert f"{out} learns Pong, not Breakout" in capsys.readouterr().err
    assert main(["train", "--game", "Pong", "--out", str(out)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["train", "--out", str(out), "--resume"]) == 0
    text = capsys.readouterr().out
    assert "# Pong: an agent that learnt in dreams" in text and "| random | " in text
    policy = f"agent:{out / 'agent'}"
    model, video = str(out / "world_model"), str(tmp_path / "pong.gif")
    assert main(["demo", "--model", model, "--policy", policy, "--steps", "3", "--out", video]) == 0


@pytest.mark.slow
def test_smoke_trains_on_pong_in_minutes_killed_and_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "gym_dream.cli", "train", "--out", str(out)]
    begin = [*command, "--game", "Pong", "--preset", "smoke", "--checkpoint-minutes", "0.05"]
    process = subprocess.Popen(begin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(40)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run([*command, "--resume"], check=True, capture_output=True, text=True)
    assert "# Pong: an agent that learnt in dreams" in done.stdout
