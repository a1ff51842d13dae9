"""WorldModel: everything a dream needs, in one folder."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gym_dream.configuration import from_json, to_json
from gym_dream.data.contexts import Contexts
from gym_dream.dream import Dream
from gym_dream.files import atomic_folder, atomic_write, load_tensors, read_json, save_tensors, write_json
from gym_dream.games import find_game
from gym_dream.models import int8
from gym_dream.models.compiled import compile_networks
from gym_dream.models.denoiser import Denoiser, DenoiserConfig
from gym_dream.models.diamond import DiamondDynamics
from gym_dream.models.prepared import prepare
from gym_dream.models.reward_termination import RewardTerminationConfig, RewardTerminationModel
from gym_dream.models.sampler import SamplerConfig

FORMAT_VERSION = 1
CONTENTS = {
    "config.json",
    "denoiser.safetensors",
    "reward_termination.safetensors",
    "starts.safetensors",
    "replay.safetensors",
    "README.md",
    "contact_sheet.png",
}
PRETRAINED = Path(__file__).parent / "pretrained"
Precision = Literal["auto", "float32", "bfloat16", "float16"]
DreamPrecision = Precision | Literal["int8"]
REHEARSAL = 8, 2  # dreams and their steps, for the ranges of what will be rounded to 8 bits


@dataclass(frozen=True)
class WorldModelConfig:
    """Every size and setting of a world model; ``config.json`` holds just this."""

    env: dict[str, Any]
    """The real environment, as `gym_dream.real.env_spec` makes it: preprocessing, action meanings and keys."""
    denoiser: DenoiserConfig
    reward_termination: RewardTerminationConfig
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        denoiser, judge = self.denoiser, self.reward_termination
        pairs = {"num_actions": judge.num_actions, "image_channels": judge.image_channels}
        for name, value in pairs.items():
            if getattr(denoiser, name) != value:
                raise ValueError(
                    f"{name}: the denoiser has {getattr(denoiser, name)}, the reward and termination model {value}; "
                    "expected the same."
                )
        frame = [*judge.frame_size, judge.image_channels]
        if list(self.env.get("frame_shape", frame)) != frame:
            raise ValueError(f"env: frame_shape is {self.env['frame_shape']}, but the networks are made for {frame}.")
        actions = self.env.get("action_meanings")
        if actions is not None and len(actions) != judge.num_actions:
            raise ValueError(f"env: {len(actions)} action_meanings, but the networks know {judge.num_actions} actions.")


@dataclass(frozen=True)
class WorldModel:
    """A denoiser, a reward and termination model, and the contexts that dreams begin from.

    Attributes:
        config: sizes and settings.
        denoiser: draws the next frame.
        reward_termination: judges a transition.
        starts: the first frames of real games.
        replay: any moments of real games, where the model comes with some.
        card: the model card, Markdown.
    """

    config: WorldModelConfig
    denoiser: Denoiser
    reward_termination: RewardTerminationModel
    starts: Contexts
    replay: Contexts | None = None
    card: str = ""

    @classmethod
    def create(cls, config: WorldModelConfig, starts: Contexts, replay: Contexts | None = None) -> WorldModel:
        """A world model with fresh, untrained networks (drawn from PyTorch's global generator)."""
        return cls(config, Denoiser(config.denoiser), RewardTerminationModel(config.reward_termination), starts, replay)

    @classmethod
    def load(cls, model: str | os.PathLike[str]) -> WorldModel:
        """Load a world model, in float32 on the CPU.

        Args:
            model: the name of one that ships ("breakout"), a folder, or "hub:org/name[@revision]".

        Raises:
            FileNotFoundError: there is no such model; the message says how to make one.
            ValueError: the folder's contents are not what this version of gym_dream reads; the message names the
                file and the field or tensor.
        """
        folder = resolve(model)
        values = read_json(folder / "config.json")
        version = values.get("format_version") if isinstance(values, dict) else None
        if version is None:
            raise ValueError(
                f"{folder / 'config.json'} is no world model's: it misses 'format_version'. The model of a training "
                "run lies in its subfolder world_model."
            )
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ValueError(
                f"{folder / 'config.json'}: format version {version} is newer than the {FORMAT_VERSION} that this "
                "gym_dream reads. Upgrade gym_dream."
            )
        config = from_json(WorldModelConfig, values, str(folder / "config.json"))
        starts = _load_contexts(config, folder / "starts.safetensors")
        replay_path, card_path = folder / "replay.safetensors", folder / "README.md"
        replay = _load_contexts(config, replay_path) if replay_path.exists() else None
        with torch.random.fork_rng(devices=[]):  # their weights are replaced: a user's random numbers go on untouched
            loaded = cls.create(config, starts, replay)
        load_weights(loaded.denoiser, folder / "denoiser.safetensors")
        load_weights(loaded.reward_termination, folder / "reward_termination.safetensors")
        card = card_path.read_text(encoding="utf-8") if card_path.exists() else ""
        return dataclasses.replace(loaded, card=card)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder: to a temporary name first, so that an older one stays whole until the new one is.

        Weights are stored in half precision, save the fixed Fourier features, which need every bit. A contact sheet in
        the folder goes: it shows the weights that were there before.

        Raises:
            FileExistsError: the folder holds something else than a world model, which is left as it is.
            OSError: the disk is full or the folder cannot be written; what was there stays.
        """
        with atomic_folder(folder, CONTENTS, "world model") as temporary:
            write_json(temporary / "config.json", to_json(self.config))
            _save_weights(self.denoiser, temporary / "denoiser.safetensors")
            _save_weights(self.reward_termination, temporary / "reward_termination.safetensors")
            self.starts.save(temporary / "starts.safetensors")
            if self.replay is not None:
                self.replay.save(temporary / "replay.safetensors")
            with atomic_write(temporary / "README.md") as card:
                card.write_text(self.card, encoding="utf-8")

    def dynamics(
        self,
        device: str = "auto",
        precision: DreamPrecision = "auto",
        compile: bool = False,
        num_denoising_steps: int | None = None,
        **sampler: Any,
    ) -> DiamondDynamics:
        """The model ready to dream.

        Args:
            device: a PyTorch device, or "auto": the GPU if there is one.
            precision: of the networks' arithmetic; "auto": bfloat16 where the hardware has it, else float32. "int8", on
                CPUs with AVX-512 VNNI: 8-bit integers in most of the denoiser's convolutions, else as "auto"; it wants
                ``compile``, without which rounding costs what it gains. Elsewhere a warning says why it cannot be.
            compile: compile the networks, at their first steps: minutes the first time, seconds in later processes,
                since PyTorch keeps what it compiled. Where it cannot, a warning says why and they run uncompiled.
            num_denoising_steps: passes of the denoiser a frame; None: the model's own setting.
            **sampler: other fields of `gym_dream.models.sampler.SamplerConfig`.

        Raises:
            ValueError: a setting that does not exist or cannot be.
            FloatingPointError: "int8", and the networks compute NaN or infinity.
        """
        if num_denoising_steps is not None:
            sampler["num_denoising_steps"] = num_denoising_steps
        known = {f.name for f in dataclasses.fields(SamplerConfig)}
        if unknown := sorted(set(sampler) - known):
            raise ValueError(f"model_kwargs: unknown {unknown}; this model takes {sorted(known)}.")
        settings = from_json(SamplerConfig, to_json(self.config.sampler) | sampler, "model_kwargs")
        where = resolve_device(device)
        dtype = resolve_dtype("auto" if precision == "int8" else precision, where)
        denoiser, reward_termination = self._on(where)
        if precision == "int8" and int8.available(where):
            exact = DiamondDynamics(denoiser, reward_termination, settings, where, torch.float32)
            int8.convert(denoiser.inner_model.unet, lambda: self._rehearse(exact), dtype)
        prepare(denoiser, reward_termination, dtype)
        if compile:
            compile_networks(denoiser.inner_model, reward_termination.encoder, device=where)
        return DiamondDynamics(denoiser, reward_termination, settings, where, dtype)

    def _rehearse(self, dynamics: DiamondDynamics) -> None:
        """Dream a little from where dreams begin, always the same."""
        if not (contexts := self.replay or self.starts):
            raise ValueError(
                "precision='int8' is fitted to dreams from the model's own contexts, and it has none. Choose another."
            )
        number, steps = REHEARSAL
        dream = Dream(dynamics, number, contexts, horizon=-1, seed=0)
        dream.reset()
        for step in range(steps):
            dream.step((torch.arange(number) + step) % self.config.denoiser.num_actions)

    def _on(self, device: torch.device) -> tuple[Denoiser, RewardTerminationModel]:
        """Copies of the networks for inference, so that a dream neither shares nor moves the weights it came from."""
        with torch.random.fork_rng(devices=[]):
            copies = Denoiser(self.config.denoiser), RewardTerminationModel(self.config.reward_termination)
        for copy, network in zip(copies, (self.denoiser, self.reward_termination), strict=True):
            copy.load_state_dict(network.state_dict())
            copy.requires_grad_(False).eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return copies


def resolve(model: str | os.PathLike[str]) -> Path:
    """The folder of a world model: of a shipped name, a path, or "hub:org/name[@revision]" (downloaded and cached).

    Raises:
        FileNotFoundError: there is none; the message says how to make one.
        ImportError: "hub:" without huggingface_hub installed.
    """
    name = os.fspath(model)
    if name.startswith("hub:"):
        return _download(name.removeprefix("hub:"))
    is_name = name == Path(name).name  # ./breakout is a folder of one's own
    if is_name and (PRETRAINED / name.lower() / "config.json").is_file():
        return PRETRAINED / name.lower()
    path = Path(name)
    if (path / "config.json").is_file():
        return path
    shipped = ", ".join(sorted(p.parent.name for p in PRETRAINED.glob("*/config.json"))) or "none"
    found = f"{path} is a folder, but has no config.json" if path.is_dir() else f"no world model {name!r} here"
    try:
        game = find_game(name).name
    except ValueError:
        game = "Breakout"
    raise FileNotFoundError(
        f"{found[0].upper()}{found[1:]}: expected a world model folder, a shipped name ({shipped}), or "
        f"'hub:org/name'. To make one of {game}:\n"
        f"    gym-dream collect --game {game} --steps 60000 --out data/{game.lower()}\n"
        f"    gym-dream fit --data data/{game.lower()} --out runs/{game.lower()} --minutes 600\n"
        f"then gym.make('DreamEnv-v0', model='runs/{game.lower()}/world_model')."
    )


def _download(repository: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError("Models on the hub need huggingface_hub: pip install 'gym-dream[hub]'.") from error
    repo_id, _, revision = repository.partition("@")
    patterns = ["*.json", "*.safetensors", "README.md"]  # nothing else, above all no pickles
    return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=patterns))


def resolve_device(device: str) -> torch.device:
    """A PyTorch device by name; "auto" is the GPU if there is one.

    Raises:
        ValueError: no device has that name, or it is not on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"device: {device!r} cannot be used here ({str(error).splitlines()[0]}). Try 'auto' or 'cpu'."
        ) from error


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type of a network's arithmetic: "auto" is bfloat16 where the hardware has it, else float32.

    Raises:
        ValueError: an unknown precision.
    """
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    if precision not in ("float32", "bfloat16", "float16"):
        raise ValueError(
            "precision: expected 'auto', 'float32', 'bfloat16', 'float16' or, of dreams on a CPU, 'int8', got "
            f"{precision!r}."
        )
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def _save_weights(network: nn.Module, path: Path) -> None:
    exact = {name for name, _ in network.named_buffers()}
    tensors = {
        name: (tensor.float() if name in exact else tensor.half()).cpu().numpy()
        for name, tensor in network.state_dict().items()
    }
    save_tensors(path, tensors)


def load_weights(network: nn.Module, path: Path) -> None:
    """Replace a network's weights by those of a safetensors file of floating-point numbers of any precision.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or a tensor is missing, unknown, of another shape or no floating-point numbers.
    """
    expected = network.state_dict()
    tensors, _ = load_tensors(path, required=list(expected))
    for name, array in tensors.items():
        if array.shape != tuple(expected[name].shape):
            raise ValueError(
                f"{path}: tensor {name!r} has shape {array.shape}, but config.json asks for "
                f"{tuple(expected[name].shape)}. Do the two files belong together?"
            )
        if array.dtype.kind != "f":
            raise ValueError(f"{path}: tensor {name!r} holds {array.dtype}, expected floating-point numbers.")
    network.load_state_dict({name: torch.from_numpy(array).float() for name, array in tensors.items()})


def _load_contexts(config: WorldModelConfig, path: Path) -> Contexts:
    contexts = Contexts.load(path)
    expected = (
        config.denoiser.context_length,
        *config.reward_termination.frame_size,
        config.denoiser.image_channels,
    )
    if contexts.frames.shape[1:] != expected:
        raise ValueError(
            f"{path}: contexts have shape {contexts.frames.shape[1:]} (length, height, width, channels), but "
            f"config.json asks for {expected}. Do the two files belong together?"
        )
    actions, known = contexts.actions, config.denoiser.num_actions
    if actions.dtype != np.int64 or (actions.size and not 0 <= actions.min() <= actions.max() < known):
        raise ValueError(f"{path}: expected actions from 0 to {known - 1}, as config.json says, got others.")
    return contexts
