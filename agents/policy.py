"""A trained actor-critic as a policy, and the folder that it is saved in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gym_dream.configuration import from_json, to_json
from gym_dream.files import atomic_folder, read_json, save_tensors, write_json
from gym_dream.policy import streams
from gym_dream.state import put_rows
from gym_dream.world_model import load_weights, resolve_device

from .actor_critic import ActorCritic, ActorCriticConfig
from .stacked import StackedActorCritic, StackedConfig

if TYPE_CHECKING:
    from gym_dream.data.contexts import Contexts

SHIPPED = Path(__file__).parent / "pretrained"
FORMAT_VERSION = 1
CONTENTS = {"config.json", "actor_critic.safetensors"}
SAME_ENV = ("id", "action_meanings", "frame_shape", "frame_skip")
"""What has to be the same where an agent plays as where it learnt: else it is another task, or none it can do."""


@dataclass(frozen=True)
class AgentConfig:
    """Every size of an agent, and where it learnt; ``config.json`` holds just this."""

    env: dict[str, Any]
    """The real environment, as `gym_dream.real.env_spec` makes it or a world model's config holds it."""
    actor_critic: ActorCriticConfig | StackedConfig
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        network = self.actor_critic
        frame = [*network.frame_size, network.image_channels]
        if list(self.env.get("frame_shape", frame)) != frame:
            raise ValueError(f"env: frame_shape is {self.env['frame_shape']}, but the network is made for {frame}.")
        actions = self.env.get("action_meanings")
        if actions is not None and len(actions) != network.num_actions:
            raise ValueError(f"env: {len(actions)} action_meanings, but the network has {network.num_actions} actions.")


def make_network(config: ActorCriticConfig | StackedConfig) -> ActorCritic | StackedActorCritic:
    """A network of an architecture, with fresh weights from PyTorch's global generator."""
    return ActorCritic(config) if isinstance(config, ActorCriticConfig) else StackedActorCritic(config)


@dataclass(frozen=True)
class _State:
    """What an agent in N environments carries from step to step."""

    random: list[np.random.Generator]
    memory: Any


@dataclass(frozen=True)
class AgentPolicy:
    """An actor-critic that plays: it draws actions from its policy, each environment from a random stream of its own.

    An environment's actions do not depend on its neighbours, up to how sums are rounded in a batch of another size.

    Attributes:
        config: the network's sizes and where it learnt.
        network: the network, which plays on the device that it is on. It is not copied: a policy made of a network
            in training plays as that network does now.
        greedy: take the likeliest action instead of drawing one.
        name: how `gym_dream.policy.load_policy` finds it again.
    """

    config: AgentConfig
    network: ActorCritic | StackedActorCritic
    greedy: bool = False
    name: str = "agent"

    @classmethod
    def create(cls, config: AgentConfig, seed: int) -> AgentPolicy:
        """One with fresh weights, which plays at random."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, make_network(config.actor_critic))

    @classmethod
    def of_size(cls, env: dict[str, Any], sizes: Mapping[str, Any], seed: int) -> AgentPolicy:
        """One with fresh weights, for the environment that a specification describes.

        Args:
            env: see `AgentConfig`; it says how many actions there are and how large frames are.
            sizes: of `ActorCriticConfig`, those that are not DIAMOND's; or of `StackedConfig`, if only it has them.
            seed: of the weights.

        Raises:
            ValueError: a size that is unknown or cannot be.
        """
        height, width, channels = env["frame_shape"]
        known = {
            "num_actions": len(env["action_meanings"]),
            "frame_size": (height, width),
            "image_channels": channels,
        }
        return cls.create(from_json(AgentConfig, {"env": env, "actor_critic": {**known, **sizes}}, "agent"), seed)

    def begin(self, num_envs: int, seed: int) -> _State:
        """The rows' random streams, and nothing remembered."""
        return _State(streams(num_envs, seed, purpose=5), self.network.empty_memory(num_envs))

    @torch.no_grad()
    def reset(self, state: _State, mask: np.ndarray, contexts: Contexts | None = None) -> _State:
        """Forget what ended; look at the real frames of the contexts before their last one."""
        rows = np.flatnonzero(mask)
        if contexts is None:
            memory = self.network.empty_memory(len(rows))
        else:
            frames, real = (torch.from_numpy(a[rows, :-1]) for a in (contexts.frames, contexts.real))
            memory = self.network.burn_in(frames.to(self._device), real.to(self._device))
        return _State(state.random, put_rows(state.memory, torch.from_numpy(rows).to(self._device), memory))

    @torch.no_grad()
    def act(self, state: _State, observations: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, _State]:
        """Draw from the network's distribution over actions, or take its best."""
        # A copy: what environments hand out may be read-only, which torch warns about.
        frames = torch.from_numpy(np.array(observations)).to(self._device)
        logits, _, memory = self.network(frames, state.memory)
        if self.greedy:
            return logits.argmax(dim=1).cpu().numpy(), _State(state.random, memory)
        cumulative = logits.double().softmax(dim=1).cumsum(dim=1)[:, :-1].cpu().numpy()
        chance = np.array([stream.random() for stream in state.random])
        return (chance[:, None] >= cumulative).sum(axis=1), _State(state.random, memory)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder: to a temporary name first, so that an older agent stays whole until the new one is.

        Raises:
            FileExistsError: the folder holds something else than an agent, which is left as it is.
            OSError: the disk is full or the folder cannot be written; what was there stays.
        """
        weights = {name: tensor.cpu().numpy() for name, tensor in self.network.state_dict().items()}
        with atomic_folder(folder, CONTENTS, "agent") as temporary:
            write_json(temporary / "config.json", to_json(self.config))
            save_tensors(temporary / "actor_critic.safetensors", weights)

    @property
    def _device(self) -> torch.device:
        return self.network.actor_linear.weight.device


def shipped_agent(env: Mapping[str, Any]) -> str | None:
    """The policy's name (`gym_dream.policy.load_policy`) of the agent that ships for an environment; None if none does.

    Args:
        env: the environment's specification.
    """
    name = str(env.get("game")).lower()
    path = SHIPPED / name / "config.json"
    if not path.is_file():
        return None
    learnt_in = from_json(AgentConfig, read_json(path), str(path)).env
    return f"agent:{name}" if all(env.get(key) == learnt_in.get(key) for key in SAME_ENV) else None


def load_agent(
    folder: str | os.PathLike[str],
    env: Mapping[str, Any] | None = None,
    *,
    greedy: bool = False,
    device: str = "cpu",
) -> AgentPolicy:
    """Load an agent from the folder that `AgentPolicy.save` wrote.

    Args:
        folder: the folder, or the name of an agent that ships: "breakout", which learnt in Breakout dreams only.
        env: the specification of the environment it is to play, to be checked against where it learnt.
        greedy: take the likeliest action instead of drawing one.
        device: a PyTorch device, or "auto".

    Raises:
        FileNotFoundError: there is no agent in the folder.
        ValueError: the folder's contents are not what this version of gym_dream reads (the message names the file and
            the field or tensor), or the agent learnt in another environment.
    """
    name = f"{'agent(greedy)' if greedy else 'agent'}:{folder}"
    is_name = os.fspath(folder) == Path(folder).name  # ./breakout is a folder of one's own
    ships = is_name and (SHIPPED / folder / "config.json").is_file()
    folder = SHIPPED / folder if ships else Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"No agent in {folder}: expected a folder with config.json and actor_critic.safetensors, such as the "
            "subfolder agent of a training run, or the name of one that ships (breakout)."
        )
    values = read_json(path)
    version = values.get("format_version") if isinstance(values, dict) else None
    if version is None or "actor_critic" not in values:
        raise ValueError(
            f"{path} is no agent's: it misses 'format_version' or 'actor_critic'. The agent of a training run lies in "
            "its subfolder agent."
        )
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version {version} is newer than the {FORMAT_VERSION} that this gym_dream reads. Upgrade "
            "gym_dream."
        )
    config = from_json(AgentConfig, values, str(path))
    if env is not None:
        different = [
            f"{k} {env.get(k)!r}, not {config.env.get(k)!r}" for k in SAME_ENV if env.get(k) != config.env.get(k)
        ]
        if different:
            raise ValueError(
                f"The agent in {folder} learnt in another environment. This one has {'; '.join(different)}."
            )
    with torch.random.fork_rng(devices=[]):  # its weights are replaced: a user's random numbers go on untouched
        network = make_network(config.actor_critic)
    load_weights(network, folder / "actor_critic.safetensors")
    network.to(resolve_device(device))
    return AgentPolicy(config, network, greedy, name)
