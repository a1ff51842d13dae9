import copy

import pytest
import tiny
import torch
from torch import nn

from gym_dream import Dream, WorldModel
from gym_dream.models.diamond import DiamondDynamics
from gym_dream.models.layers import AdaptiveGroupNorm
from gym_dream.models.prepared import prepare, share_conditioning


@pytest.fixture
def model() -> WorldModel:
    return tiny.world_model()


@torch.no_grad()
def test_prepared_networks_compute_the_same(model):
    (plain, judge), channels = (model.denoiser.double(), model.reward_termination.double()), 3
    fast, fast_judge = copy.deepcopy(plain), copy.deepcopy(judge)
    prepare(fast, fast_judge, torch.float64)
    height, width, _ = model.config.env["frame_shape"]
    generator = torch.Generator().manual_seed(0)
    past = torch.rand(3, 4, channels, height, width, dtype=torch.float64, generator=generator) * 2 - 1
    noisy, sigma = past[:, 0] * 3, torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    actions = torch.arange(12).view(3, 4) % 4
    c = plain.preconditioners(sigma)
    torch.testing.assert_close(fast.network(noisy, past, actions, c), plain.network(noisy, past, actions, c))
    for steps in (1, 3):  # a dream's step, and what it is burnt in on
        transitions = past[:, :steps], actions[:, :steps], past[:, 1 : 1 + steps]
        for ours, theirs in zip(fast_judge(*transitions)[:2], judge(*transitions)[:2], strict=True):
            torch.testing.assert_close(ours, theirs)


def test_one_layer_takes_the_place_of_all(model):
    inner = model.denoiser.inner_model
    norms = [module for module in inner.modules() if isinstance(module, AdaptiveGroupNorm)]
    widths = [norm.linear.out_features for norm in norms]
    shared = share_conditioning(inner.unet)
    assert shared.out_features == sum(widths) and len(widths) > 10
    assert not any(isinstance(module, nn.Linear) for module in inner.unet.modules())
    cond = torch.arange(sum(widths))[None]
    assert [norm.linear(cond).shape[1] for norm in norms] == widths
    assert torch.equal(torch.cat([norm.linear(cond) for norm in norms], dim=1), cond)


def test_a_dream_has_its_weights_in_the_type_that_it_computes_in_and_leaves_the_model_alone(model):
    networks = model.denoiser, model.reward_termination
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    dynamics = model.dynamics("cpu", "bfloat16")
    for network in (dynamics.denoiser, dynamics.reward_termination):
        weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert dynamics.reward_termination.act_emb.weight.dtype == torch.bfloat16
    for network, stored in zip(networks, before, strict=True):
        weights = network.state_dict()
        assert weights.keys() == stored.keys() and all(torch.equal(weights[name], stored[name]) for name in stored)


@torch.no_grad()
def test_frames_are_those_of_networks_that_autocast_rounds(model):
    prepared = model.dynamics("cpu", "bfloat16")
    networks = copy.deepcopy(model.denoiser), copy.deepcopy(model.reward_termination)
    for network in networks:
        network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    rounded = DiamondDynamics(*networks, prepared.sampler, prepared.device, torch.bfloat16)
    dreams = [Dream(dynamics, 3, model.starts, horizon=-1, seed=1) for dynamics in (prepared, rounded)]
    for dream in dreams:
        dream.reset()
    for step in range(5):
        ours, theirs = (dream.step(torch.arange(3) + step % 2).observation for dream in dreams)
        assert (ours.int() - theirs.int()).abs().max() <= 1
