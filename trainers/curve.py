"""The learning curve of the outer loop, in words: a line for the screen, a report for the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from gym_dream.files import atomic_write

from .schedules import LOOPS, LoopConfig

Point = Mapping[str, float]


def line(point: Point) -> str:
    """A test, for the screen."""
    when = "at the end" if "final" in point else f"epoch {int(point['epoch']) + 1}"
    return (
        f"{when}: {int(point['real_steps']):,} real and {int(point['dreamt_steps']):,} dreamt steps; return of a dream "
        f"{_dream(point)}, of a real game {_real(point, 'real/return')} ({int(point['games'])} games)"
    )


def _changes(config: LoopConfig) -> str:
    """What of the preset's schedule the run has otherwise."""
    if config.preset not in LOOPS:
        return ""
    usual = asdict(LOOPS[config.preset].schedule)
    changed = [f"{name} {value}" for name, value in asdict(config.schedule).items() if value != usual[name]]
    return f" with {', '.join(changed)}" if changed else ""


def report(out: Path, config: LoopConfig, curve: Sequence[Point], seconds: Mapping[str, float]) -> str:
    """All of a run on a page, Markdown.

    Args:
        out: the run folder.
        config: what the run is.
        curve: its tests, the final one last.
        seconds: spent in each phase of all epochs.
    """
    last, env, schedule = curve[-1], config.world_model.env, config.schedule
    epochs = int(last["epoch"])
    rows = [
        f"| {int(p['epoch']) + ('final' not in p)} | {int(p['real_steps']):,} | {int(p['dreamt_steps']):,} "
        f"| {_dream(p)} | {_real(p, 'real/return')} | {_real(p, 'real/score')} | {int(p['games'])} |"
        for p in curve
    ]
    phases = [f"| {name} | {spent:.0f} | {spent / max(1, epochs):.1f} |" for name, spent in seconds.items()]
    command = (
        f"gym-dream evaluate --env Dream/{env['game']}-v0 --model {out}/world_model "
        f"--policies agent:{out}/agent random --epsilon 0 --out {out}/evaluation"
    )
    return "\n".join(
        [
            f"# {env['game']}: an agent that learnt in dreams",
            "",
            f"Preset {config.preset}{_changes(config)}, seed {config.seed}: {int(last['real_steps']):,} real steps, "
            f"{epochs} epochs, "
            f"{schedule.world_model_done(epochs - 1):,} updates of the world model, "
            f"{schedule.agent_done(epochs - 1):,} of the agent.",
            "",
            f"Whole real games of at most {schedule.max_game_steps:,} steps, {int(last['games'])} of each, the same "
            "seeds; means with 95% intervals over games. The return is the sum of the rewards' signs.",
            "",
            "| who plays | return | score |",
            "| --- | --- | --- |",
            f"| agent | {_real(last, 'real/return')} | {_real(last, 'real/score')} |",
            f"| random | {_real(last, 'random/return')} | {_real(last, 'random/score')} |",
            "",
            "## The way there",
            "",
            "| epochs | real steps | dreamt steps | return of a dream | return of a game | score | games |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            "## Time",
            "",
            "| phase | seconds | an epoch |",
            "| --- | --- | --- |",
            *phases,
            "",
            "## The same agent in dream and game",
            "",
            "```sh",
            command,
            "```",
            "",
        ]
    )


def write_report(out: Path, config: LoopConfig, curve: Sequence[Point], seconds: Mapping[str, float]) -> None:
    """Write `report` to the run folder's ``report.md``."""
    with atomic_write(out / "report.md") as temporary:
        temporary.write_text(report(out, config, curve, seconds), encoding="utf-8")


def _real(point: Point, name: str) -> str:
    mean, low, high = (point.get(f"{name}{end}", float("nan")) for end in ("", "_low", "_high"))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]" if low == low else f"{mean:.2f}"


def _dream(point: Point) -> str:
    return f"{point['dream/return']:.2f} in {point['dream/length']:.0f} steps" if "dream/return" in point else "-"
