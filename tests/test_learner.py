"""One network's updates: weight decay, AdamW and Muon, clipping, the moving average."""

from typing import Any

import pytest
import tiny
import torch

from gym_dream.trainers.learner import Learner

LEARNING = {"learning_rate": 0.01, "weight_decay": 0.0, "max_grad_norm": 1e9, "average_decay": 0.9}
X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def test_weight_decay_spares_norms_embeddings_and_biases():
    made = Learner(tiny.world_model().denoiser, 0.1, 0.5, 1.0, 0.9)
    [(adamw, _)] = made.optimisers
    decayed, others = adamw.param_groups
    assert decayed["weight_decay"] == 0.5 and others["weight_decay"] == 0.0
    names = {parameter: name for name, parameter in made.network.named_parameters()}
    spared = {names[parameter] for parameter in others["params"]}
    assert len(decayed["params"]) + len(others["params"]) == len(names)
    assert spared == {
        name
        for name in names.values()
        if "bias" in name or ".norm.weight" in name or name == "inner_model.act_emb.0.weight"
    }
    assert any("norm.weight" in name for name in spared)


def test_weight_decay_spares_the_biases_of_an_lstm():
    made = Learner(tiny.world_model().reward_termination, 0.1, 0.5, 1.0, 0.9)
    names = {parameter: name for name, parameter in made.network.named_parameters()}
    [(adamw, _)] = made.optimisers
    spared = {names[parameter] for parameter in adamw.param_groups[1]["params"]}
    assert {"lstm.bias_ih_l0", "lstm.bias_hh_l0", "act_emb.weight"} < spared
    assert not {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.0.weight"} & spared


def convolutions(**settings: Any) -> tuple[torch.nn.Sequential, Learner]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 1))
    if settings.pop("channels_last", False):
        network.to(memory_format=torch.channels_last)
    return network, Learner(network, **{"muon_learning_rate": 0.01} | LEARNING | settings)


def test_muon_moves_a_convolution_along_every_direction_as_far_and_as_far_as_adamw_would():
    network, made = convolutions()
    before = network[0].weight.detach().clone()
    made.update(network(X).square().mean(), 1.0)
    moved = (network[0].weight.detach() - before).flatten(1)
    stretched = torch.linalg.svdvals(moved) / (0.01 * 0.2 * 36**0.5)  # arXiv 2502.16982, equation 4
    assert stretched.min() > 0.5 and stretched.max() < 1.3  # Newton and Schulz' iteration ends near 1
    gradient = torch.linalg.svdvals(network[0].weight.grad.flatten(1))
    assert gradient.max() > 10 * gradient.min()  # the gradient itself hardly moves it along some


def test_muon_is_for_the_weights_of_convolutions_and_each_weight_has_one_optimiser():
    network = tiny.world_model().reward_termination
    made = Learner(network, **LEARNING, muon_learning_rate=0.01)
    (adamw, _), (muon, rate) = made.optimisers
    by_adamw = {parameter for group in adamw.param_groups for parameter in group["params"]}
    by_muon = {name for name, parameter in network.named_parameters() if parameter not in by_adamw}
    assert by_muon == {f"{n}.weight" for n, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)}
    assert len(muon.param_groups[0]["params"]) == len(by_muon) > 3
    assert rate == 0.01


def test_muon_learns_the_same_however_weights_lie_in_memory():
    networks = []
    for channels_last in (False, True):
        network, made = convolutions(channels_last=channels_last)
        for _ in range(5):
            made.update(network(X).square().mean(), 1.0)
        networks.append(network)
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_muon_goes_on_from_its_tensors():
    network, made = convolutions(weight_decay=0.1)
    for _ in range(3):
        made.update(network(X).square().mean(), 1.0)
    other, resumed = convolutions(weight_decay=0.1)
    resumed.load_tensors({name: tensor.clone() for name, tensor in made.tensors().items()})
    for net, learner in ((network, made), (other, resumed)):
        for _ in range(2):
            learner.update(net(X).square().mean(), 0.5)
    for name, tensor in made.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name


def one_weight(**settings: Any) -> tuple[torch.nn.Linear, Learner]:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    return network, Learner(network, **LEARNING | {"learning_rate": 0.1} | settings)


def test_the_average_forgets_its_youth_quickly_then_at_its_own_pace():
    network, made = one_weight(average_decay=0.5)
    expected = None
    for count in range(12):
        made.update(network.weight.sum(), 1.0)
        now = network.weight.item()
        decay = min(0.5, (1 + count) / (10 + count))
        expected = now if expected is None else decay * expected + (1 - decay) * now
        assert made.average.module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert decay == 0.5


def test_gradients_are_clipped_by_their_norm():
    big, small = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    network = torch.nn.ParameterList([big, small])
    made = Learner(network, 0.1, 0.0, 2.0, 0.9)
    norm = made.update(30 * big.sum() + 40 * small.sum(), 1.0)
    assert norm.item() == pytest.approx(50.0)
    assert big.grad.item() == pytest.approx(1.2) and small.grad.item() == pytest.approx(1.6)
    norm = made.update(0.3 * big.sum() + 0.4 * small.sum(), 1.0)
    assert norm.item() == pytest.approx(0.5) and big.grad.item() == pytest.approx(0.3)


def test_the_rate_scales_the_step():
    network, made = one_weight(learning_rate=0.1)
    made.update(network.weight.sum(), 0.25)
    assert network.weight.item() == pytest.approx(-0.025, rel=1e-3)  # Adam's first step is as long as its rate
    made.update(network.weight.sum(), 0.0)
    assert network.weight.item() == pytest.approx(-0.025, rel=1e-3)
