"""Finding the value in an event that cannot be stored: its path, and that nothing else is reported."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.events.model import MAX_NESTING
from server.core.events.values import (
    MAX_INT64,
    MAX_PATH_CHARS,
    MIN_INT64,
    Flaw,
    find_flaw,
    is_text,
    join_path,
    nests_too_deep,
    truncate_path,
)
from tests.unit.strategies import KEYS, VALUES

FLAWS: list[tuple[Any, str]] = [
    (MAX_INT64 + 1, "64 bits"),
    (MIN_INT64 - 1, "64 bits"),
    (float("inf"), "too large for a double"),
    (float("-inf"), "too large for a double"),
    ("\ud800", "surrogate"),
    ("a\udfffb", "surrogate"),
    ({"a\0": 1}, "NUL"),
    ({"\ud800": 1}, "surrogate"),
]


def nested(levels: int, kind: type) -> Any:
    """A value with this many levels of objects or arrays."""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value} if kind is dict else [value]
    return value


@given(VALUES)
def test_a_value_that_can_be_stored_has_no_flaw(value: Any) -> None:
    assert find_flaw(value, "data") is None


@pytest.mark.parametrize(
    "value", [MIN_INT64, MAX_INT64, 1e308, -0.0, chr(0xD7FF) + chr(0xE000), "\0", {"": "\0"}, True]
)
def test_the_last_values_that_can_be_stored(value: Any) -> None:
    assert find_flaw({"a": [value]}, "data") is None


@given(st.sampled_from(FLAWS), st.lists(KEYS | st.integers(0, 3), max_size=20), VALUES)
def test_a_flaw_is_found_at_its_path(flaw: tuple[Any, str], keys: list[str | int], other: Any) -> None:
    value, message = flaw
    path = ""
    for key in keys:
        path = join_path(path, key) if isinstance(key, str) else f"{path}[{key}]"
    if isinstance(value, dict):
        path = join_path(path, *value)
    for key in reversed(keys):
        value = {"z": other, key: value} if isinstance(key, str) else [other] * key + [value, other]
    found = find_flaw(value, "data")
    assert found is not None
    assert found.path == truncate_path(f"data{path}")
    assert message in found.message


@pytest.mark.parametrize("kind", [dict, list])
def test_nesting_is_limited(kind: type) -> None:
    deepest, too_deep = nested(MAX_NESTING, kind), nested(MAX_NESTING + 1, kind)
    assert not nests_too_deep(deepest)
    assert find_flaw(deepest, "") is None
    assert nests_too_deep(too_deep)
    step = ".a" if kind is dict else "[0]"
    assert find_flaw(too_deep, "") == Flaw(step * MAX_NESTING, f"Nested deeper than {MAX_NESTING} levels")


def test_only_the_deepest_part_counts() -> None:
    assert nests_too_deep({"wide": [1] * 500, "deep": nested(MAX_NESTING, list)})
    assert not nests_too_deep({"wide": [nested(MAX_NESTING - 2, dict)] * 3})


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("price", "data.price"),
        ("_a-1", "data._a-1"),
        ("a.b", 'data["a.b"]'),
        ("", 'data[""]'),
        ("1a", 'data["1a"]'),
        ('"', 'data["\\""]'),
        ("é", 'data["\\u00e9"]'),
    ],
)
def test_paths_of_keys(key: str, path: str) -> None:
    assert join_path("data", key) == path


def test_a_truncated_path_stays_the_same_if_more_is_joined() -> None:
    path = join_path("data", "k" * 2 * MAX_PATH_CHARS)
    assert len(path) == MAX_PATH_CHARS
    assert path.endswith("k…")
    assert join_path(path, "more") == path
    assert truncate_path("k" * MAX_PATH_CHARS) == "k" * MAX_PATH_CHARS


@given(st.text(st.characters(exclude_categories=[])))
def test_text_is_what_utf_8_can_encode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        assert not is_text(text)
    else:
        assert is_text(text)
