"""Items: lines are judged as the server judges them, and exported lines keep what they have."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cli.importing.items import Item, ItemMaker
from server.cli.importing.lines import Line
from server.cli.importing.mapping import Mapping, parse_mapping
from server.cli.importing.validation import LineError
from server.core.events.raw import ItemDecoder, RawQuery
from server.core.slow_work import run_at_once

EXPORTED = {
    "id": "0193", "tenant_id": "t", "source": "web", "source_id": "eu", "event_type": "click", "data": {"a": [1, 2.50]},
    "timestamp": "2026-03-01T12:00:00.123", "received_at": "2026-03-02T12:00:00", "metadata": None,
}  # fmt: skip

VALUES = (
    st.none() | st.integers(-(2**64), 2**64) | st.sampled_from(["", "a", "2026-03-01", "\ud800", "\0", 1.5, [], {}])
)
LINES = st.dictionaries(
    st.sampled_from(["type", "data", "timestamp", "metadata"]),
    VALUES | st.dictionaries(st.sampled_from(["a", "\0", "\ud800"]), VALUES, max_size=2),
)


def item_of(line: Any, source: str | None = "s", mapping: Mapping | None = None) -> Item:
    text = line if isinstance(line, bytes) else json.dumps(line).encode()
    return ItemMaker(source, mapping).item_of(Line(1, 0, text))


def error_of(line: Any, source: str | None = "s", mapping: Mapping | None = None) -> tuple[str, str]:
    with pytest.raises(LineError) as raised:
        item_of(line, source, mapping)
    return raised.value.path, raised.value.reason


@given(LINES)
def test_a_line_is_rejected_for_what_the_server_says(line: dict[str, Any]) -> None:
    text = json.dumps(line).encode()
    errors = run_at_once(ItemDecoder(RawQuery("s")).decoding([text], 0, slowly=True)).errors
    if not errors:
        assert item_of(text) == Item("s", None, text)
        return
    error_of(text)  # which of several errors is named depends on the order of the fields


def test_an_exported_line() -> None:
    item = item_of(EXPORTED)
    kept = {"type": "click", "data": {"a": [1, 2.5]}, "timestamp": "2026-03-01T12:00:00.123", "metadata": None}
    assert (item.source, item.source_id, json.loads(item.text)) == ("web", "eu", kept)
    assert b"2.5" in item.text


def test_numbers_keep_their_digits() -> None:
    line = b'{"source":"web","type":"t","data":{"b":1.10,"a":9007199254740993}}'
    assert item_of(line).text == b'{"type":"t","data":{"b":1.10,"a":9007199254740993}}'


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"source": ""}, "source"),
        ({"source_id": 3}, "source_id"),
        ({"event_type": ""}, "event_type"),
        ({"type": "t"}, "event_type"),
        ({"data": []}, "data"),
        ({"data": {"a": 2**70}}, "data.a"),
        ({"timestamp": "never"}, "timestamp"),
    ],
)
def test_a_bad_exported_line(fields: dict[str, Any], path: str) -> None:
    assert error_of({**EXPORTED, **fields})[0] == path


def test_a_line_without_a_source() -> None:
    line = {"type": "t", "data": {}}
    assert error_of(line, None) == ("source", "Missing: the line has no source, so give --source")
    assert item_of({**line, "source": "own"}, None).source == "own"
    assert item_of({**line, "source": None}).source == "s"


@pytest.mark.parametrize(
    "data", [{"a": "x" * (1 << 20)}, {"a": [0] * 200_000}, [1] * 101, json.loads("[" * 150 + "]" * 150)]
)
def test_what_does_not_fit(data: Any) -> None:
    assert error_of({"type": "t", "data": {"a": data} if isinstance(data, list) and len(data) == 1 else data})


def test_a_mapped_line() -> None:
    mapping = parse_mapping("type=event,data=properties,timestamp=properties.time")
    item = item_of(b'{"event":"x","properties":{"time":1700000000.5,"a":1.10}}', mapping=mapping)
    assert item.text == b'{"type":"x","data":{"time":1700000000.5,"a":1.10},"timestamp":"2023-11-14T22:13:20.500"}'
    assert json.loads(item_of({"type": "x", "a": 1}, mapping=Mapping()).text) == {
        "type": "x",
        "data": {"type": "x", "a": 1},
    }


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ({"properties": {}}, "event"),
        ({"event": "x", "properties": 3}, "properties"),
        ({"event": "x", "properties": {"a": 2**70}}, "properties.a"),
        ({"event": "x", "properties": {"time": "never"}}, "properties.time"),
        ({"event": "x", "properties": {"time": 1e300}}, "properties.time"),
        ([1], ""),
        (b"{", ""),
        (b'{"event":"\\ud800"}', ""),
    ],
)
def test_a_bad_mapped_line(line: Any, path: str) -> None:
    mapping = parse_mapping("type=event,data=properties,timestamp=properties.time")
    assert error_of(line, mapping=mapping)[0] == path


@pytest.mark.parametrize("text", ["", "type", "type=", "kind=a", "type=a,type=b", "type=a..b", "data=.a"])
def test_no_mapping(text: str) -> None:
    with pytest.raises(ValueError):
        parse_mapping(text)
