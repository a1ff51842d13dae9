"""Properties of networks, losses and samplers that hold for any weights; numbers are compared in test_reference."""

import dataclasses
from types import MethodType
from typing import Any

import pytest
import tiny
import torch

from gym_dream.models.denoiser import (
    Denoiser,
    DenoiserConfig,
    TrainingNoise,
    denoiser_loss,
    quantise,
    to_uint8,
    to_unit,
)
from gym_dream.models.layers import AdaptiveGroupNorm, FourierFeatures, num_groups
from gym_dream.models.reward_termination import (
    LSTMState,
    Prediction,
    RewardTerminationConfig,
    RewardTerminationModel,
    reward_termination_loss,
)
from gym_dream.models.sampler import SamplerConfig, noise_levels, sample
from gym_dream.noise import RowNoise

LEVELS = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16, 1)
TINY = DenoiserConfig(4, cond_channels=16, depths=(1, 1), channels=(8, 8), attention=(False, False))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Weights everywhere, so that no zero-initialised layer hides what lies behind it."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return module


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Frames and levels


def test_every_level_survives_the_way_to_floats_and_back():
    x = to_unit(LEVELS, torch.tensor([[True]]))
    assert x.min() == -1 and x.max() == 1 and x.shape == (1, 1, 1, 16, 16)
    assert torch.equal(to_uint8(x), LEVELS)
    assert torch.equal(to_uint8(quantise(x, "round")), LEVELS)


def test_truncating_a_stored_frame_again_loses_a_level_at_some_values_as_in_the_released_code():
    x = quantise(to_unit(LEVELS, torch.tensor([[True]])), "truncate")
    lost = LEVELS.int() - to_uint8(x).int()
    assert set(lost.unique().tolist()) == {0, 1}
    assert 0.05 < lost.float().mean() < 0.3


@pytest.mark.parametrize("mode", ["truncate", "round"])
def test_quantising_gives_levels_near_below_or_around(mode):
    x = torch.linspace(-1, 1, 10_001)
    q = quantise(x, mode)
    levels = (q + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    low, high = (-0.5, 0.5) if mode == "round" else (0.0, 1.0)
    distance = (x - q) * 127.5
    assert distance.min() > low - 1e-3 and distance.max() < high + 1e-3
    assert torch.equal(quantise(torch.tensor([-7.0, 7.0]), mode), torch.tensor([-1.0, 1.0]))


def test_padding_is_mid_grey_whatever_it_holds():
    frames = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    real = torch.tensor([[False, True, True], [False, False, True]])
    x = to_unit(frames, real)
    assert x.shape == (2, 3, 3, 4, 5)
    assert (x[~real] == 0).all()
    torch.testing.assert_close(x[real], frames[real].movedim(-1, -3) / 127.5 - 1)


# Layers


@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (32, 1), (60, 1), (64, 2), (96, 3), (80, 2), (256, 8)])
def test_groups_have_32_channels_or_as_near_as_divides(channels, groups):
    assert num_groups(channels) == groups
    assert channels % groups == 0


def test_fourier_features_are_exact_in_reduced_precision():
    """Their angles are large: rounded to bfloat16 they would be off by tenths."""
    features, c = FourierFeatures(64), torch.linspace(-2, 1, 50)
    exact = features(c)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(features(c).float(), exact, atol=1e-5, rtol=0)


# Denoiser


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"patch_size": 2},
        {"predict_change": True, "quantisation": "round"},
        {"image_channels": 1, "context_length": 2},
        {"attention": (True, False), "depths": (1, 2)},
    ],
)
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_denoised_frames_are_stored_levels_of_the_frames_shape(change, size):
    config = dataclasses.replace(TINY, **change)
    model = randomised(Denoiser(config))
    channels, length = config.image_channels, config.context_length
    denoised = model(
        normal(2, channels, *size), torch.ones(2), normal(2, length, channels, *size), torch.ones(2, length).long()
    )
    assert denoised.shape == (2, channels, *size) and denoised.dtype == torch.float32
    levels = (denoised + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_each_past_frame_and_action_matters_and_rows_do_not_mix():
    model = randomised(Denoiser(TINY))
    noisy, past, actions = normal(2, 3, 16, 16), normal(2, 4, 3, 16, 16, seed=1), torch.zeros(2, 4).long()
    c = model.preconditioners(torch.tensor([0.5, 2.0]))
    before = model.network(noisy, past, actions, c)
    for i in range(4):
        for other_past, other_actions in [
            (past.index_put((torch.tensor(0), torch.tensor(i)), torch.tensor(0.3)), actions),
            (past, actions.index_put((torch.tensor(0), torch.tensor(i)), torch.tensor(2))),
        ]:
            after = model.network(noisy, other_past, other_actions, c)
            assert not torch.allclose(after[0], before[0], atol=1e-4)
            torch.testing.assert_close(after[1], before[1])


def test_predicting_the_change_starts_from_the_last_frame_where_noise_hides_the_next():
    model = Denoiser(dataclasses.replace(TINY, predict_change=True))
    noisy, past = normal(1, 3, 8, 8), normal(1, 4, 3, 8, 8, seed=1)
    for sigma in (1e-3, 0.5, 20.0):
        c = model.preconditioners(torch.tensor([sigma]))
        torch.testing.assert_close(model.base(noisy, past, c), c.c_skip * noisy + (1 - c.c_skip) * past[:, -1])
    torch.testing.assert_close(model.base(noisy, past, c), past[:, -1], atol=1e-2, rtol=0)
    plain = Denoiser(TINY)
    torch.testing.assert_close(plain.base(noisy, past, c), c.c_skip * noisy)


@pytest.mark.parametrize(
    "change", [{}, {"predict_change": True}, {"predict_change": True, "sigma_change": 0.05}], ids=str
)
def test_a_network_that_hits_the_target_of_the_loss_denoises_to_the_frame(change):
    config = dataclasses.replace(TINY, **change, quantisation="round")
    model = Denoiser(config)
    frames = to_unit(torch.randint(0, 256, (2, 5, 8, 8, 3), dtype=torch.uint8), torch.ones(2, 5).bool())
    x, actions = frames[:, -1], torch.zeros(2, 4).long()

    def perfect(self, noisy, past, actions, c):
        return (x - self.base(noisy, past, c)) / c.c_out

    model.network = MethodType(perfect, model)
    draw = TrainingNoise(torch.tensor([0.1, 5.0]), normal(2, 3, 1, 1), normal(2, 3, 8, 8))
    assert denoiser_loss(model, frames, actions, torch.ones(2, 5).bool(), [draw]) < 1e-8
    noisy = x + 0.3 * draw.offset + draw.sigma[:, None, None, None] * draw.pixel
    torch.testing.assert_close(model(noisy, draw.sigma, frames[:, :-1], actions), x, atol=1e-4, rtol=0)


class Batch:
    """A batch for a denoiser's loss with two targets."""

    def __init__(self, rows: int = 3) -> None:
        self.frames = normal(rows, 6, 3, 8, 8).clamp(-1, 1)
        self.actions = torch.arange(rows * 5).reshape(rows, 5) % 4
        self.mask = torch.ones(rows, 6).bool()
        self.noise = [
            TrainingNoise(normal(rows, seed=i).exp(), normal(rows, 3, 1, 1, seed=i + 5), normal(rows, 3, 8, 8, seed=i))
            for i in (1, 2)
        ]

    def loss(self, model: Denoiser, **settings: Any) -> torch.Tensor:
        return denoiser_loss(model, self.frames, self.actions, self.mask, self.noise, **settings)


def test_the_second_target_looks_back_on_the_first_estimate_which_gives_no_gradient():
    model, batch = randomised(Denoiser(TINY)), Batch()
    seen, outputs = [], []
    network = model.network

    def spy(noisy, past, actions, c):
        seen.append((past, actions))
        outputs.append(network(noisy, past, actions, c))
        return outputs[-1]

    model.network = spy
    batch.loss(model)
    (first, first_actions), (second, second_actions) = seen
    assert torch.equal(first, batch.frames[:, :4])
    assert torch.equal(second[:, :3], batch.frames[:, 1:4])
    assert torch.equal(first_actions, batch.actions[:, :4]) and torch.equal(second_actions, batch.actions[:, 1:5])
    draw = batch.noise[0]
    noisy = batch.frames[:, 4] + 0.3 * draw.offset + draw.sigma[:, None, None, None] * draw.pixel
    c = model.preconditioners(draw.sigma)
    estimate = quantise(model.base(noisy, first, c) + c.c_out * outputs[0], "truncate")
    assert torch.equal(second[:, 3], estimate) and not second.requires_grad


def test_the_loss_is_the_mean_over_targets_and_real_samples():
    model, batch = randomised(Denoiser(TINY)), Batch()
    whole = batch.loss(model)
    rows = []
    for row in range(3):
        part = Batch()
        part.mask[:, 4:] = False
        part.mask[row, 4:] = True
        rows.append(part.loss(model))
    torch.testing.assert_close(torch.stack(rows).mean(), whole)
    batch.noise = batch.noise[:1]
    first = batch.loss(model)
    batch = Batch()
    batch.mask[:, 4] = False
    torch.testing.assert_close(batch.loss(model) + first / 2, whole)


def test_noise_on_the_context_is_seen_in_the_history_alone_and_stays_within_the_levels():
    model, batch = randomised(Denoiser(TINY)), Batch()
    pasts, network = [], model.network
    model.network = lambda noisy, past, actions, c: pasts.append(past) or network(noisy, past, actions, c)
    batch.loss(model, context_noise=None)
    noise = normal(3, 4, 3, 8, 8, seed=9)
    batch.loss(model, context_noise=noise)
    assert torch.equal(pasts[2], (batch.frames[:, :4] + noise).clamp(-1, 1))
    assert torch.equal(pasts[3][:, :3], pasts[2][:, 1:])
    batch.loss(model, context_noise=torch.zeros_like(noise))
    assert torch.equal(pasts[4], pasts[0]) and torch.equal(pasts[5], pasts[1])


def test_a_masked_target_gives_neither_loss_nor_gradient():
    model = randomised(Denoiser(TINY))

    def gradients(value: float) -> list[torch.Tensor]:
        batch = Batch()
        batch.mask[1, 5] = False
        batch.frames[1, 5] = value
        return list(torch.autograd.grad(batch.loss(model), list(model.parameters())))

    for a, b in zip(gradients(0.0), gradients(0.9), strict=True):
        torch.testing.assert_close(a, b)


def test_a_change_from_padding_is_not_learnt_and_what_follows_sees_the_real_frame():
    model, batch = randomised(Denoiser(dataclasses.replace(TINY, predict_change=True))), Batch()
    batch.mask[1, :4] = False  # its first target is the first frame that there is
    pasts, network = [], model.network
    model.network = lambda noisy, past, actions, c: pasts.append(past) or network(noisy, past, actions, c)
    batch.loss(model)
    assert torch.equal(pasts[1][1, -1], batch.frames[1, 4])
    assert not torch.equal(pasts[1][0, -1], batch.frames[0, 4])
    alone = Batch()
    alone.mask[1, 4] = False  # the same, said otherwise: nothing to learn
    alone.mask[1, :4] = False
    alone.noise = alone.noise[:1]
    batch.noise = batch.noise[:1]
    torch.testing.assert_close(batch.loss(model), alone.loss(model))


def test_a_batch_of_padding_alone_has_no_loss():
    batch = Batch()
    batch.mask[:] = False
    assert batch.loss(randomised(Denoiser(TINY))) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cond_channels": 18}, ["cond_channels", "multiple of context_length=4", "18"]),
        ({"cond_channels": 12, "context_length": 12, "num_actions": 1}, []),
        ({"cond_channels": 15, "context_length": 5}, ["even", "15"]),
        ({"depths": (1, 1, 1)}, ["depths", "channels", "attention", "3, 2 and 2"]),
        ({"channels": ()}, ["depths", "channels", "attention", "2, 0 and 2"]),
        ({"sigma_change": 0.05}, ["sigma_change", "0 without predict_change", "0.05"]),
        ({"sigma_change": -1.0, "predict_change": True}, ["sigma_change", "at least 0", "-1.0"]),
        ({"noisy_change": True}, ["noisy_change", "without predict_change"]),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(change, words):
    if not words:
        Denoiser(dataclasses.replace(TINY, **change))
        return
    with pytest.raises(ValueError) as error:
        Denoiser(dataclasses.replace(TINY, **change))
    for word in words:
        assert word in str(error.value)


def test_less_noise_comes_through_a_silent_network_the_smaller_the_changes_it_expects():
    past = normal(2, 4, 3, 8, 8).clamp(-1, 1)
    noisy, sigma = past[:, -1] + 0.3 * normal(2, 3, 8, 8, seed=1), torch.full((2,), 0.3)
    left = []
    for sigma_change in (0.0, 0.05):
        model = Denoiser(dataclasses.replace(TINY, predict_change=True, sigma_change=sigma_change))
        left.append((model.base(noisy, past, model.preconditioners(sigma)) - past[:, -1]).std().item())
    assert left[1] < 0.05 * left[0]


def test_of_a_change_the_network_sees_what_edm_would_show_it_of_the_change_alone():
    """The frame enters as c_in (x + sigma n - last), as much as the change's spread and the noise make one."""
    model = Denoiser(dataclasses.replace(TINY, predict_change=True, sigma_change=0.05, noisy_change=True))
    shown = []
    model.inner_model.forward = lambda noisy, c_noise, past, actions: shown.append(noisy) or torch.zeros_like(noisy)
    past = normal(64, 4, 3, 8, 8).clamp(-1, 1)
    change, noise = 0.05 * normal(64, 3, 8, 8, seed=1), normal(64, 3, 8, 8, seed=2)
    for sigma in (0.01, 0.3, 5.0):
        c = model.preconditioners(torch.full((64,), sigma))
        total = (sigma**2 + TINY.sigma_offset_noise**2) ** 0.5  # the offset is noise, too
        model.network(past[:, -1] + change + total * noise, past, torch.zeros(64, 4).long(), c)
        torch.testing.assert_close(shown[-1], c.c_in * (change + total * noise), atol=1e-5, rtol=1e-4)
        assert shown[-1].std().item() == pytest.approx(1, rel=0.05)


def test_where_changes_are_denoised_sampling_starts_around_the_last_frame():
    past = normal(2, 4, 3, 8, 8)
    config = dataclasses.replace(TINY, predict_change=True)
    assert torch.equal(Denoiser(dataclasses.replace(config, noisy_change=True)).origin(past), past[:, -1])
    assert Denoiser(config).origin(past) == 0


def test_a_dream_begins_its_frame_where_the_network_learnt_to():
    model = tiny.world_model()
    assert model.config.denoiser.noisy_change
    dynamics, seen = model.dynamics("cpu", sigma_start=3.0), []
    dynamics.denoiser.forward = lambda noisy, sigma, past, actions: seen.append(noisy) or noisy
    past, noise = normal(2, 4, 3, *tiny.ENV["frame_shape"][:2]), torch.arange(2)
    dynamics.sample(past, torch.zeros(2, 4).long(), RowNoise(noise, noise))
    drawn = RowNoise(noise, noise).normal(past.shape[2:])
    torch.testing.assert_close(seen[0], past[:, -1] + 3 * drawn)


# Sampler


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_noise_levels_fall_from_the_highest_to_the_lowest_then_nothing(steps):
    levels = noise_levels(SamplerConfig(num_denoising_steps=steps))
    assert len(levels) == steps + 1
    assert levels == sorted(levels, reverse=True) and len(set(levels)) == len(levels)
    assert levels[0] == pytest.approx(5.0) and levels[-1] == 0
    if steps > 1:
        assert levels[-2] == pytest.approx(2e-3)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("s_churn", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_a_denoiser_that_knows_the_frame_leads_every_sampler_to_it(order, s_churn, steps):
    frame = normal(2, 3, 4, 4)
    config = SamplerConfig(num_denoising_steps=steps, order=order, s_churn=s_churn)
    got = sample(lambda x, sigma: frame, normal(2, 3, 4, 4, seed=1), config, lambda: normal(2, 3, 4, 4, seed=2))
    torch.testing.assert_close(got, frame, atol=1e-5, rtol=0)


def test_noise_is_around_the_origin_at_the_start():
    noisy, start, origin = [], normal(2, 1, 2, 2), normal(2, 1, 2, 2, seed=1)
    config = SamplerConfig(num_denoising_steps=2, sigma_start=3.0)
    sample(lambda x, sigma: noisy.append(x) or origin, start, config, lambda: start, origin)
    torch.testing.assert_close(noisy[0], origin + 3 * start)
    torch.testing.assert_close(noisy[1], origin + 3 * start * 2e-3 / 5, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("order", "calls"), [(1, 4), (2, 7)])
def test_the_denoiser_is_told_the_levels_of_the_schedule(order, calls):
    config = SamplerConfig(num_denoising_steps=4, order=order, s_churn=2.0)
    told = []

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        assert sigma.shape == (2,) and sigma[0] == sigma[1]
        told.append(sigma[0].item())
        return torch.zeros_like(x)

    sample(denoise, normal(2, 1, 2, 2), config, lambda: normal(2, 1, 2, 2))
    levels = noise_levels(config)[:-1]
    if order == 2:  # Heun looks again from the next level, save where that is 0
        levels = [levels[0]] + [level for level in levels[1:] for _ in range(2)]
    assert told == pytest.approx(levels) and len(told) == calls


def test_churn_draws_noise_just_at_the_levels_between_its_bounds():
    config = SamplerConfig(num_denoising_steps=5, s_churn=1.0, s_tmin=0.01, s_tmax=3.0, s_noise=1.1)
    levels, draws, scales = noise_levels(config)[:-1], [], []

    def draw() -> torch.Tensor:
        draws.append(len(scales))  # how many denoising steps are done
        return torch.full((1, 1, 1, 1), 1.0)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        scales.append((sigma.item(), x.item()))
        return x  # the flow stands still, so x changes by churn alone

    end = sample(denoise, torch.zeros(1, 1, 1, 1), config, draw)
    churned = [i for i, sigma in enumerate(levels) if 0.01 <= sigma <= 3.0]
    assert draws == churned and 0 < len(churned) < 5
    gamma = 1.0 / 5
    added = sum(1.1 * (((1 + gamma) * levels[i]) ** 2 - levels[i] ** 2) ** 0.5 for i in churned)
    assert end.item() == pytest.approx(added, rel=1e-5)


def test_churn_is_limited():
    """Gamma is at most sqrt 2 - 1, so that one step at most doubles the variance (EDM, algorithm 2)."""
    noisy = []
    config = SamplerConfig(num_denoising_steps=2, s_churn=100.0)
    sample(lambda x, sigma: noisy.append(x) or x, torch.zeros(1), config, lambda: torch.ones(1))
    assert noisy[0].item() == pytest.approx(5.0, rel=1e-5)


def test_samples_vary_as_data_do_when_begun_with_as_much_noise_as_the_network_is_told():
    """Of data ~ N(0, 0.5^2), whose exact denoiser is a factor; DIAMOND's unit start varies a fifth as much."""
    starts = normal(100_000)

    def spread(sigma_start: float) -> float:
        config = SamplerConfig(num_denoising_steps=200, sigma_start=sigma_start)
        return sample(lambda x, sigma: x * 0.25 / (0.25 + sigma**2), starts, config, lambda: starts).std().item()

    assert spread(5.0) == pytest.approx(0.5, rel=0.05)
    assert spread(1.0) == pytest.approx(spread(5.0) / 5, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"num_denoising_steps": 0}, "num_denoising_steps"),
        ({"sigma_min": 0.0}, "sigma_min"),
        ({"sigma_min": 6.0}, "sigma_max"),
        ({"order": 3}, "order"),
        ({"sigma_start": -1.0}, "sigma_start"),
        ({"sigma_start": float("nan")}, "sigma_start"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        SamplerConfig(**settings)


# Reward and termination model

TINY_REWARD = RewardTerminationConfig(
    4, (16, 16), cond_channels=8, depths=(1, 1), channels=(8, 8), attention=(False, False), lstm_size=8
)


@torch.no_grad()
def test_the_memory_carries_on_where_a_sequence_is_cut():
    model = randomised(RewardTerminationModel(TINY_REWARD))
    frames, actions = normal(2, 8, 3, 16, 16), torch.arange(14).reshape(2, 7) % 4
    whole = model(frames[:, :-1], actions, frames[:, 1:])
    first = model(frames[:, :3], actions[:, :3], frames[:, 1:4])
    second = model(frames[:, 3:7], actions[:, 3:], frames[:, 4:], first.state)
    for name in ("reward", "termination"):
        parts = torch.cat([getattr(first, name), getattr(second, name)], dim=1)
        torch.testing.assert_close(parts, getattr(whole, name))
    torch.testing.assert_close(second.state.hidden, whole.state.hidden)
    torch.testing.assert_close(second.state.cell, whole.state.cell)
    fresh = model(frames[:, 3:7], actions[:, 3:], frames[:, 4:])
    assert not torch.allclose(fresh.reward, second.reward, atol=1e-4)


@torch.no_grad()
def test_an_empty_memory_is_all_zeros():
    model = randomised(RewardTerminationModel(TINY_REWARD))
    frames, actions = normal(1, 2, 3, 16, 16), torch.zeros(1, 1).long()
    zeros = model.initial_state(1, torch.device("cpu"))
    assert isinstance(zeros, LSTMState) and not zeros.hidden.any() and not zeros.cell.any()
    given = model(frames[:, :1], actions, frames[:, 1:], zeros)
    torch.testing.assert_close(given.reward, model(frames[:, :1], actions, frames[:, 1:]).reward)


def prediction(logits_of_reward: torch.Tensor, logits_of_termination: torch.Tensor) -> Prediction:
    return Prediction(logits_of_reward, logits_of_termination, LSTMState(torch.zeros(1), torch.zeros(1)))


def test_rewards_are_told_by_sign_and_padding_counts_for_nothing():
    rewards = torch.tensor([[-7.0, 0.0, 30.0, 0.0]])
    ends = torch.tensor([[False, False, True, False]])
    right = torch.tensor([[[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [0, 0, 0]]])
    over = torch.tensor([[[9.0, 0], [9, 0], [0, 9], [0, 0]]])
    mask = torch.tensor([[True, True, True, False]])
    loss = reward_termination_loss(prediction(right, over), rewards, ends, mask)
    assert loss.reward < 1e-3 and loss.termination < 1e-3
    loss = reward_termination_loss(prediction(right, over), rewards, ends, torch.ones(1, 4).bool())
    assert loss.reward.item() == pytest.approx(torch.tensor(3.0).log().item() / 4, abs=1e-3)
    assert loss.termination.item() == pytest.approx(torch.tensor(2.0).log().item() / 4, abs=1e-3)
    assert reward_termination_loss(prediction(right, over), rewards, ends, torch.zeros(1, 4).bool()).reward == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frame_size": (16, 15)}, ["multiples of 2", "(16, 15)"]),
        ({"frame_size": (12, 16), "patch_size": 4}, ["multiples of 8", "(12, 16)"]),
        ({"attention": (False,)}, ["depths", "channels", "attention", "2, 2 and 1"]),
    ],
)
def test_reward_model_sizes_that_do_not_fit_together_are_refused(change, words):
    with pytest.raises(ValueError) as error:
        RewardTerminationModel(dataclasses.replace(TINY_REWARD, **change))
    for word in words:
        assert word in str(error.value)


@torch.no_grad()
@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (50.0, 1.0), (3.0, 0.0)])
def test_a_normalisation_computes_the_same_as_compilers_see_it(mean, spread):
    torch.manual_seed(0)
    norm, cond = AdaptiveGroupNorm(64, 8), torch.randn(3, 8)
    x = mean + spread * torch.randn(3, 64, 6, 5)
    torch.compiler.reset()
    folded = torch.compile(norm, backend="eager", fullgraph=True)(x.clone(), cond)
    exact = norm.double()(x.double(), cond.double())
    torch.testing.assert_close(folded.double(), exact, atol=2e-3, rtol=1e-3)
    assert exact.std() > 0.3
