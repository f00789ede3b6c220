"""Random JSON is kept exactly or rejected. Set SLUICE_LONG=1 for ten times as many examples."""

import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.harness import MongoClient
from tests.support.values import EVENTS, event_text, exactly, post, rejected_paths, stored

LONG = "SLUICE_LONG" in os.environ

# Random JSON as text, with many extreme values. Numbers are made of digits, not of what Python would write.
DIGITS = st.from_regex(r"-?(0|[1-9][0-9]{0,25})", fullmatch=True)

EXPONENTS = st.from_regex(r"[eE][+-]?[0-9]{1,3}", fullmatch=True)

NUMBERS = st.one_of(
    DIGITS,
    st.integers(-(2**63) - 2, -(2**63) + 2).map(str),
    st.integers(2**63 - 2, 2**63 + 2).map(str),
    st.integers(-(2**31) - 2, 2**53 + 2).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.builds("{}{}".format, DIGITS, EXPONENTS),
    st.builds("{}.{}{}".format, DIGITS, st.from_regex(r"[0-9]{1,25}", fullmatch=True), st.just("") | EXPONENTS),
    st.sampled_from(["1e999", "-1e400", "-0", "-0.0", "1e-400", "0e999", "1.7976931348623159e308"]),
)

CHARACTERS = st.one_of(
    st.sampled_from('ab_$."\\ \n😀é'), st.characters(exclude_categories=[]), st.sampled_from("\0\ud800\udfff")
)

NICE = st.text("ab_-9", max_size=3)

STRINGS = st.builds(
    lambda text, escaped: json.dumps(text, ensure_ascii=escaped or any("\ud800" <= item <= "\udfff" for item in text)),
    NICE | st.sampled_from(["$ref", "$id", "_id", "$set", "a.b"]) | st.text(CHARACTERS, max_size=4),
    st.booleans(),
)


def array(items: Iterable[str]) -> str:
    """The text of an array."""
    return f"[{', '.join(items)}]"


def object_(members: Iterable[tuple[str, str]]) -> str:
    """The text of an object."""
    return f"{{{', '.join(f'{name}: {value}' for name, value in members)}}}"


def wrapped(value: str, openings: Sequence[str]) -> str:
    """The text of a value within many arrays and objects."""
    return "".join(openings) + value + "".join("]" if text.startswith("[") else "}" for text in reversed(openings))


def members(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Texts of objects with such values."""
    return st.lists(st.tuples(STRINGS, values), max_size=4).map(object_)


VALUES = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["null", "true", "false"]),
    lambda values: st.lists(values, max_size=4).map(array) | members(values),
    max_leaves=12,
)

DEEP = st.builds(
    wrapped, VALUES, st.lists(st.sampled_from(["[", "[0, ", '{"a": ', '{"b": 1, "": ']), min_size=94, max_size=103)
)

OBJECTS = members(st.one_of([VALUES] * 9 + [DEEP]))


def flaws(value: Any, path: str, level: int = 1) -> Iterator[str]:
    """The path of everything in a JSON value that cannot be kept."""
    if isinstance(value, dict | list) and level > 100:
        yield path
    elif isinstance(value, dict):
        for name, item in value.items():
            plain_name = re.fullmatch("[A-Za-z_][A-Za-z0-9_-]*", name)
            below = f"{path}.{name}" if plain_name else f"{path}[{json.dumps(name)}]"
            if "\0" in name or not is_unicode(name):
                yield below
            yield from flaws(item, below, level + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from flaws(item, f"{path}[{index}]", level + 1)
    elif (
        (isinstance(value, str) and not is_unicode(value))
        or (isinstance(value, float) and math.isinf(value))
        or (isinstance(value, int) and not -(2**63) <= value < 2**63)
    ):
        yield path


def is_unicode(text: str) -> bool:
    """Whether the text has no half of a surrogate pair."""
    return text.encode("utf-8", "ignore").decode() == text


def test_flaws_are_found() -> None:
    value = {"ok": [1.5, -(2**63)], "a b": [2**63, {"\0": {"c": -math.inf}}], "d": "\ud800"}
    assert list(flaws(value, "x")) == [
        'x["a b"][0]',
        'x["a b"][1]["\\u0000"]',
        'x["a b"][1]["\\u0000"].c',
        "x.d",
    ]


@pytest.mark.slow
@settings(max_examples=1000 if LONG else 50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(st.tuples(OBJECTS, st.none() | OBJECTS), min_size=1, max_size=12))
def test_any_object_is_kept_exactly_or_rejected(
    client: httpx.Client, mongo: MongoClient, texts: list[tuple[str, str | None]]
) -> None:
    events = [
        event_text(data, **({} if metadata is None else {"metadata": metadata}), type=str(index).join('""'))
        for index, (data, metadata) in enumerate(texts)
    ]
    sent = [json.loads(text) for text in events]
    bad = {
        index: paths
        for index, item in enumerate(sent)
        if (paths := [path for field in item for path in flaws(item[field], f"events[{index}].{field}")])
    }
    source = uuid.uuid4().hex
    response = post(client, events, source, Prefer="handling=lenient")
    good = [index for index in range(len(events)) if index not in bad]
    if good:
        assert response.status_code == 201, response.text
        named = [item["path"] for item in response.json().get("errors", [])]
    else:
        named = rejected_paths(response)
    assert len(named) == len(bad)
    for path, paths in zip(named, bad.values(), strict=True):
        assert path in paths
    listed = json.loads(client.get(EVENTS, params={"source": source}).text)[::-1]
    assert [int(item["event_type"]) for item in listed] == good
    for index, item, document in zip(good, listed, stored(mongo, [item["id"] for item in listed]), strict=True):
        for field in ("data", "metadata"):
            assert exactly(item[field]) == exactly(sent[index].get(field))
            assert exactly(document.get(field)) == exactly(sent[index].get(field))
