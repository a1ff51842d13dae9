import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from gym_dream.configuration import from_json, to_json


@dataclass(frozen=True)
class Inner:
    rate: float
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    count: int = 3
    on: bool = False
    mode: Literal["a", "b"] = "a"
    pair: tuple[int, float] = (1, 2.0)
    free: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count: expected at least 0, got {self.count}.")


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(to_json(value)))


def test_round_trip_gives_equal_objects_of_the_same_types():
    outer = Outer("x", Inner(math.inf, (4, 5, 6)), 7, True, "b", (2, 0.5), {"keys": [1, "two"]})
    again = from_json(Outer, through_json(outer), "config.json")
    assert again == outer
    assert type(again.inner) is Inner and type(again.inner.sizes) is tuple


def test_defaults_stand_in_for_what_is_not_said():
    assert from_json(Outer, {"name": "x", "inner": {"rate": 1.0}}, "c") == Outer("x", Inner(1.0))


@dataclass(frozen=True)
class Other:
    depth: int


@dataclass(frozen=True)
class Either:
    part: Inner | Other


def test_of_several_dataclasses_it_is_the_one_that_knows_the_fields():
    for either in (Either(Inner(0.5)), Either(Other(2))):
        assert from_json(Either, through_json(either), "c") == either
    for wrong in ({"rate": 0.5, "depth": 2}, {}, 3):
        with pytest.raises(ValueError, match="c: part: "):
            from_json(Either, {"part": wrong}, "c")
    with pytest.raises(ValueError, match=r"unknown 'deep'\. Known are 'depth'\."):
        from_json(Either, {"part": {"depth": 2, "deep": 3}}, "c")


def test_whole_numbers_are_fine_where_fractions_are_expected():
    inner = from_json(Inner, {"rate": 2}, "c")
    assert inner.rate == 2.0 and type(inner.rate) is float


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nmae": 1}, ["config.json", "unknown 'nmae'", "'name'", "newer"]),
        ({"inner": {"rate": 1.0, "size": 3}}, ["config.json: inner", "unknown 'size'"]),
        ({"inner": {}}, ["config.json: inner", "missing 'rate'"]),
        ({"inner": 3}, ["config.json: inner", "object", "3"]),
        ({"inner": None}, ["config.json: inner", "object", "None"]),
        ({"name": 5}, ["config.json: name", "str", "5"]),
        ({"count": 1.5}, ["config.json: count", "int", "1.5"]),
        ({"count": True}, ["config.json: count", "int", "True"]),
        ({"count": "3"}, ["config.json: count", "int", "'3'"]),
        ({"count": -1}, ["config.json", "count", "at least 0", "-1"]),
        ({"on": 1}, ["config.json: on", "bool", "1"]),
        ({"mode": "c"}, ["config.json: mode", "'a', 'b'", "'c'"]),
        ({"mode": ["a"]}, ["config.json: mode", "'a', 'b'"]),
        ({"pair": [1]}, ["config.json: pair", "2 values", "[1]"]),
        ({"pair": 1}, ["config.json: pair", "tuple", "1"]),
        ({"inner": {"rate": 1.0, "sizes": [1, "x"]}}, ["config.json: inner: sizes[1]", "int", "'x'"]),
        ({"inner": {"rate": True}}, ["config.json: inner: rate", "float", "True"]),
        ({"free": []}, ["config.json: free", "dict", "[]"]),
    ],
)
def test_an_error_says_where_what_was_expected_and_what_came(change, words):
    values = {"name": "x", "inner": {"rate": 1.0}} | change
    with pytest.raises(ValueError) as error:
        from_json(Outer, values, "config.json")
    for word in words:
        assert word in str(error.value)
    assert str(error.value).count("config.json") == 1


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_what_is_no_object_is_refused(values):
    with pytest.raises(ValueError, match=r"config\.json: expected an object"):
        from_json(Outer, values, "config.json")
