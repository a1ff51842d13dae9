"""Several processes that fit together, as torchrun would start them, without its seconds of waiting."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tiny
import torch

from gym_dream.trainers import fit as fitting
from gym_dream.trainers import run
from gym_dream.trainers.fit import Fit
from gym_dream.trainers.presets import PRESETS

PATIENCE = 120  # seconds


def together(count: int, folder: Path, **job: Any) -> list[dict[str, Any]]:
    """What each of so many processes reports of its `work`, which gets ``job``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["together", "torch.utils.tensorboard", "torch._dynamo"])  # by optimisers, too
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    reports = [folder / f"report_{rank}.json" for rank in range(count)]
    processes = [
        context.Process(target=work, args=(rank, count, port, str(reports[rank])), kwargs=job) for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(PATIENCE)
            assert process.exitcode == 0, f"a process hangs or failed: exit code {process.exitcode}"
    finally:
        for process in processes:
            process.kill()
    return [json.loads(report.read_text()) for report in reports]


def work(
    rank: int,
    count: int,
    port: int,
    report: str,
    *,
    out: str,
    data: list[str] | None = None,
    ctrl_c: tuple[int, int] = (-1, -1),
    fast_clocks: bool = False,
    **settings: Any,
) -> None:
    """Fit as one of several processes, and write down the losses of every update.

    Args:
        rank: which of them.
        count: how many they are.
        port: where they meet.
        report: the file to write.
        out: the run folder.
        data: the folder of play, one for each process.
        ctrl_c: the process in which somebody presses Ctrl-C, and during which update.
        fast_clocks: all but the first process believe that years have gone by.
        settings: of `tiny.fit`.
    """
    # On newer CPUs oneDNN sums batches of other sizes in another order, and four updates make much of the difference.
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    PRESETS["tiny"] = tiny.PRESET
    fitting.HELD_OUT_BATCHES = 1
    if rank:
        for name in ("save", "save_checkpoint", "evaluate"):
            setattr(
                Fit, name, lambda *arguments: (_ for _ in ()).throw(AssertionError("only the first process writes"))
            )
        run.scalar_log = None  # type: ignore[assignment]
        run.write_json = None  # type: ignore[assignment]
        if fast_clocks:
            years = iter(range(0, 10**15, 10**9))
            run.time = SimpleNamespace(monotonic=lambda: next(years))  # type: ignore[assignment]
    losses, norms, weights, rows = [], [], 0.0, 0
    update, segment, agree = Fit.update, Fit._segment, Fit.agree

    def off(self: Fit) -> None:
        """As on a CPU that rounds differently from the first process's."""
        with torch.no_grad():
            for learner in (self.denoiser, self.reward_termination):
                for weight in (*learner.network.parameters(), *learner.average.parameters()):
                    weight.mul_(1 + 0.1 * rank)
        agree(self)

    def observed(self: Fit, progress: float) -> dict[str, torch.Tensor]:
        nonlocal weights
        if (rank, self.step) == ctrl_c:
            signal.raise_signal(signal.SIGINT)
        values = update(self, progress)
        losses.append({name: float(value) for name, value in values.items() if "loss" in name})
        norms.append({name: float(value) for name, value in values.items() if "norm" in name})
        networks = (self.denoiser, self.reward_termination)
        weights = sum(t.double().abs().sum().item() for learner in networks for t in learner.tensors().values())
        return values

    def counted(self: Fit, segments: Any) -> Any:
        nonlocal rows
        rows += len(segments.frames)
        return segment(self, segments)

    Fit.update, Fit._segment, Fit.agree = observed, counted, off  # type: ignore[method-assign]
    error = ""
    try:
        tiny.fit(Path(out), Path(data[rank]) if data else None, **settings)
    except (ValueError, FileExistsError) as caught:
        error = str(caught)
    told = {"losses": losses, "norms": norms, "weights": weights, "rows": rows, "error": error}
    Path(report).write_text(json.dumps(told))
