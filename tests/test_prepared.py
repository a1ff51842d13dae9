import copy

import pytest
import tiny
import torch
from torch import nn

from gym_dream import WorldModel
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
    before = {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}
    dynamics = model.dynamics("cpu", "bfloat16")
    weights = [m.weight for m in dynamics.denoiser.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    after = model.denoiser.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
