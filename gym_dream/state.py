"""States of a batch (of dreams, or of an agent's memory): tensors, or dataclasses and NamedTuples of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from torch import Tensor

State = TypeVar("State")


def put_rows(state: State, rows: Tensor, new: State) -> State:
    """A state with some rows replaced; the old one is left as it was.

    Args:
        state: a tensor with the batch first, or a dataclass or NamedTuple of such.
        rows: int64 (k,).
        new: the same structure, of k rows.
    """
    merged: Any
    if isinstance(state, Tensor):
        merged = state.index_copy(0, rows, new)  # type: ignore[arg-type]
    elif isinstance(state, tuple):
        merged = type(state)(*(put_rows(a, rows, b) for a, b in zip(state, new, strict=True)))  # type: ignore[call-overload]
    else:
        names = [field.name for field in fields(state)]  # type: ignore[arg-type]
        merged = replace(state, **{n: put_rows(getattr(state, n), rows, getattr(new, n)) for n in names})  # type: ignore[type-var]
    return merged


def named_tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state, structured as in `put_rows`, with names that say where they are: ``"state.frames"``."""
    if isinstance(state, Tensor):
        yield name, state
        return
    for key, part in _parts(state).items():
        yield from named_tensors(part, f"{name}.{key}")


def with_tensors(state: State, name: str, tensors: Mapping[str, Tensor]) -> State:
    """A state of the same structure, made of what `named_tensors` gave."""
    made: Any
    if isinstance(state, Tensor):
        made = tensors[name]
    else:
        parts = {key: with_tensors(part, f"{name}.{key}", tensors) for key, part in _parts(state).items()}
        made = type(state)(*parts.values()) if isinstance(state, tuple) else replace(state, **parts)  # type: ignore[type-var]
    return made


def _parts(state: Any) -> dict[str, Any]:
    """What a dataclass or NamedTuple is made of."""
    return state._asdict() if isinstance(state, tuple) else {f.name: getattr(state, f.name) for f in fields(state)}  # type: ignore[attr-defined]


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
