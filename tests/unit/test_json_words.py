"""Errors speak of JSON's types, not of Python's, and say what is wanted."""

import json
import re
from typing import Any

import pytest

from server.core.errors import InvalidBatch
from server.core.events.decode import decode_slowly
from server.core.times import parse_bound, parse_time

PYTHON_WORDS = re.compile(r"\b(str|int|float|bool|dict|list|None)\b")

VALUES: dict[str, Any] = {"string": "x", "number": 5, "boolean": True, "null": None, "array": [], "object": {}}


def messages(batch: Any) -> list[str]:
    """All that is wrong with a batch."""
    try:
        return [error.message for error in decode_slowly(json.dumps(batch).encode()).errors]
    except InvalidBatch as error:
        return [error.detail]


@pytest.mark.parametrize("field", ["source", "source_id", "events"])
@pytest.mark.parametrize("kind", VALUES)
def test_fields_of_a_batch(field: str, kind: str) -> None:
    batch = {"source": "a", "events": [{"type": "a", "data": {}}], field: VALUES[kind]}
    for message in messages(batch):
        assert not PYTHON_WORDS.search(message), message
        assert f"got `{kind}`" in message or "1 to 1000 allowed" in message


@pytest.mark.parametrize("field", ["type", "data", "timestamp", "metadata"])
@pytest.mark.parametrize("kind", [*VALUES, "fraction"])
def test_fields_of_an_event(field: str, kind: str) -> None:
    value = VALUES.get(kind, 1.5)
    event = {"type": "a", "data": {}, field: value}
    for message in messages({"source": "a", "events": [event]}):
        assert not PYTHON_WORDS.search(message), message
        got = "number" if kind == "fraction" else kind
        assert f"got `{got}`" in message or "ISO 8601" in message


def test_a_timestamp_that_is_a_number() -> None:
    (message,) = messages({"source": "a", "events": [{"type": "a", "data": {}, "timestamp": 5}]})
    assert message == (
        "Expected `string | null`, got `number`: an ISO 8601 date or date-time as text, such as 2026-03-01T12:00:00Z"
    )


def test_names_of_fields_stay_as_they_are() -> None:
    detail = messages({"source": "a", "events": [], "str | int": 1})
    assert detail == ['["str | int"]: Object contains unknown field']


@pytest.mark.parametrize("text", ["2026-03-01T12:00:00z", "2026-03-01t12:00:00z", "20260301t120000z", "2026-W09-7T12z"])
def test_lower_case_letters_of_rfc_3339(text: str) -> None:
    assert parse_time(text) == parse_bound(text) == parse_time("2026-03-01T12:00:00+00:00")


@pytest.mark.parametrize("text", ["2026-060", "2026-03-01Z", "z", "P1D", "2026-03"])
def test_a_bad_time_is_told_which_forms_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"forms of ISO 8601 that are read: .*2026-W09-7.*2026-03-01T12:00:00Z"):
        parse_time(text)
