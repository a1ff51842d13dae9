import time

import pytest
import torch

from gym_dream.trainers.loop import Losses
from gym_dream.trainers.meter import Meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_time_is_counted_by_phase_and_what_is_left_out_is_not(clock):
    meter = Meter(("play", "fit"))
    clock[0] += 1  # before any phase
    with meter.phase("play", "epoch 1"):
        clock[0] += 2
    clock[0] += 4  # between phases
    with meter.phase("fit", "epoch 1"):
        clock[0] += 8
        with meter.left_out():
            assert meter.seconds == {"play": 2, "fit": 8}  # what is saved then
            clock[0] += 16
        clock[0] += 32
    assert meter.seconds == {"play": 2, "fit": 40}
    with meter.phase("play", "epoch 2"):
        clock[0] += 64
    assert meter.seconds == {"play": 66, "fit": 40}


def test_losses_are_looked_at_when_asked_for_and_nan_is_told(tmp_path):
    losses = Losses(tmp_path / "run")
    losses.note({"denoiser/loss": torch.tensor(0.5), "denoiser/grad_norm": torch.tensor(3.0)})
    assert losses.values == {}
    losses.look("at step 1")
    assert losses.values == {"denoiser/loss": 0.5, "denoiser/grad_norm": 3.0}
    assert losses.shown() == {"denoiser": "0.5000"}
    losses.note({"reward/loss": torch.tensor(float("nan"))})
    with pytest.raises(FloatingPointError, match=r"no longer numbers at step 2: .*nan.*run keeps the last good"):
        losses.look("at step 2")


def test_the_bar_tells_phase_share_and_what_it_is_given(capsys):
    meter = Meter(("fit",))
    with meter.bar(0.25, progress=True), meter.phase("fit", "epoch 2/7"):
        meter.show(0.5, real=1_234, denoiser="0.5000")
    shown = capsys.readouterr().err.rpartition("\r")[2]
    for words in ("epoch 2/7 fit", "50%", "real=1234", "denoiser=0.5000"):
        assert words in shown
