"""Checkpoints: one safetensors file that holds everything needed to go on as if never stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from gym_dream.files import atomic_write

NAME = "checkpoint.safetensors"


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Replace the folder's checkpoint in one step; the old one stays whole until then.

    Args:
        folder: the run folder.
        tensors: weights, averages, optimiser states.
        progress: JSON-able counters.
    """
    with atomic_write(folder / NAME) as temporary:
        whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(whole, temporary, metadata={"progress": json.dumps(dict(progress))})


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the folder's checkpoint.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged or something else.
    """
    path = folder / NAME
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {NAME}: nothing to resume. Start the run without --resume.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
        return load_file(path), progress
    except (safetensors.SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no checkpoint of gym_dream, or a damaged one: {error}.") from error


def remove_torn(folder: Path, *delivered: str) -> None:
    """Remove what a killed run left half-written beside its last checkpoint.

    Args:
        folder: the run folder.
        delivered: the folders in it that are replaced as a whole: of one that a kill caught between its old and its new
            contents, the old ones are put back.
    """
    # Ours, and those that safetensors writes to before it has all of one of ours.
    for name in (".*.tmp", ".tmp*"):
        for torn in (*folder.glob(name), *folder.glob(f"episodes/{name}")):
            torn.unlink()
    for name in delivered:
        for old in folder.glob(f".{name}.old.*/{name}"):
            if not (folder / name).exists():
                old.rename(folder / name)
        for half in folder.glob(f".{name}.*"):
            shutil.rmtree(half)
