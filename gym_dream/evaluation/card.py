"""The model card: what a world model was made from and how well it dreams, measured and written down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from gym_dream.data.episode import Episode, split_held_out
from gym_dream.data.store import EpisodeStore
from gym_dream.evaluation.events import Detection, detections, judge
from gym_dream.evaluation.fidelity import Figures, compare_at, table
from gym_dream.evaluation.probes import Probe, all_visible, probes_of
from gym_dream.evaluation.provenance import DataFacts, RunFacts, hardware
from gym_dream.evaluation.rollouts import draw_windows, longest_window, repeat_last_frame, replay
from gym_dream.evaluation.sheet import contact_sheet, png
from gym_dream.files import atomic_write
from gym_dream.world_model import WorldModel, WorldModelConfig

STEPS = (1, 5, 15, 50, 100)
SHEET_STEPS = (1, 15, 50, 100)
SHEET_COLUMNS = 8
SHEET_NAME = "contact_sheet.png"


@dataclass(frozen=True, eq=False)
class Measured:
    """How well a world model dreams of held-out games.

    Attributes:
        games: held-out games.
        transitions: of all of them.
        events: how well rewards and endings are recognised on real frames.
        windows: how many replays were compared.
        games_in_windows: from how many games.
        probes: what was looked for in the frames.
        forecasts: by name the figures of `gym_dream.evaluation.fidelity.compare_at`.
        sheet: the contact sheet, uint8 (H, W, 3); None where frames are not RGB.
    """

    games: int
    transitions: int
    events: dict[str, Detection]
    windows: int
    games_in_windows: int
    probes: tuple[Probe, ...]
    forecasts: dict[str, dict[str, Figures]]
    sheet: np.ndarray | None


def measure(
    world_model: WorldModel,
    episodes: Sequence[Episode],
    *,
    windows: int = 48,
    denoising_steps: Sequence[int] = (1, 3),
    seed: int = 0,
    device: str = "auto",
    compile: bool = False,
    sheet_scale: int = 2,
    progress: bool = False,
) -> Measured:
    """Measure a world model on real games that it was not trained on.

    Dreams begin where every probed object is in sight and follow the real actions for 100 steps, or for fewer where no
    stretch without an ending is as long (see `STEPS`).

    Args:
        world_model: the model.
        episodes: held-out games.
        windows: replays to compare.
        denoising_steps: passes of the denoiser a frame, each a forecast of its own; the model's own setting is added.
        seed: of the choice of windows and of the dreams.
        device: a PyTorch device or "auto".
        compile: compile the networks: worth a minute's wait for many windows.
        sheet_scale: side of the square that a pixel becomes in the contact sheet.
        progress: show progress bars.

    Raises:
        ValueError: no stretch of these games is long enough to dream of.
    """
    config = world_model.config
    ending, length, own = config.env["ending"], config.denoiser.context_length, config.sampler.num_denoising_steps
    probes = probes_of(config.env)
    longest = longest_window(episodes, length, ending=ending)
    steps, sheet_steps = ([k for k in ks if k == 1 or k <= longest] for ks in (STEPS, SHEET_STEPS))
    begins = all_visible(probes) if probes else None
    drawn = draw_windows(episodes, length, steps[-1], windows, seed, ending=ending, begins=begins)

    forecasts, sheet = {}, None
    for passes in sorted({own, *denoising_steps}):
        dynamics = world_model.dynamics(device, compile=compile, num_denoising_steps=passes)
        dreamt = replay(dynamics, drawn, seed=seed, progress=progress)
        name = f"dream, {passes} denoising step{'s' if passes > 1 else ''}" + (" (as shipped)" if passes == own else "")
        forecasts[name] = compare_at(drawn.frames, dreamt, probes, steps)
        if passes == own and dreamt.shape[-1] == 3:
            sheet = contact_sheet(
                drawn[:SHEET_COLUMNS], {"dream": dreamt[:SHEET_COLUMNS]}, sheet_steps, scale=sheet_scale
            )
    forecasts["last frame repeated"] = compare_at(drawn.frames, repeat_last_frame(drawn), probes, steps)
    return Measured(
        games=len(episodes),
        transitions=sum(map(len, episodes)),
        events=detections(judge(world_model.reward_termination, episodes, ending=ending)),
        windows=len(drawn),
        games_in_windows=len(set(drawn.episode.tolist())),
        probes=probes,
        forecasts=forecasts,
        sheet=sheet,
    )


def card(
    world_model: WorldModel,
    measured: Measured,
    data: DataFacts,
    runs: Sequence[RunFacts] = (),
    *,
    held_out: DataFacts | None = None,
    hardware: str = "",
    evaluation: str = "",
    commands: str = "",
) -> str:
    """Write the card.

    Args:
        world_model: the model.
        measured: what `measure` found.
        data: what the model was trained on.
        runs: the training runs that led to it, in their order.
        held_out: what it was measured on, if that is not part of `data`.
        hardware: what it was trained on.
        evaluation: the report of `gym-dream evaluate` on the model.
        commands: shell commands that make model and card.

    Returns:
        Markdown; the contact sheet is expected beside it, under `SHEET_NAME`.
    """
    parts = [
        _front(world_model.config),
        _about(world_model),
        _data_section(data, held_out),
        _training_section(runs, hardware),
        _figures_section(measured),
        evaluation.strip() and f"## Returns in dream and game\n\n{evaluation.strip()}",
        _LICENCE.format(env=world_model.config.env.get("id", "the game")),
    ]
    if commands.strip():
        parts.append(f"## Commands\n\n```sh\n{commands.strip()}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def write_card(
    model: str | Path,
    data: Path,
    out: Path,
    *,
    runs: Sequence[Path] = (),
    held_out: Path | None = None,
    hardware_text: str = "",
    evaluation: Path | None = None,
    commands: Path | None = None,
    windows: int = 48,
    denoising_steps: Sequence[int] = (1, 3),
    seed: int = 0,
    device: str = "auto",
    compile: bool = False,
    progress: bool = True,
) -> Path:
    """Measure a world model and write its card and contact sheet: `gym-dream card`.

    Measured are the games that training held out, found by the run's own settings, or those of ``held_out``.

    Args:
        model: a world model folder, shipped name or "hub:…".
        data: the store that it was trained on.
        out: the folder that gets ``README.md`` and ``contact_sheet.png``; may be the model's.
        runs: the run folders that led to the model, in their order; by default the folder around the model, if it is
            a run.
        held_out: a store of games that training has never seen, to measure on instead.
        hardware_text: what the model was trained on; empty for this machine.
        evaluation: the folder of `gym-dream evaluate`, whose report is quoted.
        commands: a file with the shell commands that made the model, to be quoted.
        windows: replays to compare.
        denoising_steps: passes of the denoiser a frame to compare.
        seed: of the measurement.
        device: a PyTorch device or "auto".
        compile: compile the networks.
        progress: show progress bars.

    Returns:
        The card's path.

    Raises:
        FileNotFoundError: no model, data, or run.
        ValueError: files that are damaged, or no game long enough to measure on.
    """
    world_model = WorldModel.load(model)
    folders = list(runs) or [folder for folder in [Path(model).parent] if (folder / "checkpoint.safetensors").is_file()]
    facts = [RunFacts.read(folder) for folder in folders]
    paths = EpisodeStore(data).paths[: facts[-1].games if facts else None]
    if not paths:
        raise FileNotFoundError(f"No episodes in {data}: expected those that the model was trained on.")
    if held_out is None:
        fraction, split_seed = (facts[-1].held_out_fraction, facts[-1].seed) if facts else (0.06, 0)
        measured_paths = split_held_out(paths, fraction, split_seed)[1]
    else:
        measured_paths = EpisodeStore(held_out).paths
    measured = measure(
        world_model,
        [Episode.load(path) for path in measured_paths],
        windows=windows,
        denoising_steps=denoising_steps,
        seed=seed,
        device=device,
        compile=compile,
        progress=progress,
    )
    text = card(
        world_model,
        measured,
        DataFacts.read(paths),
        facts,
        held_out=None if held_out is None else DataFacts.read(measured_paths),
        hardware=hardware_text or hardware(),
        evaluation="" if evaluation is None else (evaluation / "report.md").read_text(encoding="utf-8"),
        commands="" if commands is None else commands.read_text(encoding="utf-8"),
    )
    if measured.sheet is not None:
        with atomic_write(out / SHEET_NAME) as temporary:
            temporary.write_bytes(png(measured.sheet))
    with atomic_write(out / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out / "README.md"


def _front(config: WorldModelConfig) -> str:
    game = config.env.get("game", "an environment")
    return f"""---
license: mit
library_name: gym-dream
tags: [world-model, diffusion, reinforcement-learning, atari]
---

# {game}, dreamt

A diffusion world model of `{config.env.get("id", game)}` after DIAMOND (Alonso et al., 2024, arXiv 2405.12399).
It draws the next frame from the last {config.denoiser.context_length} and the action, and says what the step pays and
whether it ends the {config.env["ending"]}. As an environment: `gym.make("gym_dream:DreamEnv-v0", model=FOLDER)`."""


def _about(world_model: WorldModel) -> str:
    config = world_model.config
    env, sampler = config.env, config.sampler
    solver = {1: "Euler", 2: "Heun"}[sampler.order]
    rows = {
        "Frames": f"{' x '.join(map(str, env['frame_shape']))}, uint8; frame skip {env.get('frame_skip', '?')}"
        + (", maximum of the last two" if env.get("max_pool") else ""),
        "Actions": ", ".join(env["action_meanings"]),
        "Sticky actions": f"{env.get('repeat_action_probability', 0):g}",
        "Rewards": "their sign: -1, 0, 1",
        "An episode ends with": f"the {env['ending']}",
        "Denoiser": f"{_millions(world_model.denoiser)} parameters",
        "Reward and termination model": f"{_millions(world_model.reward_termination)} parameters",
        "Sampler": f"{sampler.num_denoising_steps} steps, {solver}",
        "Start contexts": str(len(world_model.starts)),
    }
    return "## The model\n\n" + _rows(["", ""], [[name, value] for name, value in rows.items()])


def _data_section(data: DataFacts, held_out: DataFacts | None) -> str:
    def described(facts: DataFacts) -> str:
        seeds = facts.seeds
        every = f"{seeds[0]} to {seeds[-1]}" if len(seeds) == seeds[-1] - seeds[0] + 1 else f"{len(seeds)} different"
        return f"{facts.games:,} games, {facts.steps:,} steps; seeds {every}"

    policies = [[policy, str(games), f"{steps:,}"] for policy, (games, steps) in data.policies.items()]
    text = f"## Data\n\n{described(data)}.\n\n" + _rows(["policy", "games", "steps"], policies)
    if held_out is not None:
        text += (
            f"\n\nMeasured on games recorded apart: {described(held_out)}; played by {', '.join(held_out.policies)}."
        )
    return text


def _training_section(runs: Sequence[RunFacts], hardware: str) -> str:
    if not runs:
        return ""
    losses = list(dict.fromkeys(name for run in runs for name in run.losses))
    settings = _differing([run.training for run in runs])
    networks = {"denoiser": "denoiser updates", "reward": "reward and termination updates"}
    head = ["run", "minutes", *networks.values(), *settings, *(f"held-out {name.replace('_', ' ')}" for name in losses)]
    rows = [
        [
            run.name,
            f"{run.seconds / 60:.0f}",
            *(f"{run.updates(network):,}" for network in networks),
            *(str(run.training.get(name, "")) for name in settings),
            *(f"{run.losses[name]:.4f}" if name in run.losses else "" for name in losses),
        ]
        for run in runs
    ]
    total, fraction = sum(run.seconds for run in runs) / 3600, runs[-1].held_out_fraction
    return f"## Training\n\n{total:.1f} hours on {hardware}. {fraction:.0%} of the games were held out.\n\n" + _rows(
        head, rows
    )


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the settings that are not the same in all runs."""
    names = dict.fromkeys(name for setting in settings for name in setting)
    return [name for name in names if any(setting.get(name) != settings[0].get(name) for setting in settings)]


def _figures_section(measured: Measured) -> str:
    events = [
        [name, str(event.events), _share(event.precision), _share(event.recall), f"{event.f1:.3f}"]
        for name, event in measured.events.items()
    ]
    names = " and ".join(probe.name for probe in measured.probes)
    seen = f" where {names} are in sight" if measured.probes else ""
    text = f"""## How well it dreams

Figures on held-out games: {measured.games} games, {measured.transitions:,} steps.

Rewards and endings, the likelier class counting as said, on real frames:

{_rows(["event", "real events", "precision", "recall", "F1"], events)}

Open-loop replays: {measured.windows} dreams from {measured.games_in_windows} games begin{seen} and follow the
actions that were really taken. After k steps, beside the real frame:

{table(measured.forecasts, measured.probes)}"""
    if measured.probes:
        text += """

*Present* and *within 2 px* are shares of the real frames that surely show the object, *false* of those that show
none."""
    if measured.sheet is not None:
        text += f"""

Real frames above dreamt ones, under the same actions, {SHEET_COLUMNS} of these replays:

![Contact sheet: real frames above dreamt ones]({SHEET_NAME})"""
    return text


_LICENCE = """## Licence

The weights are under the MIT licence, as gym_dream is. Start contexts and pictures hold frames that the Arcade Learning
Environment rendered from the ROM behind `{env}`; the game is its owner's, and the MIT licence does not cover it."""


def _millions(network: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.1f}M"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
