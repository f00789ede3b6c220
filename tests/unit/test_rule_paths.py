"""Paths go into `data` as `server/core/rules/measure.py` says."""

from typing import Any

import pytest

from server.core.rules.offline import sum_of
from server.core.rules.paths import is_missing, is_mistyped, numbers_at, tree_of, unlisted_in

pytestmark = pytest.mark.unit

ITEMS = {"items": [{"price": 2}, {"price": 3}, {}, [{"price": 4}]], "none": [], "null": None, "user": {"id": 1.5}}


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("items", False),
        ("items.price", True),
        ("none.price", False),
        ("null", False),
        ("null.below", True),
        ("user.id", False),
        ("user.name", True),
        ("user.id.deeper", True),
        ("nothing", True),
    ],
)
def test_missing_fields(path: str, missing: bool) -> None:
    assert is_missing(ITEMS, path) == missing


def test_a_field_of_each_element() -> None:
    assert not is_missing({"items": [{"price": 2}, {"price": None}]}, "items.price")


def test_numbers() -> None:
    assert numbers_at(ITEMS, "items.price") == [2, 3]
    assert numbers_at({"a": [1, "2", True, None, [3], 4.5]}, "a") == [1, 4.5]
    assert numbers_at({"a": [{"b": [1, 2]}, {"b": 3}]}, "a.b") == [1, 2, 3]
    assert numbers_at(ITEMS, "null") == []


@pytest.mark.parametrize(
    ("value", "types", "mistyped"),
    [
        (1, ["integer"], False),
        (1, ["number"], False),
        (1.0, ["integer"], True),
        (True, ["integer", "number"], True),
        (None, ["string", "null"], False),
        ("1", ["number"], True),
        ([1], ["number"], True),
        ([1], ["array"], False),
        ({}, ["object"], False),
    ],
)
def test_types(value: Any, types: Any, mistyped: bool) -> None:
    assert is_mistyped({"a": value}, "a", types) == mistyped
    assert is_mistyped({"list": [{"a": value}, {}]}, "list.a", types) == mistyped


def test_a_field_that_is_not_there_has_no_type() -> None:
    assert not is_mistyped(ITEMS, "nothing", ["string"])


def test_unlisted_names() -> None:
    tree = tree_of(["user.id", "tags"])
    data = {"user": [{"id": 1, "age": 2}, 5], "tags": {"any": {"thing": 1}}, "price": {"net": 1}}
    assert list(unlisted_in(data, tree)) == ["user.age", "price"]


def test_sums_are_exact() -> None:
    assert sum_of([2**53, 1, -(2**53), 0.5]) == 1.5
    assert sum_of([1e308, 1e308]) == float("inf")
    assert sum_of([-1e308, -1e308]) == float("-inf")
