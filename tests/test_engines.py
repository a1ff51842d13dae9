"""Ways of running a dream's networks change how fast it goes, and neither what it shows nor which numbers it draws.

The plain path: float32, contiguous layout, and gradients on, for with gradients nothing is written in place and the
LSTM is the one for sequences.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

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
from gym_dream.models import int8
from gym_dream.models.compiled import why_not
from gym_dream.models.diamond import DiamondDynamics, DiamondState
from gym_dream.noise import RowNoise
from gym_dream.trainers import bench as made
from gym_dream.trainers.fit import Fit, FitConfig
from gym_dream.world_model import WorldModel, resolve_dtype

CPU = torch.device("cpu")
STEPS = 100
FLOAT32, BFLOAT16, FLOAT16 = Engine("float32"), Engine("bfloat16"), Engine("float16")
COMPILED = pytest.param(Engine(compile=True), marks=pytest.mark.slow)
needs_vnni = pytest.mark.skipif(int8.why_not("cpu") is not None, reason="needs 8-bit integer instructions")
INT8 = pytest.param(Engine("int8"), marks=needs_vnni)
INT8_COMPILED = pytest.param(Engine("int8", compile=True), marks=[needs_vnni, pytest.mark.slow])
ENGINES = [FLOAT32, BFLOAT16, FLOAT16, INT8, COMPILED, INT8_COMPILED]


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
    starts = model.starts[[row % len(model.starts) for row in range(len(keys))]]
    context = ContextTensors(*(torch.from_numpy(a) for a in (starts.frames, starts.actions, starts.real)))
    return dynamics.begin(context, RowNoise(keys, torch.zeros_like(keys)))


@pytest.fixture(autouse=True)
def nothing_compiled_yet() -> None:
    """PyTorch compiles a function a few times only, and then gives up."""
    torch.compiler.reset()


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
            # Where what is judged is a grey level apart, it shows in the memory; elsewhere all but rounding is alike.
            near = {"rtol": 0, "atol": 5e-3 if torch.equal(frame, fast_frame) else 0.1}
            torch.testing.assert_close(state.hidden, following.hidden, **near)
            torch.testing.assert_close(state.cell, following.cell, **near)
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
@pytest.mark.parametrize("engine", [FLOAT32, BFLOAT16, FLOAT16, COMPILED], ids=lambda engine: engine.name)
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
    assert (Engine("int8") in found) == (int8.why_not("cpu") is None)
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


# 8-bit integers


@needs_vnni
@pytest.mark.parametrize("stride", [1, 2])
def test_an_int8_convolution_is_one_of_rounded_inputs_and_weights(stride):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(16, 8, 3, stride, padding=1), torch.randn(2, 16, 8, 8).clamp(-0.5, 2)
    found = int8.Int8Conv2d(conv, -0.5, 2.0, torch.float32)(x)
    level, weight = 2.5 / 255, conv.weight.detach()
    step = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    rounded = (weight / step).round() * step
    expected = nn.functional.conv2d((x / level).round() * level, rounded, conv.bias, stride, padding=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - conv(x)).abs().mean() > 1e-3  # which is what it costs
    assert torch.equal(found[:1], int8.Int8Conv2d(conv, -0.5, 2.0, torch.float32)(x[:1]))


@needs_vnni
def test_inputs_beyond_the_rehearsed_ones_count_as_the_last():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    ours = int8.Int8Conv2d(conv, 0.0, 1.0, torch.float32)
    for value, expected in ((5.0, 9.0), (-5.0, 0.0), (0.5, 4.5)):
        assert float(ours(torch.full((1, 1, 3, 3), value))[0, 0, 1, 1]) == pytest.approx(expected, abs=0.05)


@needs_vnni
def test_most_of_the_shipped_model_s_convolutions_become_integers(shipped):
    before = torch.random.get_rng_state()
    found, plain = shipped.dynamics("cpu", "int8"), shipped.dynamics("cpu", "float32")
    assert torch.equal(torch.random.get_rng_state(), before)
    named = {name for name, module in found.denoiser.named_modules() if isinstance(module, int8.Int8Conv2d)}
    wide = {n for n, m in plain.denoiser.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}
    last = "inner_model.unet.u_blocks.2.resblocks.1."
    kept = {"inner_model.conv_in", "inner_model.conv_out", last + "conv1", last + "conv2"}
    assert named == wide - kept and len(named) == 24
    assert not any(isinstance(module, int8.Int8Conv2d) for module in shipped.denoiser.modules())


@needs_vnni
def test_shipped_frames_in_int8_are_nearly_those_of_float32(shipped):
    """They are 56 dB apart; those of bfloat16 59 dB."""
    frames = []
    for engine in (FLOAT32, Engine("int8")):
        dynamics = open_dynamics(shipped, engine, CPU)
        dream = Dream(dynamics, 4, shipped.replay, seed=3)
        dream.reset()
        frames.append(dream.step(torch.arange(4)).observation.float())
    error = (frames[0] - frames[1]).square().mean()
    assert 10 * torch.log10(255**2 / error) > 50


@needs_vnni
def test_nan_is_no_byte(small):
    """It would become one, and nobody would see it."""
    broken = copy.deepcopy(small)
    nn.init.constant_(broken.denoiser.inner_model.unet.mid_blocks.resblocks[0].conv1.bias, float("nan"))
    with pytest.raises(FloatingPointError, match=r"mid_blocks\.\S+ is given NaN .*precision='float32'"):
        broken.dynamics("cpu", "int8")


@needs_vnni
def test_int8_needs_something_to_be_fitted_to(small):
    nothing = dataclasses.replace(small, starts=small.starts[:0], replay=None)
    nothing.dynamics("cpu", "float32")
    with pytest.raises(ValueError, match="own contexts, and it has none"):
        nothing.dynamics("cpu", "int8")
    dataclasses.replace(nothing, starts=small.starts, replay=small.starts[:0]).dynamics("cpu", "int8")


@pytest.mark.parametrize("engine", [FLOAT32, INT8], ids=lambda engine: engine.name)
def test_dynamics_can_be_copied_and_pickled(small, engine):
    dynamics = open_dynamics(small, engine, CPU)
    copies = [copy.deepcopy(dynamics), pickle.loads(pickle.dumps(dynamics))]
    frames = []
    for each in (dynamics, *copies):
        dream = Dream(each, 2, small.starts, seed=5)
        dream.reset()
        frames.append(dream.step(torch.tensor([1, 2])).observation)
    assert torch.equal(frames[0], frames[1]) and torch.equal(frames[0], frames[2])


def test_where_there_are_no_8_bit_integers_dreams_go_on_without(small, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    int8.why_not.cache_clear()
    try:
        with pytest.warns(
            UserWarning, match=r"precision='int8': this CPU has no .* runs at precision='auto'"
        ) as warned:
            dynamics = small.dynamics("cpu", "int8")
        assert warned[0].filename == __file__
    finally:
        int8.why_not.cache_clear()
    dreams = [Dream(d, 2, small.starts, seed=5) for d in (dynamics, small.dynamics("cpu", "auto"))]
    for dream in dreams:
        dream.reset()
    assert torch.equal(*(dream.step(torch.tensor([1, 2])).observation for dream in dreams))


def test_nobody_trains_in_8_bit_integers():
    with pytest.raises(ValueError, match="of dreams on a CPU, 'int8'"):
        resolve_dtype("int8", CPU)


# Pieces of a batch


def test_pieces_of_a_batch_change_neither_frames_nor_random_numbers(small):
    whole, pieces = (open_dynamics(small, FLOAT32, CPU) for _ in range(2))
    whole.piece_bytes = None
    row = 4 * small.config.denoiser.channels[0] * (tiny.SIDE // small.config.denoiser.patch_size) ** 2
    pieces.piece_bytes = 2 * row // torch.get_num_threads()
    seen: list[int] = []
    pieces.denoiser.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    keys = torch.arange(5)
    state, same = begin(whole, small, keys), begin(pieces, small, keys)
    for step in range(1, 11):
        noise, same_noise = RecordedNoise(keys, step), RecordedNoise(keys, step)
        state, frame, reward, end = whole.step(state, keys % 4, noise)
        same, same_frame, same_reward, same_end = pieces.step(same, keys % 4, same_noise)
        assert all(map(torch.equal, noise.drawn, same_noise.drawn))
        assert (frame.int() - same_frame.int()).abs().max() <= 1
        assert torch.equal(reward, same_reward) and torch.equal(end, same_end)
    assert seen[:3] == [2, 2, 1] and len(seen) == 10 * pieces.sampler.num_denoising_steps * 3


def test_pieces_are_as_equal_as_can_be(small):
    """A last piece of another size would be compiled for, too."""
    dynamics = open_dynamics(small, FLOAT32, CPU)
    sizes: list[int] = []
    dynamics.denoiser.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    dynamics.piece_bytes = 5 * 4 * 8 * 8 * 8 // torch.get_num_threads()  # five rows
    for batch, expected in ((4, [4]), (5, [5]), (6, [3, 3]), (12, [4, 4, 4])):
        sizes.clear()
        inputs = Inputs.draw(dynamics, batch)
        with torch.no_grad():
            dynamics.denoise(inputs.past[:, 0], torch.ones(batch), inputs.past, inputs.actions)
        assert sizes == expected


# Compiling


def test_a_dream_compiles_each_network_once_and_as_one_graph(small):
    """A break in the graph makes dozens of it, which take minutes; resets of all sizes must not compile anew."""
    dynamics, graphs = open_dynamics(small, FLOAT32, CPU), []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for network in (dynamics.denoiser.inner_model, dynamics.reward_termination.encoder):
        network.compile(backend=backend, fullgraph=True)
    dreams = [Dream(d, 4, small.starts, seed=1) for d in (dynamics, open_dynamics(small, FLOAT32, CPU))]
    for mask in (None, [True, False, False, False], [False, True, True, True]):
        compiled, eager = [], []
        for dream, frames in zip(dreams, (compiled, eager), strict=True):
            frames.append(dream.reset(None if mask is None else torch.tensor(mask)).observation)
            frames.append(dream.step(torch.arange(4)).observation)
        assert (torch.stack(compiled).int() - torch.stack(eager).int()).abs().max() <= 1
    assert len(graphs) == 2


def test_networks_in_training_compile_as_one_graph(small):
    inputs = Inputs.draw(open_dynamics(small, FLOAT32, CPU), 2)
    seen, cond = inputs.past.flatten(1, 2), torch.rand(2, small.config.reward_termination.cond_channels)
    calls = {
        small.denoiser.inner_model: (inputs.past[:, 0], torch.ones(2), seen, inputs.actions),
        small.reward_termination.encoder: (seen[:, :6], cond),
    }
    for network, arguments in calls.items():
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(*arguments), network(*arguments))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(function: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nin all this house")

    monkeypatch.setattr(torch, "compile", refuse)
    why_not.cache_clear()
    yield
    why_not.cache_clear()


def test_where_nothing_can_be_compiled_the_dream_goes_on_uncompiled(small, no_compiler):
    with pytest.warns(UserWarning, match=r"(?s)'No working C\+\+ compiler found'.*apt install g\+\+.*compile=False"):
        dynamics = small.dynamics("cpu", "float32", compile=True)
    dreams = [Dream(d, 2, small.starts, seed=5) for d in (dynamics, open_dynamics(small, FLOAT32, CPU))]
    for dream in dreams:
        dream.reset()
    assert torch.equal(*(dream.step(torch.tensor([1, 2])).observation for dream in dreams))


def test_training_goes_on_uncompiled_too(no_compiler):
    with pytest.warns(UserWarning, match="the networks run uncompiled"):
        updates = made.updates(tiny.PRESET, tiny.ENV, Engine(compile=True), CPU)
    for update in updates.values():
        update()


@pytest.mark.slow
def test_a_missing_compiler_is_found_out(tmp_path):
    program = "import torch; from gym_dream.models.compiled import why_not; print(why_not('cpu'))"
    environment = {**os.environ, "PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    environment.pop("CXX", None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "ompiler" in done.stdout and len(done.stdout.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # PyTorch's own
def test_a_compiled_update_learns_the_same():
    episodes = [made.made_up_episode(tiny.ENV, seed) for seed in range(made.GAMES)]
    config = FitConfig(tiny.config(), tiny.PRESET.training, "made up", made.GAMES, 1 / made.GAMES, seed=0)
    eager, compiled = (Fit(config, episodes, CPU, torch.float32, compile) for compile in (False, True))
    expected, report = eager.update(0.0), compiled.update(0.0)
    assert expected.keys() == report.keys() and len(report) == 5
    for name, value in expected.items():
        torch.testing.assert_close(report[name], value, rtol=1e-3, atol=1e-5)
    assert torch.isfinite(torch.stack(list(compiled.update(0.5).values()))).all()
