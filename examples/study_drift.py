"""EDM against DDPM: how far a dream drifts in 1,000 steps, by the number of denoising steps a frame.

    python examples/study_drift.py                                        # records games first
    python examples/study_drift.py --data runs/breakout/data              # with games of your own

The DIAMOND paper (arXiv 2405.12399, section 5.1) finds that with EDM one denoising step a frame drifts less than ten
with DDPM. Here both get the same small network, games, batches and number of updates; then both dream on from the same
real moments of held-out games, under the actions that were really taken. It writes `drift.json` (all figures),
`drift.md` (as a table) and `drift.png` (frames). What came out stands in docs/studies.md.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import tyro
from torch import Tensor

from gym_dream import real
from gym_dream.data import Episode, EpisodeStore, SegmentSampler, split_held_out
from gym_dream.data.collect import collect
from gym_dream.data.segments import Ending
from gym_dream.evaluation.fidelity import psnr
from gym_dream.evaluation.rollouts import Windows, draw_windows, repeat_last_frame, replay
from gym_dream.evaluation.sheet import png
from gym_dream.evaluation.statistics import Estimate, estimate
from gym_dream.evaluation.strips import strips
from gym_dream.evaluation.tables import json_figures, markdown
from gym_dream.files import atomic_write, write_json
from gym_dream.games import find_game
from gym_dream.models import ddpm
from gym_dream.models.denoiser import Denoiser, DenoiserConfig
from gym_dream.models.frame_dynamics import FrameDynamics, NextFrame
from gym_dream.models.sampler import SamplerConfig, sample
from gym_dream.noise import RowNoise
from gym_dream.policy import load_policy
from gym_dream.trainers.frames import ddpm_loss, edm_loss, fit_frames, load_frames, save_frames
from gym_dream.trainers.presets import TrainingConfig

SHOWN = (1, 10, 50, 100, 200, 500, 1000)  # steps k of the picture; figures are means from each to the next
ENDING: Ending = "game"  # dreams go on over lost lives: hardly a life of Breakout lasts 1,000 steps


@dataclass(frozen=True)
class Args:
    """The command line."""

    game: str = "Breakout"
    """what to record if no data is given"""
    data: Path | None = None
    """a folder of recorded games to train on; recorded if not given"""
    held_out: Path | None = None
    """a folder of other games to dream from; if not given, a fifth of the training games is held out"""
    record_steps: int = 50_000
    """steps to record if no data is given"""
    frame_size: int = 32
    """side that frames are reduced to, by averaging: half the usual 64 is a quarter of the arithmetic"""
    updates: int = 3000
    """of each network"""
    batch_size: int = 16
    """segments an update"""
    learning_rate: float = 1e-3
    """of AdamW, falling to zero over the last third"""
    channels: tuple[int, ...] = (16, 32)
    """width of each level of the network"""
    patch_size: int = 2
    """side of the pixel squares folded into channels before the network; these (12 for 2) must fit into the first
    level's width, or DDPM's network cannot pass on the noise that it sees"""
    offset_noise: float = 0.3
    """the part of training's noise that a channel's pixels share; the paper's is 0.3, sampling has none"""
    steps: int = 1000
    """of each dream"""
    windows: int = 4
    """real moments to dream on from, at most"""
    denoising_steps: tuple[int, ...] = (1, 3, 10)
    """the n to compare"""
    bank: int = 4000
    """real frames among which the nearest to a dreamt one is sought"""
    every: int = 10
    """seek it once in so many steps"""
    seed: int = 0
    """of networks, batches, noise and the choice of moments"""
    out: Path = Path("runs/study_drift")
    """folder for networks, figures and picture; networks that are there already are not trained again"""


def load_games(args: Args) -> tuple[list[Episode], list[Episode]]:
    """The games to train on and those to dream from."""
    folder = args.data
    if folder is None:
        folder = args.out / "data"
        store = EpisodeStore(folder)
        there, asked = (store.env or {}).get("game"), find_game(args.game).name
        if there not in (None, asked):
            raise ValueError(f"{folder} holds games of {there}, not of {asked}: choose another --out, or give --data.")
        missing = args.record_steps - store.num_steps
        if missing > 0:
            player = "scripted(noise=0.03)" if args.game == "Breakout" else "random"
            policy = load_policy(player, real.env_spec(args.game), source="ram")
            collect(args.game, policy, missing, folder, epsilon=(0.02, 0.1, 0.3), seed=args.seed)
    games = [reduce(game, args.frame_size) for game in EpisodeStore(folder).load_all()]
    if args.held_out is not None:
        return games, [reduce(game, args.frame_size) for game in EpisodeStore(args.held_out).load_all()]
    return split_held_out(games, 0.2, args.seed)


def reduce(game: Episode, side: int) -> Episode:
    """The same game in smaller frames."""
    if game.frames.shape[1:3] == (side, side):
        return game
    frames = [cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in game.frames]
    return replace(game, frames=np.stack(frames))


def digest(games: list[Episode]) -> str:
    """Tells sets of games apart by where they come from (environment, seeds, policies) and how long they are."""
    headers = [[asdict(game.info), len(game)] for game in games]
    return hashlib.sha256(json.dumps(headers, sort_keys=True).encode()).hexdigest()


def network_config(args: Args, game: Episode) -> DenoiserConfig:
    """The network of both: DIAMOND's, small."""
    levels = len(args.channels)
    return DenoiserConfig(
        num_actions=len(game.info.env["action_meanings"]),
        image_channels=game.frames.shape[-1],
        cond_channels=64,
        depths=(1,) * levels,
        channels=args.channels,
        attention=(False,) * levels,
        sigma_offset_noise=args.offset_noise,
        quantisation="round",
        patch_size=args.patch_size,
    )


def fit(args: Args, games: list[Episode], config: DenoiserConfig, name: Literal["edm", "ddpm"]) -> Denoiser:
    """EDM's or DDPM's network, from the same weights, with the same batches; DDPM uses the inner network alone."""
    training = TrainingConfig(
        batch_size=args.batch_size, targets=1, learning_rate=args.learning_rate, cooldown=0.33, average_decay=0.995
    )
    settings = json.dumps(
        {
            "network": asdict(config),
            "training": asdict(training),
            "updates": args.updates,
            "seed": args.seed,
            "game": games[0].info.env.get("game"),
            "games": len(games),
            "steps": sum(map(len, games)),
            "games_sha256": digest(games),
            "frame_size": args.frame_size,
        }
    )
    torch.manual_seed(args.seed)
    network = Denoiser(config)
    file = args.out / f"{name}.safetensors"
    if not load_frames(network, file, settings):
        segments = SegmentSampler(games, config.context_length + 1, beyond_end=False, ending=ENDING)
        loss = edm_loss(network, training) if name == "edm" else ddpm_loss(network.inner_model, config)
        # As many updates of as many weights from as many frames: one budget.
        fit_frames(network, loss, segments, training, updates=args.updates, seed=args.seed, label=name)
        save_frames(network, file, settings)
    return network.eval()


def edm_frame(denoiser: Denoiser, num_steps: int) -> NextFrame:
    """Draw a frame as DIAMOND does: Euler steps from sigma = 5, every estimate rounded to 256 levels."""
    config = SamplerConfig(num_denoising_steps=num_steps)

    def next_frame(past: Tensor, actions: Tensor, noise: RowNoise) -> Tensor:
        start = noise.normal(tuple(past.shape[2:]))
        return sample(lambda x, sigma: denoiser(x, sigma, past, actions), start, config, lambda: start)

    return next_frame


def ddpm_frame(denoiser: Denoiser, num_steps: int) -> NextFrame:
    """Draw a frame as DDPM does."""
    network, sigma_data = denoiser.inner_model, denoiser.config.sigma_data

    def next_frame(past: Tensor, actions: Tensor, noise: RowNoise) -> Tensor:
        shape = tuple(past.shape[2:])
        return ddpm.sample(
            lambda x, t: ddpm.predict_noise(network, x, t, past, actions, sigma_data),
            noise.normal(shape),
            num_steps,
            lambda: noise.normal(shape),
        )

    return next_frame


@dataclass(frozen=True)
class Row:
    """Figures of one stretch of steps, with intervals over the dreams; grey levels are out of 255."""

    first: int
    last: int
    error: Estimate
    """mean absolute difference from the real frame, grey levels"""
    psnr: Estimate
    """peak signal-to-noise ratio against the real frame, dB"""
    nearest: Estimate
    """root mean square difference from the nearest of many real frames of other games, grey levels: needs no truth"""
    motion: Estimate
    """mean absolute change since the frame before, grey levels: a dream that stands still has none"""


class Bank:
    """Real frames, and how far others are from the nearest of them."""

    def __init__(self, games: list[Episode], count: int) -> None:
        """Take frames evenly from all games."""
        ends = np.cumsum([len(game.frames) for game in games])
        places = np.linspace(0, ends[-1] - 1, min(count, int(ends[-1]))).astype(np.int64)
        game = np.searchsorted(ends, places, side="right")
        frames = np.stack(
            [games[g].frames[p - ends[g]] for g, p in zip(game, places, strict=True)]  # counted from the game's end
        )
        self.frames = torch.from_numpy(frames).flatten(1).float()
        self.mean = self.frames.mean(dim=0)  # taken off, so that no small distance is the difference of large numbers
        self.frames -= self.mean

    def distance(self, frames: np.ndarray) -> np.ndarray:
        """Root mean square difference of each, uint8 (M, H, W, C), from its nearest: float (M,), grey levels."""
        nearest = []
        for part in torch.from_numpy(frames).flatten(1).split(256):
            others = part.float() - self.mean
            squares = (others**2).sum(dim=1)[:, None] + (self.frames**2).sum(dim=1) - 2 * others @ self.frames.T
            nearest.append((squares.amin(dim=1).clamp(min=0) / others.shape[1]).sqrt())
        return torch.cat(nearest).numpy()


def measure(windows: Windows, dreamt: np.ndarray, bank: Bank, args: Args) -> list[Row]:
    """Figures of dreams, uint8 (N, K, H, W, C), by how many steps they have run."""
    count, steps = dreamt.shape[:2]
    before = np.concatenate([windows.contexts.frames[:, -1:], dreamt[:, :-1]], axis=1)
    marks = [k for k in SHOWN if k < steps] + [steps]
    sought = np.flatnonzero([k in marks or k % args.every == 0 for k in range(1, steps + 1)])
    nearest = np.full((count, steps), np.nan)
    error, noise_ratio, motion = (np.empty((count, steps)) for _ in range(3))
    for i in range(count):  # one dream at a time: the differences of all would not fit into memory
        nearest[i, sought] = bank.distance(dreamt[i, sought])
        error[i] = _difference(windows.frames[i], dreamt[i])
        noise_ratio[i] = psnr(windows.frames[i], dreamt[i])
        motion[i] = _difference(before[i], dreamt[i])
    rows = []
    for first, last in zip([1, *(k + 1 for k in marks)], marks, strict=False):
        part = slice(first - 1, last)
        found = sought[(sought >= first - 1) & (sought < last)]
        rows.append(
            Row(
                first,
                last,
                error=estimate(error[:, part].mean(axis=1)),
                psnr=estimate(noise_ratio[:, part].mean(axis=1)),
                nearest=estimate(nearest[:, found].mean(axis=1)),
                motion=estimate(motion[:, part].mean(axis=1)),
            )
        )
    return rows


def table(figures: dict[str, list[Row]]) -> str:
    """Markdown: a table for each measure, a row for each forecast, a column for each stretch of steps."""
    titles = {
        "error": "Mean absolute difference from the real frame (grey levels)",
        "psnr": "PSNR against the real frame (dB)",
        "nearest": "Distance from the nearest of many real frames (grey levels, root mean square)",
        "motion": "Change from frame to frame (grey levels)",
    }
    parts = []
    stretches = [f"{row.first}-{row.last}" if row.first < row.last else f"{row.last}" for row in figures["real"]]
    for measure_name, title in titles.items():
        lines = [
            [forecast, *(str(getattr(row, measure_name)) for row in rows)]
            for forecast, rows in figures.items()
            if forecast != "real" or measure_name not in ("error", "psnr")
        ]
        parts.append(f"{title}:\n\n{markdown([['steps', *stretches], *lines])}\n")
    return "\n".join(parts)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference of frames uint8 (M, H, W, C): float (M,)."""
    return np.abs(a.astype(np.int16) - b).mean(axis=(1, 2, 3))


def main(args: Args) -> None:
    games, held_out = load_games(args)
    height, width, colours = games[0].frames.shape[1:]
    config = network_config(args, games[0])
    windows = draw_windows(held_out, config.context_length, args.steps, args.windows, args.seed, ending=ENDING)
    edm, ddpm_network = fit(args, games, config, "edm"), fit(args, games, config, "ddpm")
    bank = Bank(games, args.bank)

    shown = [k for k in SHOWN if k < args.steps] + [args.steps]
    picked = [k - 1 for k in shown]
    figures = {
        "real": measure(windows, windows.frames, bank, args),
        "last frame repeated": measure(windows, repeat_last_frame(windows), bank, args),
    }
    pictures = {"real": windows.frames[:, picked]}
    forecasts: dict[str, NextFrame] = {}
    for n in args.denoising_steps:
        forecasts |= {f"DDPM, n = {n}": ddpm_frame(ddpm_network, n), f"EDM, n = {n}": edm_frame(edm, n)}
    for name, next_frame in forecasts.items():
        print(name, flush=True)
        dynamics = FrameDynamics(
            next_frame,
            context_length=config.context_length,
            frame_shape=(height, width, colours),
            num_actions=config.num_actions,
        )
        dreamt = replay(dynamics, windows, seed=args.seed, progress=True)
        figures[name] = measure(windows, dreamt, bank, args)
        pictures[name] = dreamt[:, picked]
        write(args, figures, pictures, shown, windows)
    print(f"\n{table(figures)}\nSaved {args.out}/drift.json, drift.md and drift.png.")


def write(
    args: Args, figures: dict[str, list[Row]], pictures: dict[str, np.ndarray], shown: list[int], windows: Windows
) -> None:
    """Write what is known so far: figures of all forecasts, and the frames of the first dream of each."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(args).items()}
    moments = [
        {"game": int(game), "first_step": int(step)}
        for game, step in zip(windows.episode, windows.first_step, strict=True)
    ]
    rows = {name: [asdict(row) for row in stretch] for name, stretch in figures.items()}
    write_json(args.out / "drift.json", json_figures({"settings": settings, "moments": moments, "figures": rows}))
    with atomic_write(args.out / "drift.md") as temporary:
        temporary.write_text(table(figures), encoding="utf-8")
    films, scale = {name: frames[0] for name, frames in pictures.items()}, max(1, 96 // args.frame_size)
    with atomic_write(args.out / "drift.png") as temporary:
        temporary.write_bytes(png(strips(films, [f"k = {k}" for k in shown], scale=scale)))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
