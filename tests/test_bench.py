"""The benchmark measures what it says it does; how fast the machine is, no test can know."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch

from gym_dream.benchmark import run
from gym_dream.benchmark.agents import TimedDream, measure_agents
from gym_dream.benchmark.ceilings import measure_ceilings
from gym_dream.benchmark.dreams import KINDS, ORIGINAL, measure_dreams, open_subjects
from gym_dream.benchmark.engines import REFERENCE, Engine, engines
from gym_dream.benchmark.report import text
from gym_dream.benchmark.timing import Stopwatch, Timing, interleaved
from gym_dream.cli import main
from gym_dream.files import read_json
from gym_dream.trainers.imagination import ImaginationConfig
from gym_dream.trainers.presets import PRESETS
from gym_dream.world_model import resolve_dtype

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], str]]:
    """The real command on networks of a few thousand weights, the original and both presets included."""
    folder = tmp_path_factory.mktemp("bench")
    tiny.world_model().save(folder / "model")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", tiny.PRESET)
        patch.setitem(PRESETS, "diamond-atari", tiny.PRESET)
        arguments = f"bench --model {folder / 'model'} --out {folder / 'figures'} --batch-sizes 1 2 --repeats 1"
        assert main([*arguments.split(), "--threads", "1", "--device", "cpu", "--minutes", "20"]) == 0
    assert torch.get_num_threads() == threads
    found = read_json(folder / "figures" / "bench.json")
    yield found, text(found)


def test_the_file_holds_all_that_was_asked_for(benched):
    found, _ = benched
    assert set(found) == {
        "format_version",
        "model",
        "machine",
        "settings",
        "ceilings",
        "start",
        "dreams",
        "left_out",
        "parts",
        "training",
        "agents",
    }
    names = [engine.name for engine in engines(CPU, compile=False)]
    keys = {(r["network"], r["engine"], r["kind"], r["batch"], r["denoising_steps"]) for r in found["dreams"]}
    assert keys == {
        (network, engine, kind, batch, steps)
        for network in (ORIGINAL, "model")
        for engine in names
        for kind in KINDS
        for batch in (1, 2)
        for steps in (1, 3)
    }
    assert len(found["dreams"]) == len(keys) and found["left_out"] == []
    assert {(r["operation"]) for r in found["ceilings"]} == {"matrix product", "3x3 convolution"}
    assert [(r["network"], r["batch"]) for r in found["start"]] == [(ORIGINAL, 1), ("model", 1), ("model", 2)]
    assert {(r["network"], r["batch"]) for r in found["parts"]} == {(n, b) for n in (ORIGINAL, "model") for b in (1, 2)}
    assert {(r["preset"], r["network"], r["engine"]) for r in found["training"]} == {
        (preset, network, engine)
        for preset in ("small", "diamond-atari")
        for network in ("denoiser", "reward and termination model")
        for engine in names
        if not engine.startswith("int8")
    }
    assert found["settings"]["threads"] == 1 and found["machine"]["torch"] == torch.__version__


def test_ratios_are_against_the_same_case_in_plain_float32(benched):
    rows = benched[0]["dreams"]
    seconds = {(r["network"], r["engine"], r["kind"], r["batch"], r["denoising_steps"]): r["seconds"] for r in rows}
    for row in rows:
        network, kind, batch, steps = (row[key] for key in ("network", "kind", "batch", "denoising_steps"))
        assert row["ratio"] == seconds[network, REFERENCE.name, kind, batch, steps] / row["seconds"]
        assert row["ratio_to_original"] == seconds[ORIGINAL, REFERENCE.name, kind, batch, 3] / row["seconds"]
        assert row["per_second"] == batch / row["seconds"] > 0
        assert row["seconds_low"] <= row["seconds"] <= row["seconds_high"]
        if row["engine"] == REFERENCE.name:
            assert row["ratio"] == 1
    convolution = next(r for r in benched[0]["ceilings"] if r["operation"] == "3x3 convolution")
    frames = [row for row in rows if row["kind"] == "frame" and row["precision"] == "float32"]
    for row in frames:
        assert row["flops_per_second"] == row["flops"] / row["seconds"]
        assert row["share_of_ceiling"] == row["flops_per_second"] / convolution["flops_per_second"]
    by_size = {(r["batch"], r["denoising_steps"]): r["flops"] for r in frames if r["network"] == "model"}
    assert by_size[2, 3] == 2 * by_size[1, 3] == 6 * by_size[1, 1]


def test_the_parts_of_a_step_add_up_to_it(benched):
    for row in benched[0]["parts"]:
        whole, *parts = row["parts"]
        assert whole["part"] == "whole step" and whole["share"] == 1
        assert sum(part["share"] for part in parts) == pytest.approx(1)
        assert sum(part["seconds"] for part in parts) == pytest.approx(whole["seconds"])
        assert any("denoiser" in part["part"] for part in parts)
        assert "conv" in " ".join(operation["operation"] for operation in row["operations"])
        assert 0 < sum(operation["share"] for operation in row["operations"]) <= 1


def test_a_fresh_process_tells_its_own_time_and_memory(benched):
    for row in benched[0]["start"]:
        laps = {name: lap["seconds"] for name, lap in row["laps"].items()}
        assert set(laps) == {"imports", "make", "reset and step", "until the first frame"}
        others = laps["imports"] + laps["make"] + laps["reset and step"]
        assert laps["until the first frame"] == pytest.approx(others, rel=0.05)
        assert 1e7 < row["peak_bytes"] < 1e10 and row["peak_device_bytes"] is None


def test_an_agents_update_is_measured_beside_the_dream_steps_in_it(benched):
    rows = benched[0]["agents"]
    assert [(r["network"], r["batch"], r["denoising_steps"]) for r in rows] == [
        (network, batch, 3) for network in (ORIGINAL, "model") for batch in (1, 2)
    ]
    for row in rows:
        assert row["dream_steps"] == ImaginationConfig().rollout
        assert 0 < row["dream_seconds"] < row["seconds"]
        assert row["ratio_to_dreams"] == pytest.approx(row["seconds"] / row["dream_seconds"])


def test_an_update_that_takes_too_long_is_measured_with_fewer_dreams():
    subject = open_subjects({"model": tiny.world_model()}, [REFERENCE], CPU)["model", REFERENCE]
    worlds: list[TimedDream] = []

    def update_agent(env: dict[str, Any], world: TimedDream) -> Any:
        world.reset()
        worlds.append(world)
        batch = len(world.observation)
        return lambda: world.step(torch.zeros(batch, dtype=torch.int64))

    def batches(seconds: float) -> list[int]:
        rows = measure_agents({"model": subject}, "", (1, 4, 10**6), update_agent, Stopwatch(CPU), 2, seconds)
        return [row["batch"] for row in rows]

    assert batches(0.0) == [1]
    assert batches(20.0) == [1, 4]
    assert all(world.steps == 1 and world.seconds > 0 for world in worlds)  # of the last update


def test_the_tables_show_what_was_measured(benched):
    _, page = benched
    fastest = str(resolve_dtype("auto", CPU)).removeprefix("torch.")  # what agents are timed in
    for words in (
        "Ceilings",
        "Frames and steps a second",
        "model, step, 3, float32 channels-last",
        "original, frame, 1, float32 contiguous",
        "Share of the convolution's ceiling",
        "A step of model, batch 2",
        "reward and termination model",
        "diamond-atari: denoiser",
        f"model, 3 passes, 2 dreams, {fastest} channels-last",
        "A fresh process",
    ):
        assert words in page
    assert "Left out" not in page


def test_a_part_alone_and_a_file_of_ones_own(tmp_path, capsys):
    out = tmp_path / "mine.json"
    assert main(f"bench --out {out} --measure ceilings --repeats 1 --threads 1 --clock cpu --device cpu".split()) == 0
    found = read_json(out)
    assert "ceilings" in found and not {"dreams", "parts", "training", "start"} & set(found)
    assert found["settings"]["clock"] == "cpu"
    printed = capsys.readouterr().out
    assert "processor time" in printed and "Ceilings" in printed and "A fresh process" not in printed


def test_precisions_are_those_asked_for(tmp_path, monkeypatch, capsys):
    assert run._ways(CPU, True, ["float32"]) == [REFERENCE, Engine("float32"), Engine("float32", compile=True)]
    assert run._ways(CPU, False, ()) == list(engines(CPU, compile=False))
    monkeypatch.setattr("gym_dream.benchmark.engines.why_not", lambda device_type: "no such instructions")
    assert main(f"bench --out {tmp_path} --precisions int8 --device cpu".split()) == 2
    assert "this machine's cpu has ['float32'" in capsys.readouterr().err


def test_what_is_measured_is_kept_if_what_follows_fails(tmp_path, monkeypatch):
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure_starts", stop)
    assert main(f"bench --out {tmp_path} --measure ceilings start --repeats 1 --device cpu".split()) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    assert "ceilings" in read_json(tmp_path / "bench.json")


def test_what_takes_too_long_is_left_out_and_named():
    world_model = tiny.world_model()
    subjects = open_subjects({ORIGINAL: world_model}, [REFERENCE], CPU)
    found, left_out = measure_dreams(subjects, (64, 1), (1,), Stopwatch(CPU), 1, seconds=1e-3)
    assert {row["batch"] for row in found} == {1}
    assert {(row["batch"], row["denoising_steps"], row["kind"]) for row in left_out} == {
        (64, steps, kind) for steps in (1, 3) for kind in KINDS
    }
    page = {"machine": {"hardware": "", "device": "", "torch": ""}, "dreams": found, "left_out": left_out}
    settings = {"threads": 1, "clock": "wall", "reference": ""}
    assert f"{ORIGINAL} at batch 64 ({len(left_out)})" in text({**page, "settings": settings})


# Timing


def test_cases_take_turns_and_the_first_call_warms_up():
    calls: list[str] = []

    def case(name: str) -> Any:
        def work() -> None:
            calls.append(name)
            time.sleep(0.11)  # longer than a sample, so that a sample is one call

        return work

    found = interleaved({"a": case("a"), "b": case("b")}, Stopwatch(CPU), repeats=3)
    assert calls == ["a", "b"] * 4
    assert found["a"].samples == 3 and 0.11 <= found["a"].low <= found["a"].median


def test_short_cases_are_called_often_and_no_round_begins_out_of_time():
    calls = []
    found = interleaved({"a": lambda: calls.append(1)}, Stopwatch(CPU), repeats=5, seconds=0.0)
    assert found["a"].samples == 1 and len(calls) > 10


def test_a_first_call_that_compiles_is_no_sample(monkeypatch):
    monkeypatch.setattr("gym_dream.benchmark.timing.LONG_SECONDS", 0.2)
    compiled: list[int] = []

    def work() -> None:
        if not compiled:
            time.sleep(0.4)
        compiled.append(1)

    assert interleaved({"a": work}, Stopwatch(CPU), 1, 0.0, uncounted=["a"])["a"].median < 0.2
    compiled.clear()
    assert interleaved({"a": work}, Stopwatch(CPU), 1, 0.0)["a"].median >= 0.4


def test_a_timing_is_the_median_and_the_quartiles():
    assert Timing.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert Timing.of([2.0]) == Timing(2.0, 2.0, 2.0, 1)


def test_ceilings_count_their_operations():
    (product, convolution) = measure_ceilings(["float32"], Stopwatch(CPU), 1, sizes=(8, (2, 4, 16)))
    assert product["flops"] == 2 * 8 * 8 * 8
    assert convolution["flops"] == 2 * 9 * 4 * 4 * 2 * 16 * 16
    assert product["flops_per_second"] == product["flops"] / product["seconds"]


def test_updates_are_those_of_the_trainer(tmp_path):
    """What is timed trains: one network each, and in the layout and precision that is asked for."""
    from gym_dream.trainers import bench as made

    fits: list[Any] = []

    class Kept(made.Fit):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            fits.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "Fit", Kept)
        for engine in engines(CPU, compile=False)[:2]:
            updates = made.updates(tiny.PRESET, tiny.ENV, engine, CPU)
            trained = fits[-1]
            for name, other in (("denoiser", "reward_termination"), ("reward and termination model", "denoiser")):
                before = {n: _weights(getattr(trained, n)) for n in ("denoiser", "reward_termination")}
                updates[name]()
                changed = {n for n, w in before.items() if not torch.equal(w, _weights(getattr(trained, n)))}
                assert changed == {"denoiser", "reward_termination"} - {other}
            weight = trained.world_model.denoiser.inner_model.unet.mid_blocks.resblocks[0].conv1.weight
            assert weight.is_contiguous() == engine.plain


def _weights(learner: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.network.parameters()]).clone()


def test_what_is_plain_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="plain or compile, not both"):
        Engine(plain=True, compile=True)
