"""One denoising step against three where the next frame cannot be foreseen.

    python examples/study_modes.py

The DIAMOND paper (arXiv 2405.12399, section 5.2) finds that one denoising step draws the average of what may come next,
and three draw one of the possibilities: its example is Boxing's opponent, who moves at random. Here the game is a
square that jumps left or right with equal chance at every step, so what may come next is known exactly. It trains
DIAMOND's denoiser on that, draws next frames, and counts: how many show one square where one may be, how many show two
half-bright ones, and whether left and right are drawn equally often. Beside it stands the exact denoiser of this game,
which tells what is the sampler's doing from what is the training's, and two students that draw in a single step: one
learns the frames that the exact denoiser draws in three, one the real frames. It writes `modes.json`, `modes.md` and
`modes.png`. What came out stands in docs/studies.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from gym_dream.data import Episode, EpisodeInfo, SegmentSampler
from gym_dream.evaluation.rollouts import Windows, draw_windows, replay
from gym_dream.evaluation.sheet import png
from gym_dream.evaluation.statistics import Estimate, estimate
from gym_dream.evaluation.strips import strips
from gym_dream.evaluation.tables import json_figures, markdown
from gym_dream.files import atomic_write, write_json
from gym_dream.models.denoiser import Denoiser, DenoiserConfig, quantise, to_uint8, to_unit
from gym_dream.models.frame_dynamics import FrameDynamics
from gym_dream.models.one_step import Teacher
from gym_dream.models.sampler import SamplerConfig, sample
from gym_dream.noise import RowNoise
from gym_dream.trainers.frames import edm_loss, fit_frames, load_frames, save_frames, student_loss
from gym_dream.trainers.presets import TrainingConfig

SIDE, SQUARE, JUMP = 16, 2, 3  # pixels: of the frame, of the square, from one place to the next
PLACES = range(1, SIDE - SQUARE, JUMP)  # left edges that the square can have, five of them
TOP = 7
BRIGHT, DARK = (
    0.75,
    0.25,
)  # of a square's full brightness: from the one on a place shows it, up to the other it does not
Denoise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""x, sigma, past and actions -> the denoised frame, as `Denoiser` does."""
ENV: dict[str, Any] = {"id": "JumpingSquare", "frame_shape": [SIDE, SIDE, 3], "action_meanings": ["NOOP"]}


@dataclass(frozen=True)
class Args:
    """The command line."""

    games: int = 40
    """to train on"""
    length: int = 200
    """steps of a game"""
    updates: int = 1500
    """of each network"""
    batch_size: int = 32
    """segments an update"""
    learning_rate: float = 1e-3
    """of AdamW, falling to zero over the last third"""
    channels: tuple[int, ...] = (32, 32)
    """width of each level of the network"""
    denoising_steps: tuple[int, ...] = (1, 3, 10)
    """the n to compare"""
    moments: int = 1000
    """of other games, from which a next frame is drawn once each"""
    dreams: int = 32
    """of other games, to dream on from"""
    steps: int = 20
    """of each dream"""
    seed: int = 0
    """of games, network, batches and noise"""
    out: Path = Path("runs/study_modes")
    """folder for the networks, figures and picture; networks that are there already are not trained again"""


def play(length: int, seed: int) -> Episode:
    """A square on black jumps left or right, at random; at a wall there is but one way."""
    rng = np.random.default_rng(seed)
    places = [int(rng.integers(len(PLACES)))]
    for _ in range(length):
        place = places[-1] + int(rng.choice([-1, 1]))
        places.append(place if 0 <= place < len(PLACES) else 2 * places[-1] - place)
    return Episode(
        frames=np.stack([draw(place) for place in places]),
        actions=np.zeros(length, np.int64),
        rewards=np.zeros(length, np.float32),
        terminated=np.zeros(length, np.bool_),
        truncated=np.arange(length) == length - 1,
        lives=np.zeros(length, np.int32),
        ram=None,
        info=EpisodeInfo(env=ENV, seed=seed, policy="none"),
    )


def draw(place: int) -> np.ndarray:
    """The frame with the square at one of its places: uint8 (16, 16, 3)."""
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    frame[TOP : TOP + SQUARE, PLACES[place] : PLACES[place] + SQUARE] = 255
    return frame


def brightness(frames: np.ndarray) -> np.ndarray:
    """How bright each place is, from frames uint8 (M, 16, 16, 3): float (M, places), 1 for a square."""
    rows = frames[:, TOP : TOP + SQUARE].mean(axis=(1, 3)) / 255  # (M, 16)
    return np.stack([rows[:, left : left + SQUARE].mean(axis=1) for left in PLACES], axis=1)


@dataclass(frozen=True)
class NextFrames:
    """What was drawn where left and right are equally likely; shares of these frames, with intervals over them."""

    one: Estimate
    """one square, left or right, and nothing at the other place"""
    both: Estimate
    """the average: both places neither bright nor dark"""
    other: Estimate
    """neither of these"""
    left: Estimate
    """share of left among the frames with one square"""
    brighter: Estimate
    """brightness of the brighter of the two places; a square has 1, the average of the two 0.5"""
    dimmer: Estimate
    """brightness of the other; 0 and 0.5"""


def judge_next(last: np.ndarray, drawn: np.ndarray) -> NextFrames:
    """Judge frames drawn after real ones.

    Args:
        last: uint8 (M, 16, 16, 3), the last real frames, with the square at none of the walls.
        drawn: uint8 (M, 16, 16, 3), the frames drawn after them.
    """
    place = brightness(last).argmax(axis=1)
    rows, after = np.arange(len(drawn)), brightness(drawn)
    left, right = after[rows, place - 1], after[rows, place + 1]
    dimmer, brighter = np.minimum(left, right), np.maximum(left, right)
    one = (brighter >= BRIGHT) & (dimmer <= DARK)
    both = (brighter < BRIGHT) & (dimmer > DARK)
    return NextFrames(
        one=estimate(one),
        both=estimate(both),
        other=estimate(~one & ~both),
        left=estimate((left > right)[one]),
        brighter=estimate(brighter),
        dimmer=estimate(dimmer),
    )


def shows_one(frames: np.ndarray) -> np.ndarray:
    """Which frames, uint8 (M, 16, 16, 3), show just one square: bool (M,)."""
    bright = brightness(frames)
    return ((bright >= BRIGHT).sum(axis=1) == 1) & ((bright <= DARK).sum(axis=1) == len(PLACES) - 1)


def fit(args: Args, name: str, student_of: Teacher | None = None, tolerance: float = -1.0) -> Denoiser:
    """DIAMOND's denoiser, small, fitted to the game.

    Args:
        args: the command line.
        name: of the file that keeps it.
        student_of: who draws the frames to learn, in a single step; None fits an ordinary denoiser.
        tolerance: as in `one_step_loss`: negative for the teacher's frames, 2 for the real ones.
    """
    levels = len(args.channels)
    config = DenoiserConfig(
        num_actions=1,
        cond_channels=64,
        depths=(1,) * levels,
        channels=args.channels,
        attention=(False,) * levels,
        quantisation="round",
        patch_size=2,
    )
    training = TrainingConfig(
        batch_size=args.batch_size, targets=1, learning_rate=args.learning_rate, cooldown=0.33, average_decay=0.995
    )
    settings = json.dumps(
        {
            "network": asdict(config),
            "training": asdict(training),
            "updates": args.updates,
            "games": args.games,
            "length": args.length,
            "seed": args.seed,
            "tolerance": None if student_of is None else tolerance,
        }
    )
    torch.manual_seed(args.seed)
    denoiser = Denoiser(config)
    file = args.out / f"{name}.safetensors"
    if not load_frames(denoiser, file, settings):
        games = [play(args.length, args.seed + i) for i in range(args.games)]
        segments = SegmentSampler(games, config.context_length + 1, beyond_end=False)
        loss = edm_loss(denoiser, training)
        if student_of is not None:
            loss = student_loss(denoiser, training.targets, student_of, tolerance)
        fit_frames(
            denoiser,
            loss,
            segments,
            training,
            updates=args.updates,
            seed=args.seed,
            label=name,
        )
        save_frames(denoiser, file, settings)
    return denoiser.eval()


def draw_exactly(start: Tensor, past: Tensor, actions: Tensor) -> Tensor:
    """The frame that the exact denoiser draws in three steps."""
    return sample(lambda x, sigma: exact(x, sigma, past, actions), start, SamplerConfig(), lambda: start)


def exact(x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
    """What a perfect network would say: the mean of the two frames that may come next, by how well each explains x.

    Offset noise takes no part: it shifts a whole channel, in which both frames have the same sum.
    """
    place = brightness(to_uint8(past[:, -1]).numpy()).argmax(axis=1)
    last = len(PLACES) - 1
    sides = np.where(place == 0, 1, place - 1), np.where(place == last, last - 1, place + 1)
    left, right = (
        to_unit(torch.from_numpy(np.stack([[draw(i)] for i in side])), torch.ones(1, 1))[:, 0] for side in sides
    )
    distances = [((x - frame).double() ** 2).sum(dim=(1, 2, 3)) for frame in (left, right)]
    weight = torch.sigmoid((distances[1] - distances[0]) / (2 * sigma.double() ** 2)).float()[:, None, None, None]
    return quantise(weight * left + (1 - weight) * right, "round")


def dream(denoise: Denoise, num_steps: int, windows: Windows, seed: int) -> np.ndarray:
    """Dream on from real moments with so many denoising steps a frame: uint8 (N, K, 16, 16, 3)."""
    config = SamplerConfig(num_denoising_steps=num_steps)

    def next_frame(past: Tensor, actions: Tensor, noise: RowNoise) -> Tensor:
        start = noise.normal(tuple(past.shape[2:]))
        # Without churn no more noise is asked for.
        return sample(lambda x, sigma: denoise(x, sigma, past, actions), start, config, lambda: start)

    dynamics = FrameDynamics(
        next_frame,
        context_length=windows.contexts.length,
        frame_shape=(SIDE, SIDE, 3),
        num_actions=len(ENV["action_meanings"]),
    )
    return replay(dynamics, windows, seed=seed)


def undecided(frames: np.ndarray) -> np.ndarray:
    """In which frames, uint8 (M, 16, 16, 3), the square can jump both ways: bool (M,)."""
    place = brightness(frames).argmax(axis=1)
    return (place > 0) & (place < len(PLACES) - 1)


def table(next_frames: dict[str, NextFrames], dreams: dict[str, dict[str, Estimate]]) -> str:
    """Markdown: what the next frame shows, and how many frames of a dream show one square."""
    above = [
        ["next frame", "one square", "both, half bright", "other", "left, of one", "brighter place", "dimmer place"]
    ]
    for name, row in next_frames.items():
        above.append([name, *map(str, (row.one, row.both, row.other, row.left, row.brighter, row.dimmer))])
    below = [["frames with one square", *(f"k = {k}" for k in next(iter(dreams.values())))]]
    below += [[name, *map(str, shares.values())] for name, shares in dreams.items()]
    return f"{markdown(above)}\n\n{markdown(below)}\n"


def main(args: Args) -> None:
    denoiser = fit(args, "denoiser")
    students = {
        "distilled from exact, n = 3": fit(args, "distilled", draw_exactly, -1.0),
        "one step to real frames": fit(args, "one_step", draw_exactly, 2.0),
    }
    length = denoiser.config.context_length
    others = [play(args.length, args.seed + args.games + i) for i in range(20)]  # games that it was not fitted to
    moments = draw_windows(others, length, 1, args.moments, args.seed, begins=undecided)
    begins = draw_windows(others, length, args.steps, args.dreams, args.seed, begins=undecided)
    ks = [k for k in (1, 5, 20, 50, 200) if k < args.steps] + [args.steps]

    drawn = {"the game": moments.frames}
    dreamt = {"the game": begins.frames}
    denoisers: dict[str, Denoise] = {"exact": exact, "trained": denoiser}
    for name, denoise in denoisers.items():
        for n in args.denoising_steps:
            drawn[f"{name}, n = {n}"] = dream(denoise, n, moments, args.seed)
            dreamt[f"{name}, n = {n}"] = dream(denoise, n, begins, args.seed)
    for name, student in students.items():
        drawn[name] = dream(student, 1, moments, args.seed)
        dreamt[name] = dream(student, 1, begins, args.seed)
    last = moments.contexts.frames[:, -1]
    next_frames = {name: judge_next(last, frames[:, 0]) for name, frames in drawn.items()}
    dreams = {name: {str(k): estimate(shows_one(frames[:, k - 1])) for k in ks} for name, frames in dreamt.items()}

    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(args).items()}
    figures = {
        "settings": settings,
        "next_frames": {name: asdict(row) for name, row in next_frames.items()},
        "dreams": {name: {k: asdict(share) for k, share in row.items()} for name, row in dreams.items()},
    }
    write_json(args.out / "modes.json", json_figures(figures))
    with atomic_write(args.out / "modes.md") as temporary:
        temporary.write_text(table(next_frames, dreams), encoding="utf-8")
    with atomic_write(args.out / "modes.png") as temporary:
        temporary.write_bytes(png(picture(moments, drawn, begins, dreamt)))
    print(f"\n{table(next_frames, dreams)}\nSaved {args.out}/modes.json, modes.md and modes.png.")


def picture(
    moments: Windows, drawn: dict[str, np.ndarray], begins: Windows, dreamt: dict[str, np.ndarray]
) -> np.ndarray:
    """Above, the next frame after several moments; below, the first frames of one dream."""
    columns = min(12, len(moments), dreamt["the game"].shape[1])
    above = {"last frame": moments.contexts.frames[:columns, -1]}
    above |= {f"next, {name}": frames[:columns, 0] for name, frames in drawn.items()}
    below = {f"dream, {name}": frames[0, :columns] for name, frames in dreamt.items()}
    width = max(map(len, [*above, *below]))  # one width of labels, so that the columns stand below each other
    parts = (
        strips({label.ljust(width): frames for label, frames in rows.items()}, headings, scale=3)
        for rows, headings in ((above, [""] * columns), (below, [f"k = {k}" for k in range(1, columns + 1)]))
    )
    return np.concatenate(list(parts))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
