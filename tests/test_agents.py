from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch

import gym_dream.files
from gym_dream.agents import (
    ActorCritic,
    ActorCriticConfig,
    AgentConfig,
    AgentPolicy,
    StackedConfig,
    load_agent,
    shipped_agent,
)
from gym_dream.agents.actor_critic import Memory
from gym_dream.cli import main
from gym_dream.data import Contexts, EpisodeStore
from gym_dream.evaluation import evaluate_policy
from gym_dream.evaluation.kept import KeptEpisodes
from gym_dream.evaluation.returns import family
from gym_dream.policy import EpsilonPolicy, load_policy
from gym_dream.real import env_spec
from gym_dream.world_model import WorldModel

SIZES = ActorCriticConfig(num_actions=4, frame_size=(16, 16), channels=(4, 8), lstm_size=6)
CONFIG = AgentConfig(tiny.ENV, SIZES)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def agent(seed: int = 0, config: AgentConfig = CONFIG) -> AgentPolicy:
    """With random weights everywhere, so that it depends on what it sees and remembers."""
    made = AgentPolicy.create(config, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.network.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return made


@pytest.fixture(scope="module")
def policy() -> AgentPolicy:
    return agent()


def frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 16, 16, 3), dtype=np.uint8)


def remember(network: ActorCritic, seen: np.ndarray) -> Memory:
    """The memory after frames (B, T, …), one by one."""
    memory = network.empty_memory(len(seen))
    for step in range(seen.shape[1]):
        memory = network(torch.from_numpy(seen[:, step]), memory).memory
    return memory


# The network


def test_it_begins_without_preferences() -> None:
    network = AgentPolicy.create(CONFIG, seed=0).network
    logits, value, memory = network(torch.from_numpy(frames(3)), network.empty_memory(3))
    assert not logits.any() and not value.any() and memory.hidden.any()
    input_gate, forget, cell, output = network.lstm.bias_ih.chunk(4)
    assert (forget == 1).all() and not torch.cat([input_gate, cell, output, network.lstm.bias_hh]).any()
    recurrent = network.lstm.weight_hh
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(SIZES.lstm_size), atol=1e-5, rtol=0)


def test_bytes_and_floats_are_the_same_frames(policy: AgentPolicy) -> None:
    seen = torch.from_numpy(frames(3))
    memory = policy.network.empty_memory(3)
    one = policy.network(seen, memory)
    other = policy.network(seen.permute(0, 3, 1, 2).float() / 255 * 2 - 1, memory)
    torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.value, other.value, atol=1e-5, rtol=0)


def test_burning_in_is_having_seen(policy: AgentPolicy) -> None:
    seen = frames(2, 3)
    real = torch.tensor([[True, True, True], [False, False, True]])
    memory = policy.network.burn_in(torch.from_numpy(seen), real)
    for row, length in ((0, 3), (1, 1)):
        expected = remember(policy.network, seen[row : row + 1, 3 - length :])
        torch.testing.assert_close(memory.hidden[row], expected.hidden[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(memory.cell[row], expected.cell[0], atol=1e-5, rtol=1e-5)


def test_burning_in_has_gradients_but_not_of_padding() -> None:
    network = agent().network
    seen = torch.from_numpy(frames(1, 2))
    network.burn_in(seen, torch.tensor([[False, True]])).hidden.sum().backward()
    gradient = network.lstm.weight_ih.grad.clone()
    assert gradient.any()
    network.zero_grad()
    network.burn_in(seen[:, 1:], torch.ones(1, 1, dtype=torch.bool)).hidden.sum().backward()
    torch.testing.assert_close(network.lstm.weight_ih.grad, gradient)


def test_nothing_to_burn_in_is_an_empty_memory(policy: AgentPolicy) -> None:
    memory = policy.network.burn_in(torch.from_numpy(frames(2, 0)), torch.ones(2, 0, dtype=torch.bool))
    assert memory.hidden.shape == memory.cell.shape == (2, SIZES.lstm_size) and not torch.cat(memory).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_actions": 0}, "num_actions: expected at least 1"),
        ({"channels": ()}, "channels: expected at least one width"),
        ({"channels": (4,) * 5}, r"one halving of the \(16, 16\) frame a width"),
    ],
)
def test_sizes_that_cannot_be(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SIZES, **wrong)


def test_a_network_made_for_another_environment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"frame_shape is \[16, 16, 3\], but the network is made for \[32, 32, 3\]"):
        replace(CONFIG, actor_critic=replace(SIZES, frame_size=(32, 32)))
    with pytest.raises(ValueError, match="4 action_meanings, but the network has 5 actions"):
        replace(CONFIG, actor_critic=replace(SIZES, num_actions=5))


# The network that sees stacked frames

STACKED = AgentConfig(tiny.ENV, StackedConfig(4, (16, 16), num_frames=3, channels=(4, 8), hidden_size=6))


def test_it_has_as_many_parameters_as_said() -> None:
    network = AgentPolicy.create(AgentConfig({}, StackedConfig(4)), seed=0).network
    count = sum(parameter.numel() for parameter in network.parameters())
    assert f"{count:,} parameters with 4 actions" in StackedConfig.__doc__


def test_stacked_frames_are_the_last_ones_and_padding_is_black() -> None:
    network = agent(config=STACKED).network
    seen = torch.from_numpy(frames(2, 5))
    memory = network.empty_memory(2)
    assert memory.frames.shape == (2, 2, 16, 16, 3) and not memory.frames.any()
    for step in range(4):
        memory = network(seen[:, step], memory).memory
    assert torch.equal(memory.frames, seen[:, 2:4])
    assert torch.equal(network.burn_in(seen[:, :4], torch.ones(2, 4, dtype=torch.bool)).frames, seen[:, 2:4])
    padded = network.burn_in(seen[:, :2], torch.tensor([[False, True], [True, True]])).frames
    assert not padded[0, 0].any() and torch.equal(padded[0, 1], seen[0, 1]) and torch.equal(padded[1], seen[1, :2])
    assert torch.equal(network.burn_in(seen[:, :1], torch.ones(2, 1, dtype=torch.bool)).frames[:, 1], seen[:, 0])
    assert not network.burn_in(seen[:, :0], torch.ones(2, 0, dtype=torch.bool)).frames.any()


def test_it_judges_by_the_stack_and_by_nothing_older() -> None:
    network = agent(config=STACKED).network
    seen = torch.from_numpy(frames(4, 5))
    values = [
        network(seen[:, 4], network.burn_in(seen[:, first:4], torch.ones(4, 4 - first, dtype=torch.bool))).value
        for first in (0, 2, 3)
    ]
    assert torch.equal(values[0], values[1]) and not torch.isclose(values[1], values[2]).any()


def test_stacked_agents_are_saved_and_loaded(tmp_path: Path) -> None:
    made = agent(config=STACKED)
    made.save(tmp_path / "agent")
    loaded = load_agent(tmp_path / "agent", tiny.ENV)
    assert loaded.config == STACKED
    seen, contexts = frames(2), Contexts(frames(2, 3), np.zeros((2, 2), np.int64), np.ones((2, 3), np.bool_))
    for policy in (made, loaded):
        state = policy.reset(policy.begin(2, seed=0), np.array([True, False]), contexts)
        assert state.memory.frames[0].any() and not state.memory.frames[1].any()
    assert all(torch.equal(w, loaded.network.state_dict()[name]) for name, w in made.network.state_dict().items())
    assert made.act(state, seen, {})[0].shape == (2,)


# The policy


def test_actions_are_drawn_from_the_networks_distribution(policy: AgentPolicy) -> None:
    rows = 4000
    seen = np.repeat(frames(1), rows, axis=0)
    actions, _ = policy.act(policy.begin(rows, seed=1), seen, {})
    assert actions.dtype == np.int64 and actions.shape == (rows,)
    logits = policy.network(torch.from_numpy(seen[:1]), policy.network.empty_memory(1)).logits[0]
    expected = logits.softmax(dim=0).detach().numpy()
    assert expected.max() < 0.95 and (expected > 0.01).sum() > 1
    np.testing.assert_allclose(np.bincount(actions, minlength=4) / rows, expected, atol=0.03)
    greedy, _ = replace(policy, greedy=True).act(policy.begin(rows, seed=1), seen, {})
    assert (greedy == expected.argmax()).all()


def test_every_environment_has_a_stream_and_a_memory_of_its_own(policy: AgentPolicy) -> None:
    def play(rows: int, seed: int) -> np.ndarray:
        state, played = policy.begin(rows, seed), []
        for step in range(30):
            actions, state = policy.act(state, frames(4, seed=step)[:rows], {})
            played.append(actions)
        return np.stack(played)

    assert np.array_equal(play(4, seed=0)[:, :2], play(2, seed=0))
    assert not np.array_equal(play(4, seed=0), play(4, seed=1))


def test_a_reset_forgets_and_catches_up_in_its_rows_only(policy: AgentPolicy) -> None:
    before, context = frames(3, 5), frames(3, 4, seed=1)
    state = policy.begin(3, seed=0)
    for step in range(5):
        _, state = policy.act(state, before[:, step], {})
    real = np.array([[True] * 4, [False, False, True, True], [True] * 4])
    contexts = Contexts(context, np.zeros((3, 3), np.int64), real)
    after = policy.reset(state, np.array([False, True, True]), contexts).memory.hidden
    network = policy.network
    expected = [
        remember(network, before)[0][0],
        *(remember(network, context[r : r + 1, s:3])[0][0] for r, s in ((1, 2), (2, 0))),
    ]
    torch.testing.assert_close(after, torch.stack(expected), atol=1e-5, rtol=1e-5)
    forgotten = policy.reset(state, np.array([False, True, False])).memory.hidden
    assert not forgotten[1].any()
    assert torch.equal(forgotten[[0, 2]], state.memory.hidden[[0, 2]])


def test_it_leaves_torchs_own_stream_alone(policy: AgentPolicy, tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    AgentPolicy.create(CONFIG, seed=3)
    policy.save(tmp_path / "agent")
    load_agent(tmp_path / "agent").act(policy.begin(1, 0), frames(1), {})
    assert torch.equal(torch.rand(2), expected)


# Its folder


@pytest.fixture
def folder(policy: AgentPolicy, tmp_path: Path) -> Path:
    policy.save(tmp_path / "agent")
    return tmp_path / "agent"


def test_a_saved_agent_comes_back(policy: AgentPolicy, folder: Path) -> None:
    loaded = load_agent(folder, tiny.ENV)
    assert loaded.config == policy.config and loaded.name == f"agent:{folder}"
    for name, tensor in policy.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)
    assert sorted(path.name for path in folder.iterdir()) == ["actor_critic.safetensors", "config.json"]


def test_agents_by_name(folder: Path) -> None:
    for name in (f"agent:{folder}", f"agent(greedy):{folder}"):
        loaded = load_policy(name, tiny.ENV, load_agent=load_agent)
        assert isinstance(loaded, AgentPolicy) and loaded.name == name and loaded.greedy == ("greedy" in name)
        mixed = load_policy(f"{name}+epsilon=0.1", tiny.ENV, load_agent=load_agent)
        assert isinstance(mixed, EpsilonPolicy) and mixed.name == f"{name}+epsilon=0.1"
        assert family(mixed.name) == name
    with pytest.raises(ValueError, match=r"load_agent=gym_dream\.agents\.load_agent"):
        load_policy(f"agent:{folder}", tiny.ENV)


@pytest.mark.parametrize(
    ("key", "value"),
    [("id", "Pong"), ("action_meanings", ["NOOP"]), ("frame_shape", [64, 64, 3]), ("frame_skip", 4)],
)
def test_another_environment_is_refused(folder: Path, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"learnt in another environment. This one has {key}"):
        load_agent(folder, tiny.ENV | {key: value})
    load_agent(folder, tiny.ENV | {"ending": "game", "repeat_action_probability": 0.25})


def test_a_folder_without_an_agent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No agent in .*subfolder agent"):
        load_agent(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "newer than the 1.*Upgrade"),
        ({"actor_critic": None}, r"config\.json: actor_critic"),
        ({"speed": 3}, "unknown 'speed'"),
        ({"env": tiny.ENV | {"frame_shape": [8, 8, 3]}}, "the network is made for"),
    ],
)
def test_a_config_that_cannot_be_read_names_the_field(folder: Path, change: dict, message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_agent(folder)


def test_a_run_or_model_folder_is_no_agent(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"seed": 0}))
    with pytest.raises(ValueError, match=r"is no agent's.*subfolder agent"):
        load_agent(folder)


def test_weights_that_do_not_fit_name_the_tensor(folder: Path) -> None:
    path = folder / "actor_critic.safetensors"
    whole = safetensors.torch.load_file(path)
    for change, message in (
        ({"critic_linear.bias": None}, "misses 'critic_linear.bias'"),
        ({"critic_linear.bias": torch.zeros(2)}, r"'critic_linear.bias' has shape \(2,\)"),
        ({"more": torch.zeros(2)}, "has 'more' that should not be there"),
    ):
        safetensors.torch.save_file({k: t for k, t in (whole | change).items() if t is not None}, path)
        with pytest.raises(ValueError, match=message):
            load_agent(folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cut short"):
        load_agent(folder)


def test_saving_replaces_agents_in_one_step_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(gym_dream.files, "_sync", lambda path: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OSError, match="untouched"):
            agent(seed=1).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    agent(seed=1).save(folder)
    assert (folder / "actor_critic.safetensors").read_bytes() != before["actor_critic.safetensors"]
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"no agent, for it holds thesis\.txt"):
        agent().save(folder)


def test_kept_episodes_are_those_of_the_agent_as_it_is(folder: Path, tmp_path: Path) -> None:
    kept = KeptEpisodes(tmp_path / "out", {}, resume=False)
    name = f"agent(greedy):{folder}+epsilon=0.1"
    kept.write(name, "real", [])
    assert kept.read(name, "real", 0) == []
    agent(seed=1).save(folder)
    with pytest.raises(ValueError, match="as it was then"):
        kept.read(name, "real", 0)


def test_the_command_line_knows_agents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = env_spec("Breakout")
    config = AgentConfig(env, ActorCriticConfig(4, channels=(4, 4, 4, 4), lstm_size=8))
    agent(config=config).save(tmp_path / "agent")
    arguments = f"collect --game Breakout --steps 20 --policy agent:{tmp_path}/agent --out {tmp_path}/data".split()
    assert main(arguments) == 0
    (episode,) = EpisodeStore(tmp_path / "data").load_all()
    assert len(episode) == 20 and episode.info.policy.startswith(f"agent:{tmp_path}/agent")
    shutil.rmtree(tmp_path / "agent")
    assert main(arguments) == 2
    assert "No agent in" in capsys.readouterr().err


def test_agents_and_trainers_do_not_know_each_other() -> None:
    root = Path(__file__).parents[1]
    for folder, other in (("agents", "trainers"), ("trainers", "agents")):
        for path in (root / folder).glob("*.py"):
            code = [line for line in path.read_text().splitlines() if line.lstrip().startswith(("from ", "import "))]
            assert not [line for line in code if f"gym_dream.{other}" in line]
    for path in (root / "gym_dream").rglob("*.py"):
        if path.name != "cli.py":
            code = [line for line in path.read_text().splitlines() if line.lstrip().startswith(("from ", "import "))]
            assert not [line for line in code if "gym_dream.agents" in line or "gym_dream.trainers" in line], path


def test_an_agent_ships_for_breakout_alone() -> None:
    env = WorldModel.load("breakout").config.env
    assert shipped_agent(env) == "agent:breakout"
    assert shipped_agent(env | {"game": "Pong"}) is None
    assert shipped_agent(env | {"frame_skip": 3}) is None
    assert shipped_agent({}) is None


def test_the_agent_that_ships_plays_better_than_chance() -> None:
    """It learnt in dreams; some lives of the real game are enough to tell it from random play, 0.24 a life."""
    model = WorldModel.load("breakout")
    policy = load_policy("agent:breakout", model.config.env, load_agent=load_agent)
    assert policy.name == "agent:breakout"
    assert evaluate_policy(policy, model, episodes=16, num_envs=16, horizon=200).returns.mean > 3
    with pytest.raises(FileNotFoundError, match=r"No agent in breakout: .*one that ships \(breakout\)"):
        load_agent("./breakout")  # a folder of one's own
