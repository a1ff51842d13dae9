"""Ways of running a dream's networks change how fast it goes, and neither what it shows nor which numbers it draws.

The plain path: float32, contiguous layout, and gradients on, for with gradients nothing is written in place and the
LSTM is the one for sequences.
"""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from gym_dream.benchmark.engines import (
    REFERENCE,
    Engine,
    Inputs,
    engines,
    frame_flops,
    open_dynamics,
    sample_frame,
    with_steps,
    without_rewards,
)
from gym_dream.dream import Dream
from gym_dream.dynamics import ContextTensors
from gym_dream.models.diamond import DiamondDynamics, DiamondState
from gym_dream.noise import RowNoise
from gym_dream.world_model import WorldModel

CPU = torch.device("cpu")
STEPS = 100
FLOAT32, BFLOAT16, FLOAT16 = Engine("float32"), Engine("bfloat16"), Engine("float16")
COMPILED = pytest.param(Engine(compile=True), marks=pytest.mark.slow)
ENGINES = [FLOAT32, BFLOAT16, FLOAT16, COMPILED]


class RecordedNoise(RowNoise):
    """Keeps what is drawn."""

    def __init__(self, keys: Tensor, step: int) -> None:
        super().__init__(keys, torch.full_like(keys, step))
        self.drawn: list[Tensor] = []

    def words(self, count: int) -> Tensor:
        self.drawn.append(super().words(count))
        return self.drawn[-1]

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        self.drawn.append(super().normal(shape))
        return self.drawn[-1]


Step = tuple[DiamondState, Tensor, Tensor, Tensor]


def plain_step(dynamics: DiamondDynamics, state: DiamondState, action: Tensor, noise: RowNoise) -> Step:
    """One step without what `torch.no_grad` allows."""
    step: Any = DiamondDynamics.step
    with torch.enable_grad():
        return step.__wrapped__(dynamics, state, action, noise)


def begin(dynamics: DiamondDynamics, model: WorldModel, keys: Tensor) -> DiamondState:
    starts = model.starts[range(len(keys))]
    context = ContextTensors(*(torch.from_numpy(a) for a in (starts.frames, starts.actions, starts.real)))
    return dynamics.begin(context, RowNoise(keys, torch.zeros_like(keys)))


@pytest.fixture(scope="module")
def small() -> WorldModel:
    return tiny.world_model()


@pytest.fixture(scope="module")
def shipped() -> WorldModel:
    return WorldModel.load("breakout")


def differences(model: WorldModel, engine: Engine, num_denoising_steps: int, batch: int) -> list[Tensor]:
    """Grey levels between each frame of a dream in this engine and what the plain path makes of the same state."""
    fast, plain = (with_steps(open_dynamics(model, e, CPU), num_denoising_steps) for e in (engine, REFERENCE))
    keys = torch.arange(batch)
    state, found = begin(fast, model, keys), []
    for step in range(1, STEPS + 1):
        action = (keys + step // 5) % 4
        noise, same_noise = RecordedNoise(keys, step), RecordedNoise(keys, step)
        following, frame, reward, end = plain_step(plain, state, action, same_noise)
        state, fast_frame, fast_reward, fast_end = fast.step(state, action, noise)
        assert len(noise.drawn) == len(same_noise.drawn) > 0
        assert all(map(torch.equal, noise.drawn, same_noise.drawn))
        assert torch.isfinite(state.hidden).all() and torch.isfinite(state.cell).all()
        if engine.precision == "float32":
            assert torch.equal(reward, fast_reward) and torch.equal(end, fast_end)
            # What is judged may be a grey level apart, which shows in the memory a little.
            torch.testing.assert_close(state.hidden, following.hidden, rtol=0, atol=5e-3)
            torch.testing.assert_close(state.cell, following.cell, rtol=0, atol=2e-2)
        found.append((frame.int() - fast_frame.int()).abs())
    return found


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_step_of_a_long_dream_is_that_of_the_plain_path(small, engine):
    apart = torch.stack(differences(small, engine, num_denoising_steps=2, batch=2)).float()
    if engine.precision == "float32":
        assert apart.max() <= 1 and (apart > 0).float().mean() < 0.01
    else:
        assert 0 < apart.mean() < 2 and apart.max() <= 16


def test_so_is_every_step_of_the_model_that_ships(shipped):
    apart = torch.stack(differences(shipped, FLOAT32, num_denoising_steps=1, batch=1))
    assert apart.max() <= 1


def test_left_to_itself_the_dream_goes_the_same_way(small):
    """Differences could add up, since each frame is seen by the next steps."""
    fast, plain = (with_steps(open_dynamics(small, engine, CPU), 1) for engine in (FLOAT32, REFERENCE))
    keys = torch.arange(2)
    state, plain_state = begin(fast, small, keys), begin(plain, small, keys)
    for step in range(1, STEPS + 1):
        action, counters = (keys + step) % 4, torch.full_like(keys, step)
        state, frame, *_ = fast.step(state, action, RowNoise(keys, counters))
        plain_state, plain_frame, *_ = plain_step(plain, plain_state, action, RowNoise(keys, counters))
        assert (frame.int() - plain_frame.int()).abs().max() <= 1


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_seeds_give_the_same_dream_again(small, engine):
    def frames() -> Tensor:
        dream = Dream(open_dynamics(small, engine, CPU), 2, small.starts, seed=5)
        dream.reset()
        return torch.stack([dream.step(torch.tensor([1, 2])).observation for _ in range(20)])

    first = frames()
    assert torch.equal(first, frames())
    assert first.unique().numel() > 20


@torch.no_grad()
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("size", ["small", "shipped"])
def test_no_precision_breaks_the_numbers(request, size, engine):
    """NaN would be hidden by the conversion to bytes, so look at the floats before it."""
    dynamics = open_dynamics(request.getfixturevalue(size), engine, CPU)
    for scale in (0.0, 1.0):  # grey and noise
        inputs = Inputs.draw(dynamics, 1)
        assert torch.isfinite(sample_frame(dynamics, inputs.past * scale, inputs.actions, inputs.noise)).all()


def test_gradients_are_right_whatever_is_written_in_place_without_them(small):
    """Compared with finite differences."""
    denoiser = open_dynamics(small, REFERENCE, CPU).denoiser.double()
    past = torch.rand(1, 4, 3, 16, 16, dtype=torch.float64) - 0.5
    noisy = torch.randn(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    sigma, actions = torch.ones(1, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.int64)
    weights = torch.randn(1, 3, 16, 16, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        c = denoiser.preconditioners(sigma)
        seen = (past / 0.5).flatten(1, 2)
        return (denoiser.inner_model(x * c.c_in, c.c_noise, seen, actions) * weights).sum()

    loss(noisy).backward()
    direction = torch.randn_like(noisy)
    with torch.no_grad():
        numeric = (loss(noisy + 1e-5 * direction) - loss(noisy - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((noisy.grad * direction).sum(), numeric, rtol=1e-5, atol=1e-8)


def test_the_reference_runs_as_plain_pytorch_does(small):
    """Contiguous weights and maps, and float32; an engine leaves the model's own weights as they are."""
    layouts = {}
    for engine in (REFERENCE, FLOAT32):
        dynamics, seen = open_dynamics(small, engine, CPU), []
        unet = dynamics.denoiser.inner_model.unet
        unet.mid_blocks.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        inputs = Inputs.draw(dynamics, 2)
        with torch.no_grad():
            sample_frame(dynamics, inputs.past, inputs.actions, inputs.noise)
        layouts[engine] = {x.is_contiguous() for x in seen}
        assert {x.dtype for x in seen} == {torch.float32}
    assert layouts == {REFERENCE: {True}, FLOAT32: {False}}
    assert all(parameter.is_contiguous() for parameter in small.denoiser.parameters())


def test_engines_are_those_of_the_hardware():
    found = engines(CPU, compile=False)
    assert found[:2] == (REFERENCE, FLOAT32)
    assert (BFLOAT16 in found) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert len(engines(CPU, compile=True)) == len(found) + len(found) - 1
    assert len({engine.name for engine in engines(CPU, compile=True)}) == 2 * len(found) - 1


def test_frames_without_rewards_are_the_same_frames(small):
    dynamics = open_dynamics(small, FLOAT32, CPU)
    dreams = [Dream(d, 2, small.starts, seed=1) for d in (dynamics, without_rewards(dynamics))]
    for dream in dreams:
        dream.reset()
    for _ in range(5):
        with_, without = (dream.step(torch.tensor([0, 1])) for dream in dreams)
        assert torch.equal(with_.observation, without.observation)
        assert not without.reward.any() and not without.terminated.any()


def test_operations_are_counted_for_every_pass(small):
    dynamics = open_dynamics(small, FLOAT32, CPU)
    once = frame_flops(with_steps(dynamics, 1))
    config = small.config.denoiser
    inputs = (config.context_length + 1) * config.image_channels * config.patch_size**2
    side = tiny.SIDE // config.patch_size
    assert once > 2 * 9 * inputs * config.channels[0] * side**2  # the first convolution alone
    assert frame_flops(with_steps(dynamics, 3)) == 3 * once
