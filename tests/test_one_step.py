"""Distilling a denoiser to a single step."""

import dataclasses
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from gym_dream.data import EpisodeStore
from gym_dream.models.denoiser import Denoiser, DenoiserConfig, quantise
from gym_dream.models.one_step import Teacher, one_step_loss
from gym_dream.models.sampler import SamplerConfig, sample
from gym_dream.trainers.checkpoint import NAME
from gym_dream.trainers.presets import PRESETS
from gym_dream.world_model import WorldModel

SIGMA = 5.0
CONFIG = DenoiserConfig(
    4,
    cond_channels=16,
    depths=(1, 1),
    channels=(8, 8),
    attention=(False, False),
    quantisation="round",
    predict_change=True,
    noisy_change=True,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def student() -> Denoiser:
    network = Denoiser(CONFIG)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return network


FRAMES = quantise(normal(3, 6, 3, 8, 8), "round")
ACTIONS = torch.arange(15).reshape(3, 5) % 4
MASK = torch.ones(3, 6).bool()
STARTS = [normal(3, 3, 8, 8, seed=i) for i in (1, 2)]


REAL, TAUGHT = 2.0, -1.0  # tolerances: always the real frame, always the teacher's


def copied(start: torch.Tensor, past: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """A teacher who sees the last frame for the next."""
    return past[:, -1]


def loss(student: Denoiser, tolerance: float = REAL, teacher: Teacher = copied, **settings: Any) -> torch.Tensor:
    return one_step_loss(
        student, FRAMES, ACTIONS, MASK, STARTS, SIGMA, teacher=teacher, tolerance=tolerance, **settings
    )


def drawn(student: Denoiser, start: torch.Tensor, past: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """What a dream of one denoising step draws."""
    config = SamplerConfig(num_denoising_steps=1, sigma_max=SIGMA)
    with torch.no_grad():
        origin = student.origin(past)
        return sample(lambda x, sigma: student(x, sigma, past, actions), start, config, lambda: start, origin)


def test_the_student_trains_on_what_it_dreams(student):
    """Every frame it is judged by, and every past it sees, are those of a dream from the same noise."""
    seen, network = [], student.network

    def spy(noisy, past, actions, c):
        seen.append((noisy, past, actions))
        return network(noisy, past, actions, c)

    student.network = spy
    value = loss(student)
    student.network = network
    past, losses = FRAMES[:, :4], []
    c_out = student.preconditioners(torch.tensor([SIGMA])).c_out
    for i, start in enumerate(STARTS):
        actions = ACTIONS[:, i : i + 4]
        torch.testing.assert_close(seen[i][0], past[:, -1] + start)
        torch.testing.assert_close(seen[i][1], past)
        assert torch.equal(seen[i][2], actions)
        frame = drawn(student, start, past, actions)
        losses.append(((unquantised(student, start, past, actions) - FRAMES[:, 4 + i]) ** 2 / c_out**2).mean())
        past = torch.cat([past[:, 1:], frame[:, None]], dim=1)
    torch.testing.assert_close(value, torch.stack(losses).mean())


def unquantised(student: Denoiser, start: torch.Tensor, past: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    c, noisy = student.preconditioners(torch.full((len(start),), SIGMA)), student.origin(past) + start
    with torch.no_grad():
        return student.base(noisy, past, c) + c.c_out * student.network(noisy, past, actions, c)


def starts(student: Denoiser, noisy: torch.Tensor, past: torch.Tensor) -> bool:
    """Whether this is the first target's noise."""
    return torch.allclose(noisy - student.origin(past), STARTS[0], atol=1e-5)


def test_a_perfect_student_of_the_real_frames_has_no_loss_and_of_a_wrong_teacher_has(student):
    def perfect(self, noisy, past, actions, c):
        target = FRAMES[:, 4] if starts(self, noisy, past) else FRAMES[:, 5]
        return (target - self.base(noisy, past, c)) / c.c_out

    student.network = MethodType(perfect, student)
    assert loss(student) < 1e-8
    assert loss(student, TAUGHT) > 0.1


def test_reality_is_the_target_until_the_student_s_past_strays_from_it(student):
    """In one row the student draws the real frame, in one a frame that is a little off, in one a frame far off."""
    off = torch.tensor([0.0, 0.2, 0.4])[:, None, None, None]
    x = FRAMES[:, 4] * 0.5
    frames = FRAMES.index_copy(1, torch.tensor([4]), x[:, None])

    def network(noisy, past, actions, c):
        wanted = x + off if starts(student, noisy, past) else torch.zeros_like(noisy)
        return (wanted - student.base(noisy, past, c)) / c.c_out

    student.network = network
    taught = []

    def teacher(start, past, actions):
        taught.append((start, past, actions))
        return torch.ones_like(start)

    for tolerance, rows in ((2.0, []), (0.3, [2]), (0.1, [1, 2])):
        taught.clear()
        value = one_step_loss(student, frames, ACTIONS, MASK, STARTS, SIGMA, teacher=teacher, tolerance=tolerance)
        # Asked for the second target alone, with its noise, past and actions; what counts are the rows that strayed.
        assert len(taught) == bool(rows)
        for start, past, actions in taught:
            assert torch.equal(start, STARTS[1]) and torch.equal(actions, ACTIONS[:, 1:5])
            torch.testing.assert_close(past[:, -1], quantise(x + off, "round"))
        targets = FRAMES[:, 5].clone()
        targets[rows] = 1.0
        c_out = student.preconditioners(torch.tensor([SIGMA])).c_out
        expected = ((off**2).mean() + (targets**2).mean()) / c_out.squeeze() ** 2 / 2
        torch.testing.assert_close(value, expected)


def test_the_teacher_draws_from_the_student_s_noise_and_past(student):
    calls = []

    def teacher(start, past, actions):
        calls.append((start, past, actions))
        return past[:, -1]

    loss(student, TAUGHT, teacher)
    assert [torch.equal(call[0], start) for call, start in zip(calls, STARTS, strict=True)] == [True, True]
    assert torch.equal(calls[0][1], FRAMES[:, :4])
    expected = drawn(student, STARTS[0], FRAMES[:, :4], ACTIONS[:, :4])
    torch.testing.assert_close(calls[1][1], torch.cat([FRAMES[:, 1:4], expected[:, None]], dim=1))


def test_padding_has_no_loss(student):
    masked = one_step_loss(
        student, FRAMES, ACTIONS, torch.zeros(3, 6).bool(), STARTS, SIGMA, teacher=copied, tolerance=REAL
    )
    assert masked == 0


def by_the_noise(start: torch.Tensor, past: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """A teacher who draws each pixel as bright as its noise says: what cannot be foreseen but from the noise."""
    return 0.5 * start.clamp(-1, 1)


@pytest.mark.parametrize("tolerance", [TAUGHT, REAL])
def test_a_student_learns_its_teacher_s_choices_and_without_it_the_average(tolerance):
    torch.manual_seed(0)
    student = Denoiser(CONFIG)
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-2)
    context, actions, mask = torch.zeros(8, 4, 3, 8, 8), torch.zeros(8, 4).long(), torch.ones(8, 5).bool()
    for i in range(100):
        start = normal(8, 3, 8, 8, seed=i)
        real = by_the_noise(normal(8, 3, 8, 8, seed=1000 + i), context, actions)  # of another noise: a coin of its own
        frames = torch.cat([context, real[:, None]], dim=1)
        value = one_step_loss(student, frames, actions, mask, [start], SIGMA, teacher=by_the_noise, tolerance=tolerance)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    start = normal(8, 3, 8, 8, seed=5000)
    frame = drawn(student, start, context, actions)
    if tolerance == TAUGHT:
        wanted = by_the_noise(start, context, actions)
        assert (frame - wanted).square().mean() < 0.3 * wanted.square().mean()
    else:
        assert frame.abs().mean() < 0.1


def test_what_comes_before_a_life_stays_grey_in_the_student_s_past_and_is_not_straying(student):
    """The first target is padding: what the student makes of nothing must not be what it sees next."""
    seen, network = [], student.network

    def spy(noisy, past, actions, c):
        seen.append(past)
        return network(noisy, past, actions, c)

    student.network = spy
    mask = MASK.clone()
    mask[0, :5] = False
    frames = FRAMES * mask[..., None, None, None]

    def value(row: int) -> torch.Tensor:
        """The loss with a teacher who is far off in this row."""

        def teacher(start, past, actions):
            return past[:, -1].index_fill(0, torch.tensor([row]), 1.0)

        return one_step_loss(student, frames, ACTIONS, mask, STARTS, SIGMA, teacher=teacher, tolerance=0.05)

    of_padding, of_the_others = value(0), [value(1), value(2)]
    assert torch.equal(seen[1][0], torch.zeros(4, 3, 8, 8)) and seen[1][1].abs().max() > 0
    assert all(of_padding != other for other in of_the_others)  # these have strayed, and learn from the teacher
    unchanged = one_step_loss(student, frames, ACTIONS, mask, STARTS, SIGMA, teacher=copied, tolerance=0.05)
    assert of_padding == unchanged


# A run


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Recorded play, and a teacher."""
    monkeypatch.setitem(PRESETS, "tiny", tiny.PRESET)
    store = EpisodeStore(tmp_path / "data")
    for seed in range(4):
        store.add(tiny.episode(seed))
    tiny.world_model().save(tmp_path / "teacher")
    return store.folder, tmp_path / "teacher"


def test_a_student_begins_as_its_teacher_and_dreams_in_one_step(folders, tmp_path):
    data, teacher = folders
    made = tiny.fit(tmp_path / "run", data, teacher=str(teacher), steps=1, training={"learning_rate": 1e-9})
    student, master = WorldModel.load(made), WorldModel.load(teacher)
    assert student.config.sampler.num_denoising_steps == 1 and master.config.sampler.num_denoising_steps == 3
    assert student.dynamics("cpu").sampler.num_denoising_steps == 1
    for ours, theirs in zip(student.denoiser.parameters(), master.denoiser.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-2)


def test_a_resumed_student_is_the_uninterrupted_one_to_the_bit(folders, tmp_path):
    data, teacher = folders
    # A constant learning rate, for otherwise it depends on how long the run was to be.
    settings = {"teacher": str(teacher), "training": {"cooldown": 0.0}}
    tiny.fit(tmp_path / "whole", data, steps=4, **settings)
    tiny.fit(tmp_path / "parts", data, steps=2, **settings)
    tiny.fit(tmp_path / "parts", None, steps=4, resume=True)
    ours, theirs = load_file(tmp_path / "whole" / NAME), load_file(tmp_path / "parts" / NAME)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_student_may_start_from_another_model_than_its_teacher(folders, tmp_path):
    data, teacher = folders
    tiny.world_model(seed=1).save(tmp_path / "other")
    settings = {"init": str(tmp_path / "other"), "teacher": str(teacher)}
    made = tiny.fit(tmp_path / "run", data, **settings, steps=1, training={"learning_rate": 1e-9})
    student, other = WorldModel.load(made), WorldModel.load(tmp_path / "other")
    for ours, theirs in zip(student.denoiser.parameters(), other.denoiser.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-2)


def test_a_student_starts_from_unit_noise_whatever_its_teacher_starts_from(folders, tmp_path):
    data, _ = folders
    model = tiny.world_model()
    noisy = dataclasses.replace(model.config, sampler=SamplerConfig(sigma_start=5.0))
    dataclasses.replace(model, config=noisy).save(tmp_path / "noisy")
    made = tiny.fit(tmp_path / "run", data, teacher=str(tmp_path / "noisy"), steps=1)
    assert WorldModel.load(made).config.sampler == SamplerConfig(num_denoising_steps=1)


def test_a_teacher_that_is_not_there(folders, tmp_path):
    data, _ = folders
    with pytest.raises(FileNotFoundError, match=r"(?i)no world model .nobody."):
        tiny.fit(tmp_path / "run", data, teacher="nobody")
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_the_teacher_that_it_was_begun_with_or_not_at_all(folders, tmp_path):
    data, teacher = folders
    tiny.fit(tmp_path / "run", data, teacher=str(teacher), steps=1)
    with pytest.raises(ValueError, match=r"learns from .*, not from other. Leave --teacher out"):
        tiny.fit(tmp_path / "run", resume=True, teacher="other", steps=2)
    tiny.world_model(seed=1).save(teacher)
    with pytest.raises(ValueError, match="no longer the teacher that the run was begun with"):
        tiny.fit(tmp_path / "run", resume=True, steps=2)
    tiny.world_model().save(teacher)
    tiny.fit(tmp_path / "run", resume=True, teacher=str(teacher), steps=2)


def test_a_teacher_must_fit_data_and_student(folders, tmp_path):
    data, teacher = folders
    model = tiny.world_model()
    one_action_more = dataclasses.replace(
        model.config,
        env={},
        denoiser=dataclasses.replace(model.config.denoiser, num_actions=5),
        reward_termination=dataclasses.replace(model.config.reward_termination, num_actions=5),
    )
    WorldModel.create(one_action_more, model.starts).save(tmp_path / "other")
    with pytest.raises(ValueError, match="is made for 5 actions"):
        tiny.fit(tmp_path / "run", data, init=str(teacher), teacher=str(tmp_path / "other"))
    restless = dataclasses.replace(model.config, sampler=SamplerConfig(s_churn=1.0))
    dataclasses.replace(model, config=restless).save(tmp_path / "restless")
    with pytest.raises(ValueError, match="samples with fresh noise at every step"):
        tiny.fit(tmp_path / "run", data, teacher=str(tmp_path / "restless"))


def test_a_teacher_computes_in_the_student_s_precision(folders, tmp_path, monkeypatch):
    asked = []
    dynamics = WorldModel.dynamics

    def spy(self: WorldModel, device: str, precision: Any) -> Any:
        asked.append(precision)
        return dynamics(self, device, precision)

    monkeypatch.setattr(WorldModel, "dynamics", spy)
    data, teacher = folders
    tiny.fit(tmp_path / "run", data, teacher=str(teacher), steps=1, precision="bfloat16")
    assert asked == ["bfloat16"]
