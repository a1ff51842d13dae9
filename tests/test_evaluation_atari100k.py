"""The Atari 100k report against published figures, rliable's, and numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from gym_dream import cli
from gym_dream.evaluation import atari100k
from gym_dream.evaluation.aggregates import FIGURES, Interval, aggregate, interquartile_mean, intervals, profile
from gym_dream.evaluation.atari100k import ALGORITHMS, PUBLISHED_SEEDS, published, read_results, report, write_report
from gym_dream.evaluation.tables import markdown
from gym_dream.games import GAMES

FACTS = json.loads(Path(atari100k.__file__).with_name("atari100k.json").read_text(encoding="utf-8"))

# What rliable 1.2.0 (arch 7.2.0, pandas 2.3.3) makes of 7 runs of 6 games; the intervals by 20,000 resamples.
RUNS = np.array(
    [
        [0.199, -0.463, -0.587, -0.377, 0.191, 0.246],
        [0.324, -0.069, 0.306, 1.123, 1.259, 0.643],
        [0.121, 0.921, 1.022, 0.156, 0.114, -0.467],
        [0.285, 0.041, -0.315, -0.039, -0.07, -0.365],
        [0.805, 1.22, 0.398, 0.27, -0.221, -0.307],
        [-0.045, -0.034, -0.053, -0.205, -0.729, -0.928],
        [0.054, -0.623, -0.511, -1.066, -0.48, -0.122],
    ]
)
RLIABLE = {
    "mean": (0.038619, -0.119455, 0.204193),
    "median": (0.023143, -0.171286, 0.244861),
    "iqm": (-0.007636, -0.156591, 0.147236),
    "optimality_gap": (0.976238, 0.821664, 1.12662),
}
RLIABLE_PROFILE = {-1: 0.97619, 0: 0.47619, 0.5: 0.166667, 1: 0.095238, 2: 0.0}


@pytest.fixture(scope="module")
def diamond() -> atari100k.Report:
    return write_report()


def put(folder: Path, **files: str) -> Path:
    """A folder of scores; ``Pong__0`` is the file ``Pong/0.json``."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_the_published_seeds_give_the_published_figures(diamond: atari100k.Report) -> None:
    figures = diamond.aggregates
    assert f"{figures['mean'].value:.3f}" == "1.459"
    assert f"{figures['iqm'].value:.3f}" == "0.641"
    assert figures["superhuman_games"].value == 11
    assert not diamond.missing
    for name in FIGURES:
        low, high = FACTS["diamond_bootstrap_95ci"][name if name in FACTS["diamond_bootstrap_95ci"] else f"{name}_hns"]
        assert figures[name].low == pytest.approx(low, abs=0.02)
        assert figures[name].high == pytest.approx(high, abs=0.02)


def test_printed_aggregates_follow_from_printed_means_but_for_dreamerv3(diamond: atari100k.Report) -> None:
    printed = published().printed
    for algorithm in ALGORITHMS:
        figures = diamond.others[algorithm]
        assert figures["superhuman_games"] == printed[algorithm]["superhuman_games"]
        if algorithm != "DreamerV3":
            assert figures["mean"] == pytest.approx(printed[algorithm]["mean"], abs=0.0006)
    assert f"{diamond.others['DreamerV3']['mean']:.3f}" == "1.130"
    assert "1.130 (1.097 printed)" in diamond.text()


def test_the_package_data_are_whole() -> None:
    assert {"about", "note", "sources"} <= FACTS.keys()
    assert list(published().games) == [game.name for game in GAMES]
    for game in published().games.values():
        assert game.human > game.random
        assert len(game.diamond_seeds) == 5
        assert np.mean(game.diamond_seeds) == pytest.approx(game.means["DIAMOND"], abs=0.051)


def test_figures_and_intervals_are_those_of_rliable() -> None:
    runs = list(RUNS.T)
    found = dict(zip(FIGURES, intervals(runs), strict=True))
    for name, (value, low, high) in RLIABLE.items():
        assert found[name].value == pytest.approx(value, abs=1e-6)
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=0.012)
    thresholds = np.array(list(RLIABLE_PROFILE))
    np.testing.assert_allclose(profile(runs, thresholds), list(RLIABLE_PROFILE.values()), atol=1e-6)


def test_figures_worked_out_by_hand() -> None:
    first, second = np.array([0.0, 0.5]), np.array([2.0, 0.0])
    mean, median, iqm, gap, superhuman = aggregate([first, second])
    assert mean == median == pytest.approx((0.25 + 1) / 2)
    assert iqm == pytest.approx((0 + 0.5) / 2)  # of 0, 0, 0.5, 2 one goes on either side
    assert gap == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert superhuman == 1  # exactly a human's score


def test_the_interquartile_mean_leaves_out_a_quarter_on_either_side() -> None:
    assert interquartile_mean([np.array([8.0, 1, 6, 3]), np.array([100.0, 7, 4, -50])]) == pytest.approx(
        (3 + 4 + 6 + 7) / 4
    )
    assert interquartile_mean([np.arange(9.0) ** 2]) == pytest.approx(18)  # of 9 runs 2 go on either side, not 2.25
    assert interquartile_mean([np.array([5.0])]) == 5


def test_games_weigh_the_same_whatever_their_number_of_seeds() -> None:
    # 0 and 8 weigh a quarter each, 1 to 4 an eighth; of 6 runs one sixth is left out on either side.
    expected = (8 / 12 + (1 + 2 + 3 + 4) / 8) / (1 - 2 / 6)
    assert interquartile_mean([np.array([0.0, 8]), np.array([1.0, 2, 3, 4])]) == pytest.approx(expected)
    mean, _, _, gap, _ = aggregate([np.array([0.0]), np.array([0.5, 0.5, 0.5, 0.5, 0.5])])
    assert mean == pytest.approx(0.25)
    assert gap == pytest.approx(0.75)
    np.testing.assert_allclose(profile([np.zeros(1), np.ones(5)], np.array([-1, 0.5, 1])), [1, 0.5, 0])


def test_the_bootstrap_is_seeded() -> None:
    runs = list(RUNS.T)
    assert intervals(runs, resamples=500, seed=1) == intervals(runs, resamples=500, seed=1)
    assert intervals(runs, resamples=500, seed=1) != intervals(runs, resamples=500, seed=2)


def test_the_bootstrap_is_stratified() -> None:
    """However games differ, runs that do not leave no doubt."""
    for figure in intervals([np.full(3, level) for level in (0.0, 0.5, 7.0)], resamples=100):
        assert figure.low == pytest.approx(figure.value)
        assert figure.high == pytest.approx(figure.value)


def test_more_seeds_narrow_the_interval() -> None:
    def width(repeats: int) -> np.ndarray:
        found = intervals([np.tile(game, repeats) for game in RUNS.T], resamples=2000)
        return np.array([figure.high - figure.low for figure in found[:4]])  # type: ignore[operator]

    np.testing.assert_allclose(width(4) / width(1), 0.5, atol=0.1)


def test_one_seed_has_no_interval() -> None:
    alone = report({"Pong": [14.6]}, "mine")
    assert alone.aggregates["mean"] == Interval(1.0, None, None)
    assert f"{alone.aggregates['mean']:.3f}" == "1.000 [-]"
    assert "One seed only: Every game" in alone.text()
    mixed = report({"Pong": [14.6], "Breakout": [1.7, 30.5]}, "mine")
    assert mixed.games["Pong"].score.low is None
    assert mixed.aggregates["mean"].low == pytest.approx(0.5)
    assert "One seed only: Pong" in mixed.text()
    assert "every game weighs the same" in mixed.text()


def test_some_games_are_compared_over_the_same_games() -> None:
    found = report({"Pong": [20.0, 21.0], "Freeway": [30.0, 33.0]}, "mine")
    freeway, pong = published().games["Freeway"], published().games["Pong"]
    assert list(found.games) == ["Freeway", "Pong"]
    assert len(found.missing) == 24
    for algorithm in ALGORITHMS:
        means = [freeway.normalise([freeway.means[algorithm]])[0], pong.normalise([pong.means[algorithm]])[0]]
        assert found.others[algorithm]["mean"] == pytest.approx(np.mean(means))
    assert found.diamond["superhuman_games"].value == 2
    text = found.text()
    assert "NOT the whole benchmark: 24 games are missing (Alien," in text
    assert "printed)" not in text  # printed figures are over all games
    assert "2 of 26 games" in text


def test_reading_both_ways_of_keeping_scores(tmp_path: Path) -> None:
    folder = put(
        tmp_path,
        Breakout="[124, [80, 82], 81.5]",
        Pong__10="[1, 2]",
        Pong__2="-3.5",
        ms_pacman="[100]",
    )
    (folder / ".hidden").write_text("")
    assert read_results(folder) == {"Breakout": (124, 81, 81.5), "MsPacman": (100,), "Pong": (-3.5, 1.5)}
    assert list(read_results(folder)) == ["Breakout", "MsPacman", "Pong"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"SpaceInvaders": "[1]"}, "SpaceInvaders.json: Unknown game 'SpaceInvaders'"),
        ({"report": "{}"}, "report.json: Unknown game"),
        ({"Pong": "[]"}, r"Pong.json: expected a list with at least one seed, got \[\]"),
        ({"Pong": "20.4"}, "Pong.json: expected a list with at least one seed, got 20.4"),
        ({"Pong": '{"0": 20.4}'}, "Pong.json: expected a list"),
        ({"Pong": "[1, NaN]"}, "Pong.json, seed 1: expected finite scores, got nan"),
        ({"Pong__0": "[1, Infinity]"}, "0.json: expected finite scores, got inf"),
        ({"Pong": '["20"]'}, "Pong.json, seed 0: expected a number or a list of numbers, got '20'"),
        ({"Pong": "[true]"}, "Pong.json, seed 0: expected a number or a list of numbers, got True"),
        ({"Pong__0": "[]"}, "0.json: expected a score or at least one episode's, got an empty list"),
        ({"Pong__0": "[1"}, "0.json is not valid JSON"),
        ({"MsPacman": "[1]", "ms_pacman": "[1]"}, "MsPacman is there twice"),
        ({"Pong": "[1]", "Pong__0": "1"}, "Pong is there twice"),
    ],
)
def test_bad_scores(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_results(put(tmp_path, **files))


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No folder of results at .*A folder of results holds for each game"):
        read_results(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is empty"):
        read_results(tmp_path)
    (tmp_path / "Pong").mkdir()
    with pytest.raises(ValueError, match="Pong holds no seeds"):
        read_results(tmp_path)
    (tmp_path / "Pong" / "0.csv").write_text("1")
    with pytest.raises(ValueError, match=r"0.csv is no file of scores"):
        read_results(tmp_path)
    (tmp_path / "scores.txt").write_text("1")
    with pytest.raises(NotADirectoryError, match="A folder of results holds"):
        read_results(tmp_path / "scores.txt")


def test_bad_scores_in_python() -> None:
    with pytest.raises(ValueError, match="No scores of random play and of humans for 'Tetris'"):
        report({"Tetris": [1.0]}, "mine")
    with pytest.raises(ValueError, match="at least one game"):
        report({}, "mine")
    with pytest.raises(ValueError, match=r"Pong: expected a finite score .* got \[\]"):
        report({"Pong": []}, "mine")
    with pytest.raises(ValueError, match="Pong: expected a finite score"):
        report({"Pong": [1.0, float("nan")]}, "mine")


def test_the_report_is_not_put_among_the_scores(tmp_path: Path) -> None:
    scores = put(tmp_path / "scores", Pong="[1, 2]")
    for out in (scores, scores / "report"):
        with pytest.raises(ValueError, match="among the scores"):
            write_report(scores, out)
    assert [path.name for path in scores.iterdir()] == ["Pong.json"]


def test_another_evaluation_is_not_replaced(tmp_path: Path) -> None:
    other = tmp_path / "report.json"
    other.write_text('{"settings": {}}')
    with pytest.raises(FileExistsError, match="is there already, and no Atari 100k report"):
        write_report(None, tmp_path)
    assert other.read_text() == '{"settings": {}}'


def test_written_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    scores = put(tmp_path / "my $cores$", Pong="[20, 19.5]", Breakout="[50]", Alien="[100, 900, 100]")
    first = write_report(scores, tmp_path / "first")
    assert first.written == (tmp_path / "first/report.json", tmp_path / "first/report.png")
    assert f"Wrote {first.written[0]} and {first.written[1]}." in first.text()
    assert cv2.imread(str(tmp_path / "first/report.png")).std() > 10

    monkeypatch.setattr(atari100k, "find_spec", lambda name: None)
    second = write_report(scores, tmp_path / "second")
    assert [path.name for path in (tmp_path / "second").iterdir()] == ["report.json"]
    assert "gym-dream[eval]" in second.text()
    assert (tmp_path / "first/report.json").read_bytes() == (tmp_path / "second/report.json").read_bytes()
    stored = json.loads((tmp_path / "first/report.json").read_text(encoding="utf-8"))
    assert stored["name"] == "my $cores$"
    assert stored["games"]["Pong"]["scores"] == [20, 19.5]
    assert stored["games"]["Breakout"]["normalised"]["low"] is None
    assert stored["aggregates"]["iqm"]["value"] == first.aggregates["iqm"].value
    assert len(stored["missing_games"]) == 23
    assert set(stored["published"]) == set(ALGORITHMS)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(atari100k, "find_spec", lambda name: None)
    scores = put(tmp_path / "scores", Pong="[20, 19.5]")
    command = ["evaluate", "--suite", "atari100k", "--results", str(scores), "--out", str(tmp_path / "out")]
    assert cli.main(command) == cli.main(command) == 0
    assert capsys.readouterr().out.startswith("Atari 100k: scores; 1 of 26 games")
    assert (tmp_path / "out/report.json").is_file()
    (scores / "Pong.json").write_text("[NaN]")
    assert cli.main(command) == 2
    assert "Pong.json, seed 0: expected finite scores" in capsys.readouterr().err


def test_the_whole_benchmark_and_a_single_seed_can_be_drawn(tmp_path: Path, diamond: atari100k.Report) -> None:
    page = pytest.importorskip("gym_dream.evaluation.atari100k_page")
    for name, made in {"diamond": diamond, "single": report({"Pong": [-30.0]}, "mine")}.items():
        page.draw(made, tmp_path / f"{name}.png")
        assert cv2.imread(str(tmp_path / f"{name}.png")).std() > 10


@pytest.mark.parametrize("name", ["DreamerV3", PUBLISHED_SEEDS])
def test_agents_called_as_published_ones_keep_their_figures(name: str) -> None:
    page = pytest.importorskip("gym_dream.evaluation.atari100k_page")
    made = report({"Pong": [-20.0, -19.0]}, name)
    assert not made.is_diamond
    rows = page._rows(made, "mean")
    assert [row for row, _ in rows] == [name, PUBLISHED_SEEDS, *page.OTHERS]
    assert rows[0][1] == made.aggregates["mean"] and rows[1][1] == made.diamond["mean"]
    assert dict(rows[2:])["DreamerV3"].value == made.others["DreamerV3"]["mean"]
    axes = page.Figure().add_subplot()
    page._draw_profiles(axes, made)
    assert [curve.get_label() for curve in axes.lines] == [name, PUBLISHED_SEEDS, "a human"]


def test_diamonds_seeds_are_known_by_their_scores(diamond: atari100k.Report) -> None:
    games = {name: game.scores for name, game in diamond.games.items()}
    assert diamond.is_diamond and report(games, "a copy").is_diamond
    assert not report(games | {"Pong": (1.0,)}, PUBLISHED_SEEDS).is_diamond


def test_tables_are_aligned(diamond: atari100k.Report) -> None:
    assert markdown([["a", "b"], ["long", "1"]]) == "| a    |  b |\n| ---- | -: |\n| long |  1 |"
    tables = [block.splitlines() for block in diamond.text().split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables] == [2 + 1 + len(ALGORITHMS), 2 + len(GAMES)]
    assert all(len({len(line) for line in table}) == 1 for table in tables)
    assert PUBLISHED_SEEDS in tables[0][2]
