"""Frozen dataclasses to JSON and, strictly, back."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass as plain dicts, lists, numbers and strings."""
    return dataclasses.asdict(config)


def from_json(cls: type[T], values: Any, where: str) -> T:
    """Build a dataclass from what `to_json` made of it.

    Args:
        cls: a dataclass whose fields are numbers, strings, booleans, tuples of these, dicts or such dataclasses. Where
            one may be either of several dataclasses, it is the first that knows most of the fields given.
        values: the parsed JSON.
        where: what is being read, for error messages, such as "config.json: denoiser".

    Raises:
        ValueError: a field is missing, unknown or of another type; the message names it.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected an object with fields, got {values!r}.")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise ValueError(
            f"{where}: unknown {_list(unknown)}. Known are {_list(sorted(fields))}. "
            "Correct or remove what is unknown; if a newer gym_dream wrote this, upgrade."
        )
    required = {f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - set(values)):
        raise ValueError(f"{where}: missing {_list(missing)}.")
    hints = typing.get_type_hints(cls)
    read = {name: _read(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return cls(**read)
    except ValueError as error:  # the class's own checks
        raise ValueError(f"{where}: {error}") from error


def _read(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        given = set(value) if isinstance(value, Mapping) else set()
        known = [{field.name for field in dataclasses.fields(one)} for one in arguments]
        return from_json(max(zip(arguments, known, strict=True), key=lambda o: len(given & o[1]))[0], value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        variable = len(arguments) == 2 and arguments[1] is Ellipsis
        if not variable and len(arguments) != len(value):
            raise ValueError(f"{where}: expected {len(arguments)} values, got {value!r}.")
        hints = [arguments[0]] * len(value) if variable else arguments
        return tuple(_read(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{where}: expected one of {', '.join(map(repr, arguments))}, got {value!r}.")
        return value
    expected = origin or hint
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ValueError(f"{where}: expected {getattr(expected, '__name__', expected)}, got {value!r}.")
    return value


def _list(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
