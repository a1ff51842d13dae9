"""Our networks, losses and samplers against numbers computed once with the released DIAMOND implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gym_dream.agents import ActorCritic, ActorCriticConfig
from gym_dream.agents.actor_critic import Memory
from gym_dream.models.denoiser import Denoiser, DenoiserConfig, TrainingNoise, denoiser_loss, preconditioners
from gym_dream.models.reward_termination import (
    RewardTerminationConfig,
    RewardTerminationModel,
    reward_termination_loss,
)
from gym_dream.models.sampler import SamplerConfig, noise_levels, sample
from gym_dream.trainers.imagination import lambda_returns

FOLDER = Path(__file__).parent / "reference"
SEED_OFFSET = {"denoiser": 0, "rew_end_model": 1, "actor_critic": 2}
ONE_LEVEL = 2 / 255 + 1e-6


def reference_weights(reference: dict, model: str) -> dict[str, torch.Tensor]:
    """The weights behind the numbers: one RandomState a model, keys drawn in sorted order, each scaled by its kind."""
    draw = np.random.RandomState(reference["seed"] + SEED_OFFSET[model])
    weights = {}
    for key, shape in sorted(reference["keys"][model].items()):
        array = draw.standard_normal(tuple(shape)).astype(np.float32)
        if not key.endswith("noise_emb.weight"):
            if array.ndim <= 1:
                array = array * np.float32(0.1) + np.float32("norm.weight" in key)
            else:
                array = array * np.float32(0.7 / np.sqrt(np.prod(array.shape[1:])))
        weights[key] = torch.from_numpy(array)
    return weights


class Reference:
    """One reference: its numbers, and models with its weights."""

    def __init__(self, name: str) -> None:
        self.json = json.loads((FOLDER / f"{name}.json").read_text())
        self.io = load_file(FOLDER / f"{name}.io.safetensors")

    def denoiser(self) -> Denoiser:
        c = self.json["config"]["denoiser"]
        config = DenoiserConfig(
            num_actions=c["num_actions"],
            context_length=c["num_steps_conditioning"],
            cond_channels=c["cond_channels"],
            depths=tuple(c["depths"]),
            channels=tuple(c["channels"]),
            attention=tuple(map(bool, c["attn_depths"])),
            sigma_data=c["sigma_data"],
            sigma_offset_noise=c["sigma_offset_noise"],
        )
        model = Denoiser(config)
        model.load_state_dict(reference_weights(self.json, "denoiser"))
        return model

    def reward_termination(self) -> RewardTerminationModel:
        c = self.json["config"]["rew_end_model"]
        config = RewardTerminationConfig(
            num_actions=c["num_actions"],
            frame_size=(c["img_size"], c["img_size"]),
            cond_channels=c["cond_channels"],
            depths=tuple(c["depths"]),
            channels=tuple(c["channels"]),
            attention=tuple(map(bool, c["attn_depths"])),
            lstm_size=c["lstm_dim"],
        )
        model = RewardTerminationModel(config)
        model.load_state_dict(reference_weights(self.json, "rew_end_model"))
        return model

    def actor_critic(self) -> ActorCritic:
        c = self.json["config"]["actor_critic"]
        assert all(c["down"])
        config = ActorCriticConfig(
            num_actions=c["num_actions"],
            frame_size=(c["img_size"], c["img_size"]),
            image_channels=c["img_channels"],
            channels=tuple(c["channels"]),
            lstm_size=c["lstm_dim"],
        )
        model = ActorCritic(config)
        model.load_state_dict(reference_weights(self.json, "actor_critic"))
        return model


@pytest.fixture(scope="module")
def atari() -> Reference:
    return Reference("atari_small")


@pytest.fixture(scope="module")
def training() -> Reference:
    return Reference("training_small")


def assert_frames_agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """At most one grey level apart, and that on at most one pixel in a thousand."""
    difference = (ours - theirs).abs()
    assert difference.max() <= ONE_LEVEL
    assert (difference > 1e-4).float().mean() <= 1e-3


def test_preconditioners(atari):
    ours = preconditioners(atari.io["denoiser.sigma"], 0.5, 0.3)
    for name in ("c_in", "c_out", "c_skip", "c_noise"):
        torch.testing.assert_close(getattr(ours, name), atari.io[f"denoiser.{name}"], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_network_and_denoised_frame(atari):
    io, model = atari.io, atari.denoiser()
    noisy, past, actions = io["denoiser.noisy_next_obs"], io["denoiser.obs"], io["denoiser.act"]
    c = model.preconditioners(io["denoiser.sigma"])
    torch.testing.assert_close(model.network(noisy, past, actions, c), io["denoiser.model_output"], atol=1e-4, rtol=0)
    assert_frames_agree(model(noisy, io["denoiser.sigma"], past, actions), io["denoiser.denoised"])


@pytest.mark.parametrize(
    ("name", "steps", "order"), [("euler1", 1, 1), ("euler3", 3, 1), ("euler5", 5, 1), ("heun3", 3, 2)]
)
@torch.no_grad()
def test_samplers(atari, name, steps, order):
    io, model = atari.io, atari.denoiser()
    config = SamplerConfig(num_denoising_steps=steps, order=order)
    if order == 1:
        torch.testing.assert_close(torch.tensor(noise_levels(config)), io[f"sampler.{name}.sigmas"])
    ours = sample(
        lambda x, sigma: model(x, sigma, io["denoiser.obs"], io["denoiser.act"]),
        io["sampler.initial_noise"],
        config,
        draw_noise=lambda: pytest.fail("a sampler without churn draws no noise"),
    )
    assert_frames_agree(ours, io[f"sampler.{name}.sample"])


@torch.no_grad()
def test_churned_heun_sampler(training):
    io, model = training.io, training.denoiser()
    config = SamplerConfig(num_denoising_steps=3, order=2, s_churn=1, s_tmin=0.01, s_tmax=10, s_noise=1.003)
    noise = iter([io["churn_heun3.noise1"], io["churn_heun3.noise2"]])
    ours = sample(
        lambda x, sigma: model(x, sigma, io["churn_heun3.past"], io["churn_heun3.act"]),
        io["churn_heun3.noise0"],
        config,
        draw_noise=lambda: next(noise),
    )
    assert_frames_agree(ours, io["churn_heun3.sample"])


@torch.no_grad()
def test_reward_termination_logits_and_memory(atari):
    io, model = atari.io, atari.reward_termination()
    prediction = model(io["rew_end.obs"], io["rew_end.act"], io["rew_end.next_obs"])
    torch.testing.assert_close(prediction.reward, io["rew_end.logits_rew"], atol=1e-4, rtol=0)
    torch.testing.assert_close(prediction.termination, io["rew_end.logits_end"], atol=1e-4, rtol=0)
    torch.testing.assert_close(prediction.state.hidden, io["rew_end.hx"][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(prediction.state.cell, io["rew_end.cx"][0], atol=1e-4, rtol=0)


def test_denoiser_loss_and_gradients(training):
    io, model = training.io, training.denoiser()
    noise = [
        TrainingNoise(
            sigma=torch.exp(-0.4 + 1.2 * io[f"denoiser_loss.target{i}.sigma_normal"]).clamp(2e-3, 20),
            offset=io[f"denoiser_loss.target{i}.offset_normal"],
            pixel=io[f"denoiser_loss.target{i}.pixel_normal"],
        )
        for i in range(2)
    ]
    frames, actions, mask = (io[f"denoiser_loss.{name}"] for name in ("obs", "act", "mask"))
    loss = denoiser_loss(model, frames, actions[:, :-1], mask.bool(), noise)
    torch.testing.assert_close(loss, io["denoiser_loss.loss"][0], atol=1e-5, rtol=0)
    loss.backward()
    parameters = dict(model.named_parameters())
    expected = {key.removeprefix("denoiser_loss.grad."): io[key] for key in io if ".grad." in key}
    assert len(expected) == 3
    for key, gradient in expected.items():
        torch.testing.assert_close(parameters[key].grad, gradient, atol=1e-5, rtol=0)


@torch.no_grad()
def test_reward_termination_losses(training):
    io, model = training.io, training.reward_termination()
    frames, actions, rewards, ends, mask = (io[f"rew_end_loss.{name}"] for name in ("obs", "act", "rew", "end", "mask"))
    next_frames = frames[:, 1:].clone()
    next_frames[1, 4] = io["rew_end_loss.final_obs_of_row1"]
    loss = reward_termination_loss(
        model(frames[:, :-1], actions[:, :-1], next_frames), rewards[:, :-1], ends[:, :-1].bool(), mask[:, :-1].bool()
    )
    torch.testing.assert_close(loss.reward, io["rew_end_loss.loss_rew"][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(loss.termination, io["rew_end_loss.loss_end"][0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_agent_logits_value_and_memory(atari):
    io, model = atari.io, atari.actor_critic()
    logits, value, memory = model(io["actor_critic.obs"], Memory(io["actor_critic.h0"], io["actor_critic.c0"]))
    torch.testing.assert_close(logits, io["actor_critic.logits_act"], atol=1e-4, rtol=0)
    torch.testing.assert_close(value, io["actor_critic.val"], atol=1e-4, rtol=0)
    torch.testing.assert_close(memory.hidden, io["actor_critic.hx"], atol=1e-4, rtol=0)
    torch.testing.assert_close(memory.cell, io["actor_critic.cx"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("lambda_", "expected"), [(0.95, "returns"), (0.0, "returns_l0")])
def test_lambda_returns(atari, lambda_, expected):
    rewards, ends, cuts, values = (atari.io[f"lambda.{name}"] for name in ("rew", "end", "trunc", "val_bootstrap"))
    ours = lambda_returns(rewards, ends.bool(), cuts.bool(), values, gamma=0.985, lambda_=lambda_)
    torch.testing.assert_close(ours, atari.io[f"lambda.{expected}"], atol=1e-5, rtol=0)


def test_parameter_counts_are_the_papers():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(Denoiser(DenoiserConfig(num_actions=4))) == 4_405_955
    assert count(RewardTerminationModel(RewardTerminationConfig(num_actions=4))) == 5_900_864
    assert count(ActorCritic(ActorCriticConfig(num_actions=4))) == 3_229_637
