"""CUDA graphs. What needs a GPU is skipped where there is none; all else is shown with a recording in Python."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
import tiny
import torch

from gym_dream import Dream, WorldModel
from gym_dream.dynamics import ContextTensors
from gym_dream.models import graphs
from gym_dream.models.diamond import DiamondDynamics
from gym_dream.models.graphs import Recorded
from gym_dream.noise import RowNoise
from gym_dream.trainers.fit import Fit, FitConfig

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


class InPython:
    """A recording as a GPU makes it: inputs are copied to where the first lay, results lie where the first did."""

    made = 0

    def __init__(self, function: Any, inputs: Sequence[torch.Tensor]) -> None:
        InPython.made += 1
        self.function, self.inputs = function, [tensor.clone() for tensor in inputs]
        self.outputs = function(*self.inputs)

    def replay(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        torch._foreach_copy_(self.inputs, list(inputs))
        for ours, new in zip(self.outputs, self.function(*self.inputs), strict=True):
            ours.copy_(new)
        return self.outputs


@pytest.fixture
def in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "Recording", InPython)
    monkeypatch.setattr(InPython, "made", 0)


def twice(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return 2 * x, x + 1


def test_each_shape_and_type_is_recorded_once(in_python):
    recorded = Recorded(twice)
    for x in (torch.ones(2), torch.zeros(2), torch.ones(3), torch.ones(2, dtype=torch.int64), torch.full((3,), 5.0)):
        assert all(map(torch.equal, recorded(x), twice(x)))
    assert InPython.made == 3


def test_results_are_one_s_own_unless_asked_otherwise(in_python):
    own, shared = Recorded(twice), Recorded(twice, fresh=False)
    for recorded, kept in ((own, True), (shared, False)):
        first, _ = recorded(torch.ones(2))
        recorded(torch.zeros(2))
        assert torch.equal(first, torch.full((2,), 2.0)) == kept


def test_no_more_recordings_than_there_is_room_for(in_python):
    recorded = Recorded(twice)
    for size in range(1, graphs.MOST + 3):
        recorded(torch.ones(size))
    assert len(recorded._recordings) == graphs.MOST
    made = InPython.made
    recorded(torch.ones(graphs.MOST + 2))  # the latest is there
    assert InPython.made == made
    recorded(torch.ones(1))  # the oldest is not
    assert InPython.made == made + 1


@gpu
def test_what_cannot_be_recorded_leaves_the_gpu_as_it_was():
    stream = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="runs unrecorded"):
        Recorded(lambda x: (x * x.sum().item(),))(torch.ones(2, device="cuda"))
    assert torch.cuda.current_stream() == stream
    if torch.__version__ >= (2, 13):  # older ones still count numbers as drawn within the recording (pytorch#171263)
        assert torch.randn(2, device="cuda").isfinite().all()


def test_what_cannot_be_recorded_is_called_as_it_is(monkeypatch):
    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "Recording", refuse)
    recorded = Recorded(twice)
    with pytest.warns(UserWarning, match=r"runs unrecorded.*'operation not permitted when stream is capturing'"):
        assert torch.equal(recorded(torch.ones(2))[0], torch.full((2,), 2.0))
    assert torch.equal(recorded(torch.zeros(2))[0], torch.zeros(2))  # without another warning


@pytest.fixture
def model() -> WorldModel:
    return tiny.world_model()


def dreamt(dynamics: DiamondDynamics, model: WorldModel, steps: int = 12) -> list[torch.Tensor]:
    """What three dreams show, pay and say, two of which begin anew on the way."""
    dream = Dream(dynamics, 3, model.starts, horizon=-1, seed=0)
    dream.reset()
    found: list[torch.Tensor] = []
    for step in range(steps):
        if step == steps // 2:
            dream.reset(torch.tensor([True, False, True], device=dynamics.device))
        seen = dream.step(torch.full((3,), step % dynamics.action_space.n, device=dynamics.device))
        found += [part.cpu() for part in (seen.observation, seen.reward, seen.terminated)]
    return found


def test_a_recorded_dream_is_the_dream_itself(model, in_python):
    plain, recorded = model.dynamics("cpu"), model.dynamics("cpu")
    assert not recorded.record  # only on a GPU
    recorded.record = True
    assert all(map(torch.equal, dreamt(recorded, model), dreamt(plain, model)))
    assert InPython.made == 2  # a step, and beginnings of three and of two
    for dynamics in (recorded, plain):  # as `gym-dream play` does at the press of a key
        dynamics.sampler = replace(dynamics.sampler, num_denoising_steps=1)
    assert all(map(torch.equal, dreamt(recorded, model), dreamt(plain, model)))
    assert InPython.made == 3


def test_beginnings_are_recorded_for_few_sizes_and_are_the_plain_ones(model, in_python):
    plain, recorded = model.dynamics("cpu"), model.dynamics("cpu")
    recorded.record = True
    for number, made in ((3, 1), (1, 1), (16, 1), (17, 2), (32, 2), (5, 2)):
        starts = model.starts[[row % len(model.starts) for row in range(number)]]
        context = ContextTensors(*(torch.from_numpy(a) for a in (starts.frames, starts.actions, starts.real)))
        rows = torch.arange(number)
        begun, expected = (d.begin(context, RowNoise(rows, rows)) for d in (recorded, plain))
        for field in fields(begun):
            ours, theirs = getattr(begun, field.name), getattr(expected, field.name)
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=0)  # bfloat16, where there is
        assert InPython.made == made


def test_a_dream_may_begin_in_inference_mode_and_go_on_in_another(model, in_python):
    recorded = model.dynamics("cpu")
    recorded.record = True
    with torch.inference_mode():
        begun = dreamt(recorded, model)
    assert all(map(torch.equal, dreamt(recorded, model), begun))


def test_dynamics_that_recorded_go_when_nobody_needs_them(model, in_python):
    recorded = model.dynamics("cpu")
    recorded.record = True
    dreamt(recorded, model, steps=2)
    left = weakref.ref(recorded)
    del recorded
    assert left() is None


@gpu
def test_a_recorded_dream_is_the_dream_itself_on_a_gpu(model):
    plain, recorded = model.dynamics("cuda", "float32"), model.dynamics("cuda", "float32")
    plain.record = False
    assert recorded.record
    assert all(map(torch.equal, dreamt(recorded, model), dreamt(plain, model)))


def fit_on(device: str, **arguments: Any) -> Fit:
    training = replace(tiny.PRESET.training, context_noise=0.1, reward_interval=1)
    config = FitConfig(tiny.config(), training, "made up", 4, held_out_fraction=0.25, seed=0)
    return Fit(
        config, [tiny.episode(seed) for seed in range(4)], torch.device(device), torch.float32, False, **arguments
    )


def learnt(fit: Fit, updates: int = 3) -> tuple[torch.Tensor, list[float]]:
    """All weights after some updates, and what they told."""
    told = [float(value) for _ in range(updates) for value in fit.update(0.0).values()]
    weights = [p for learner in (fit.denoiser, fit.reward_termination) for p in learner.network.parameters()]
    return torch.cat([weight.detach().flatten().cpu() for weight in weights]), told


def recorded_in_python(**arguments: Any) -> Fit:
    fit = fit_on("cpu", **arguments)
    for name in ("_denoiser_gradient", "_reward_termination_gradient"):  # as on a GPU
        setattr(fit, name, Recorded(getattr(fit, name), fresh=fit.accumulate > 1))
    return fit


@pytest.mark.parametrize("arguments", [{}, {"accumulate": 2}, {"teacher": tiny.world_model(1)}])
def test_recorded_updates_learn_what_plain_ones_do(in_python, arguments):
    plain, recorded = fit_on("cpu", **arguments), recorded_in_python(**arguments)
    (weights, told), (expected, expected_told) = learnt(recorded), learnt(plain)
    assert torch.equal(weights, expected) and told == expected_told
    assert InPython.made == (3 if "accumulate" in arguments else 2)  # of 3 rows, pieces of 1 and 2


def test_a_recorded_run_goes_back_to_what_was_saved(in_python):
    fit = recorded_in_python()
    learnt(fit, updates=1)
    saved = {name: tensor.clone() for name, tensor in fit.tensors().items()}
    first, _ = learnt(fit)
    fit.load_tensors(saved, 1)
    again, _ = learnt(fit)
    assert torch.equal(first, again) and InPython.made == 2


@gpu
def test_recorded_updates_learn_what_plain_ones_do_on_a_gpu():
    recorded, plain = fit_on("cuda"), fit_on("cuda", record=False)
    (weights, told), (expected, expected_told) = learnt(recorded), learnt(plain)
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=0)
    assert told == pytest.approx(expected_told, rel=1e-2)
