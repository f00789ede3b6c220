"""Decoding the items of raw bodies: fast and careful decoding agree, and each bad item has its error."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.events.model import DecodedBatch
from server.core.events.raw import ItemDecoder, RawQuery
from server.core.slow_work import run_at_once

FIELDS = RawQuery("s", type_field="kind", time_field="ts")
TYPE = RawQuery("s", type="t")
EVENTS = RawQuery("s")

ITEMS = st.dictionaries(
    st.sampled_from(["kind", "ts", "type", "data", "x", "é"]),
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats()
    | st.sampled_from(["", "a", "2026-03-01", "2026-03-01T12:00:00.1239+01:00", "2026-13-01", "\ud800", "\0"])
    | st.dictionaries(st.sampled_from(["a", "\0", "\ud800"]), st.none(), max_size=2),
)


def decode(query: RawQuery, *items: bytes, slowly: bool = False) -> DecodedBatch:
    return run_at_once(ItemDecoder(query).decoding(list(items), 3, slowly=slowly))


@given(st.sampled_from([FIELDS, TYPE, EVENTS, RawQuery("s", type_field="ts", time_field="ts")]), ITEMS)
def test_both_ways_of_decoding_agree(query: RawQuery, item: dict[str, Any]) -> None:
    text = json.dumps(item).encode()
    fast, slow = decode(query, text), decode(query, text, slowly=True)
    assert fast.errors == slow.errors or not fast.errors  # what cannot be stored shows as it is encoded
    if not slow.errors:
        assert fast.times == slow.times
        assert [(each.type, each.data) for each in fast.events] == [(each.type, each.data) for each in slow.events]


BAD_ITEMS: dict[str, tuple[RawQuery, bytes, str, str]] = {
    "not JSON": (TYPE, b"nope", "events[3]", "JSON is malformed"),
    "empty": (TYPE, b"", "events[3]", "JSON is malformed: it is empty"),
    "two values": (TYPE, b"{} {}", "events[3]", "trailing characters (byte 4). Each line must be one item"),
    "half a value": (TYPE, b'{"a":', "events[3]", "ends too early (byte 5). Each line must be one item"),
    "not UTF-8": (TYPE, b'{"a":"\xff"}', "events[3]", "JSON is not UTF-8"),
    "too deep to parse": (TYPE, b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "events[3]", "too deeply"),
    "no object": (TYPE, b"[]", "events[3].data", "Expected `object`, got `array`"),
    "no object, with a field": (FIELDS, b"5", "events[3].data", "Expected `object`, got `number`"),
    "no event": (EVENTS, b"{}", "events[3].type", "missing required field"),
    "unknown field": (EVENTS, b'{"type":"a","data":{},"x":1}', "events[3].x", "unknown field"),
    "infinite": (TYPE, b'{"a":{"b":[1e999]}}', "events[3].data.a.b[0]", "too large for a double"),
    "no type": (FIELDS, b'{"a":1}', "events[3].data.kind", "Missing"),
    "type is a number": (FIELDS, b'{"kind":1}', "events[3].data.kind", "Expected `string`, got `number`"),
    "type is null": (FIELDS, b'{"kind":null}', "events[3].data.kind", "Expected `string`, got `null`"),
    "type is empty": (FIELDS, b'{"kind":""}', "events[3].data.kind", "length >= 1"),
    "type is too long": (FIELDS, b'{"kind":"%s"}' % (b"a" * 256), "events[3].data.kind", "length <= 255"),
    "type has half a character": (FIELDS, b'{"kind":"\\ud800"}', "events[3].data.kind", "surrogate"),
    "time is a boolean": (FIELDS, b'{"kind":"a","ts":true}', "events[3].data.ts", "Neither an ISO 8601"),
    "time is an object": (FIELDS, b'{"kind":"a","ts":{}}', "events[3].data.ts", "Neither an ISO 8601"),
    "time is a word": (FIELDS, b'{"kind":"a","ts":"now"}', "events[3].data.ts", "forms of ISO 8601"),
    "time has half a character": (FIELDS, b'{"kind":"a","ts":"\\ud800"}', "events[3].data.ts", "surrogate"),
    "time is too large": (FIELDS, b'{"kind":"a","ts":1e15}', "events[3].data.ts", "years 1 to 9999"),
    "time is infinite": (FIELDS, b'{"kind":"a","ts":1e999}', "events[3].data.ts", "Neither an ISO 8601"),
    "time is too small": (FIELDS, b'{"kind":"a","ts":-62135596801}', "events[3].data.ts", "years 1 to 9999"),
}


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize(("query", "item", "path", "message"), BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_a_bad_item_costs_that_item(query: RawQuery, item: bytes, path: str, message: str, slowly: bool) -> None:
    good = b'{"type":"a","data":{"n":1}}' if query is EVENTS else b'{"kind":"a","n":1}'
    batch = decode(query, item, good, slowly=slowly)
    (error,) = batch.errors
    assert (error.index, error.path) == (3, path)
    assert message in error.message
    assert list(batch.indexes) == [4]
    assert [event.data["n"] for event in batch.events] == [1]


def test_an_item_stays_as_it_is() -> None:
    item = b'{"kind":"a","z":1,"ts":1772366400.5,"a":{"kind":2}}'
    batch = decode(FIELDS, item)
    assert [(event.type, msgspec.json.encode(event.data)) for event in batch.events] == [("a", item)]
    assert batch.times == [1_772_366_400_500]
