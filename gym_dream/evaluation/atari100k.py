"""The Atari 100k report: how good the agents of a folder of scores are, beside what was published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gym_dream.evaluation.aggregates import FIGURES, Interval, aggregate, intervals
from gym_dream.evaluation.tables import markdown
from gym_dream.files import atomic_write, read_json, write_json
from gym_dream.games import GAMES, find_game

ALGORITHMS = ("SimPLe", "TWM", "IRIS", "DreamerV3", "STORM", "DIAMOND")
PUBLISHED_SEEDS = "DIAMOND, published seeds"

_FORMAT = (
    "A folder of results holds for each game either Breakout.json, a list with one item a seed, or a folder Breakout "
    "with 0.json, 1.json, …, one file a seed. A seed is a raw game score, or a list of its episodes' scores."
)


@dataclass(frozen=True)
class Reference:
    """What is known of a game; raw game scores.

    Attributes:
        random: of random play.
        human: of a human.
        means: of the published algorithms, by name.
        diamond_seeds: of DIAMOND's five seeds.
    """

    random: float
    human: float
    means: dict[str, float]
    diamond_seeds: tuple[float, ...]

    def normalise(self, scores: Sequence[float] | np.ndarray) -> np.ndarray:
        """Raw scores as human-normalised ones: 0 is random play, 1 a human."""
        return (np.asarray(scores, np.float64) - self.random) / (self.human - self.random)


@dataclass(frozen=True)
class Published:
    """The package's ``atari100k.json``.

    Attributes:
        games: by name.
        printed: by algorithm, then by name as in `FIGURES`, the aggregates that were printed over all games; medians
            and optimality gaps were not.
    """

    games: dict[str, Reference]
    printed: dict[str, dict[str, float]]


def published() -> Published:
    """Read what the package knows of published scores; ``atari100k.json`` beside this module names the sources."""
    facts = read_json(Path(__file__).with_name("atari100k.json"))
    games = {
        name: Reference(
            game["random"], game["human"], {a: game[a] for a in ALGORITHMS}, tuple(map(float, game["diamond_seeds"]))
        )
        for name, game in facts["games"].items()
    }
    columns = {"mean": "mean_hns", "iqm": "iqm_hns", "superhuman_games": "superhuman_games"}
    printed = {a: {name: facts["printed_aggregates"][key][a] for name, key in columns.items()} for a in ALGORITHMS}
    return Published(games, printed)


def read_results(folder: Path) -> dict[str, tuple[float, ...]]:
    """Read a folder of scores; ``docs/atari100k.md`` describes it.

    Returns:
        By game the raw score of each seed, in the benchmark's order of games. Seeds are in the order of the list, or
        of the files' names.

    Raises:
        FileNotFoundError, NotADirectoryError: no such folder, or none with scores.
        ValueError: a file that is not of this format, an unknown game, a game twice, an empty list, a score that is
            no finite number.
    """
    if not folder.is_dir():
        kind = NotADirectoryError if folder.exists() else FileNotFoundError
        raise kind(f"No folder of results at {folder}. {_FORMAT}")
    found: dict[str, tuple[Path, tuple[float, ...]]] = {}
    for entry in _entries(folder):
        if not entry.is_dir() and entry.suffix != ".json":
            raise ValueError(f"{entry} is no file of scores. {_FORMAT}")
        try:
            game = find_game(entry.name if entry.is_dir() else entry.stem).name
        except ValueError as error:
            raise ValueError(f"{entry}: {error} {_FORMAT}") from error
        if game in found:
            raise ValueError(f"{game} is there twice: {found[game][0]} and {entry}. Keep one.")
        found[game] = entry, _read_folder(entry) if entry.is_dir() else _read_list(entry)
    if not found:
        raise FileNotFoundError(f"{folder} is empty. {_FORMAT}")
    return {game.name: found[game.name][1] for game in GAMES if game.name in found}


def _entries(folder: Path) -> list[Path]:
    """All but hidden files; files of seeds named by numbers in the order of the numbers."""
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entries, key=lambda e: (int(e.stem) if e.stem.isdecimal() else math.inf, e.name))


def _read_folder(folder: Path) -> tuple[float, ...]:
    files = _entries(folder)
    for file in files:
        if file.suffix != ".json":
            raise ValueError(f"{file} is no file of scores. {_FORMAT}")
    if not files:
        raise ValueError(f"{folder} holds no seeds. {_FORMAT}")
    return tuple(_seed(read_json(file), str(file)) for file in files)


def _read_list(file: Path) -> tuple[float, ...]:
    seeds = read_json(file)
    if not isinstance(seeds, list) or not seeds:
        raise ValueError(f"{file}: expected a list with at least one seed, got {_shown(seeds)}. {_FORMAT}")
    return tuple(_seed(seed, f"{file}, seed {index}") for index, seed in enumerate(seeds))


def _seed(value: Any, where: str) -> float:
    """The mean of a seed's episodes."""
    episodes = value if isinstance(value, list) else [value]
    if not episodes:
        raise ValueError(f"{where}: expected a score or at least one episode's, got an empty list.")
    for score in episodes:
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise ValueError(f"{where}: expected a number or a list of numbers, got {_shown(score)}. {_FORMAT}")
        if not math.isfinite(score):
            raise ValueError(f"{where}: expected finite scores, got {score}. Leave out the seed, or repeat its run.")
    return float(np.mean(episodes))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


@dataclass(frozen=True)
class GameFigures:
    """One game.

    Attributes:
        scores: raw, one a seed.
        score: their mean.
        normalised: the same, human-normalised.
    """

    scores: tuple[float, ...]
    score: Interval
    normalised: Interval


@dataclass(frozen=True)
class Report:
    """An Atari 100k report.

    Attributes:
        name: of the agents reported on.
        games: by name.
        missing: games of the benchmark that have no scores.
        aggregates: by name as in `FIGURES`.
        diamond: the same of DIAMOND's published seeds, over the same games.
        others: of the published algorithms, over the same games and from their means: what can be told from these,
            which is all but IQM and optimality gap.
        published: what they are compared with.
        notes: what else a reader must know.
        written: files that the report was written to.
    """

    name: str
    games: dict[str, GameFigures]
    missing: tuple[str, ...]
    aggregates: dict[str, Interval]
    diamond: dict[str, Interval]
    others: dict[str, dict[str, float]]
    published: Published
    notes: tuple[str, ...]
    written: tuple[Path, ...] = ()

    @property
    def is_diamond(self) -> bool:
        """Whether the scores reported on are those of DIAMOND's published seeds, whatever they are called."""
        known = self.published.games
        return all(game.scores == known[name].diamond_seeds for name, game in self.games.items())

    def text(self) -> str:
        """For the terminal; Markdown, too."""
        seeds = sorted({len(game.scores) for game in self.games.values()})
        span = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        parts = [
            f"Atari 100k: {self.name}; {len(self.games)} of {len(GAMES)} games, seeds a game: {span}. "
            "Human-normalised: 0 is random play, 1 a human. In brackets 95% intervals of the stratified bootstrap over "
            "seeds.",
            markdown(self._aggregate_rows()),
            *self.notes,
            "Raw game scores, means over seeds:",
            markdown(self._game_rows()),
        ]
        if self.written:
            parts.append(f"Wrote {' and '.join(map(str, self.written))}.")
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> dict[str, Any]:
        """What `write_report` writes."""
        references = self.published.games
        return {
            "suite": "atari100k",
            "name": self.name,
            "aggregates": {name: asdict(figure) for name, figure in self.aggregates.items()},
            "games": {
                name: {"random": references[name].random, "human": references[name].human} | asdict(game)
                for name, game in self.games.items()
            },
            "missing_games": self.missing,
            "published": {
                name: {
                    "from_means_over_the_same_games": figures,
                    "printed_over_all_games": self.published.printed[name],
                    "means": {game: references[game].means[name] for game in self.games},
                }
                for name, figures in self.others.items()
            },
            "diamond_seeds_over_the_same_games": {name: asdict(figure) for name, figure in self.diamond.items()},
            "notes": self.notes,
        }

    def _aggregate_rows(self) -> list[list[str]]:
        def cells(figures: Mapping[str, Interval]) -> list[str]:
            return [f"{figures[name]:{'.0f' if name == 'superhuman_games' else '.3f'}}" for name in FIGURES]

        rows = [
            ["", "mean", "median", "IQM", "optimality gap", "superhuman games"],
            [self.name, *cells(self.aggregates)],
        ]
        for name, figures in self.others.items():
            printed = self.published.printed[name]
            mean, iqm = f"{figures['mean']:.3f}", "-"
            if not self.missing:
                iqm = f"{printed['iqm']:.3f} (printed)"
                if mean != f"{printed['mean']:.3f}":
                    mean += f" ({printed['mean']:.3f} printed)"
            rows.append([name, mean, f"{figures['median']:.3f}", iqm, "-", f"{figures['superhuman_games']:.0f}"])
        if not self.is_diamond:
            rows.append([PUBLISHED_SEEDS, *cells(self.diamond)])
        return rows

    def _game_rows(self) -> list[list[str]]:
        rows = [["game", "random", "human", *ALGORITHMS, "score", "human-normalised"]]
        for name, game in self.games.items():
            known = self.published.games[name]
            raw = (known.random, known.human, *(known.means[algorithm] for algorithm in ALGORITHMS))
            rows.append([name, *(f"{score:.1f}" for score in raw), f"{game.score:.1f}", f"{game.normalised:.3f}"])
        return rows


def report(scores: Mapping[str, Sequence[float]], name: str) -> Report:
    """Report on scores.

    Args:
        scores: by game the raw score of each seed, at least one. Games may be missing: the others are reported on, and
            compared over the same games. Numbers of seeds may differ: every game weighs the same.
        name: of the agents.

    Raises:
        ValueError: no games, a game without a reference for random play and humans, no scores, or scores that are no
            finite numbers.
    """
    known = published()
    if not scores:
        raise ValueError("Expected the scores of at least one game, got none.")
    for game, values in scores.items():
        if game not in known.games:
            raise ValueError(f"No scores of random play and of humans for {game!r}, so it cannot be human-normalised.")
        if len(values) == 0 or not np.isfinite(values).all():
            raise ValueError(f"{game}: expected a finite score for each of at least one seed, got {list(values)}.")
    games = [game for game in known.games if game in scores]
    missing = tuple(game for game in known.games if game not in scores)
    runs = [known.games[game].normalise(scores[game]) for game in games]
    diamond = [known.games[game].normalise(known.games[game].diamond_seeds) for game in games]
    others = {}
    for algorithm in ALGORITHMS:
        means = [known.games[game].normalise([known.games[game].means[algorithm]]) for game in games]
        figures = dict(zip(FIGURES, aggregate(means).tolist(), strict=True))
        others[algorithm] = {figure: figures[figure] for figure in ("mean", "median", "superhuman_games")}
    return Report(
        name=name,
        games={game: _game(scores[game], known.games[game]) for game in games},
        missing=missing,
        aggregates=dict(zip(FIGURES, intervals(runs), strict=True)),
        diamond=dict(zip(FIGURES, intervals(diamond), strict=True)),
        others=others,
        published=known,
        notes=_notes(games, missing, [len(run) for run in runs]),
    )


def write_report(results: Path | None = None, out: Path | None = None) -> Report:
    """Report on a folder of scores: ``gym-dream evaluate --suite atari100k``.

    Args:
        results: the folder, see `read_results`; None: DIAMOND's published seeds.
        out: a folder that gets ``report.json``, which is the same for the same scores, and the page ``report.png``, if
            matplotlib is installed. None writes nothing.

    Returns:
        The report; its ``text()`` is for the terminal.

    Raises:
        OSError, ValueError: as from `read_results`; ``out`` is ``results`` or in it, holds a ``report.json`` of another
            kind, or cannot be written.
    """
    if out is not None:
        _refuse_to_replace(out / "report.json")
    if results is None:
        made = report({name: game.diamond_seeds for name, game in published().games.items()}, PUBLISHED_SEEDS)
    else:
        if out is not None and results.resolve() in (out.resolve(), *out.resolve().parents):
            raise ValueError(
                f"The report would be among the scores, in {out}, and be read as some: choose another --out."
            )
        made = report(read_results(results), results.resolve().name)
    if out is None:
        return made
    written, notes = [out / "report.json"], made.notes
    write_json(written[0], made.to_json())
    if find_spec("matplotlib") is None:
        notes += ("No page of plots: that needs matplotlib (pip install 'gym-dream[eval]').",)
    else:
        from gym_dream.evaluation.atari100k_page import draw

        written.append(out / "report.png")
        with atomic_write(written[1]) as temporary:
            draw(made, temporary)
    return Report(**{**vars(made), "notes": notes, "written": tuple(written)})


def _refuse_to_replace(path: Path) -> None:
    """Other evaluations write a file of that name, too, and took longer."""
    if path.exists():
        there = read_json(path)
        if not isinstance(there, dict) or there.get("suite") != "atari100k":
            raise FileExistsError(f"{path} is there already, and no Atari 100k report: choose another folder (--out).")


def _game(scores: Sequence[float], reference: Reference) -> GameFigures:
    raw = np.asarray(scores, np.float64)
    score, normalised = (
        intervals([values], lambda runs: runs[0].mean(axis=-1, keepdims=True))[0]
        for values in (raw, reference.normalise(raw))
    )
    return GameFigures(tuple(raw.tolist()), score, normalised)


def _notes(games: Sequence[str], missing: Sequence[str], seeds: Sequence[int]) -> tuple[str, ...]:
    notes = []
    if missing:
        notes.append(
            f"NOT the whole benchmark: {len(missing)} games are missing ({', '.join(missing)}). All figures, those of "
            f"the other algorithms as well, are over the same {len(games)} game{'s' if len(games) > 1 else ''}, and "
            "cannot be compared with figures printed anywhere."
        )
    notes.append(
        "Other algorithms: from the means that were published for each game; IQM and optimality gap need the single "
        "runs" + ("." if missing else ", so IQM is as printed.")
    )
    if len(set(seeds)) > 1:
        notes.append("Games have different numbers of seeds; every game weighs the same in every figure.")
    if single := [game for game, count in zip(games, seeds, strict=True) if count == 1]:
        which = "Every game" if len(single) == len(games) else ", ".join(single)
        notes.append(f"One seed only: {which}. Its spread is unknown, and so not in the intervals.")
    return tuple(notes)
