"""Events as BSON: what is encoded reads back exactly, and what MongoDB cannot hold is not encoded."""

from typing import Any
from uuid import UUID

import bson
import msgspec
import pytest
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.core.events.ids import new_ids
from server.core.events.model import MAX_BATCH_EVENTS, MAX_NESTING, BatchInfo, Event
from server.core.events.values import find_flaw
from server.core.ingest.store import Unstorable
from server.core.times import from_milliseconds
from storage.documents import decode, encode
from tests.unit.strategies import EVENTS, KEYS, MILLISECONDS, NAMES, SCALARS, TEXTS

INFOS = st.builds(BatchInfo, st.uuids(), NAMES, st.none() | TEXTS, st.integers(0, 2**45))
INFO = BatchInfo(UUID(int=7), "backend", None, 1_700_000_000_123)

KEY_ORDER = ["_id", "source", "received_at", "source_id", "timestamp", "event_type", "data", "metadata"]

ANY_SCALARS = SCALARS | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[]), max_size=3)
ANY_VALUES: st.SearchStrategy[Any] = st.recursive(
    ANY_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.just("\0"), inner, max_size=3)
)


def encode_one(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> bytes:
    """The document of one event."""
    return encode(INFO, new_ids(0, 1).binary, [Event("a", data, None, metadata)], [None])[0]


def plain(value: Any) -> Any:
    """A value of a stored event as Python has it: the JSON of a Raw."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


@given(INFOS, st.lists(st.tuples(EVENTS, st.none() | MILLISECONDS), min_size=1, max_size=3))
def test_events_read_back_as_they_were(info: BatchInfo, rows: list[tuple[Event, int | None]]) -> None:
    events, times = [event for event, _ in rows], [time for _, time in rows]
    ids = new_ids(info.received_at_ms, len(rows))
    documents = encode(info, ids.binary, events, times)
    for document, binary_id, event, time in zip(documents, ids.binary, events, times, strict=True):
        found = decode(document)
        assert (found.id, found.tenant_id) == (UUID(bytes=binary_id), info.tenant_id)
        assert (found.source, plain(found.source_id), found.event_type) == (info.source, info.source_id, event.type)
        assert found.received_at == from_milliseconds(info.received_at_ms)
        assert found.timestamp == from_milliseconds(info.received_at_ms if time is None else time)
        read = [plain(raw) for raw in (found.data, found.metadata)]
        assert repr(read) == repr([event.data, event.metadata])  # with types and order of keys


def test_a_document_is_plain_bson() -> None:
    event = Event("a", {"n": 1}, None, {"m": {}})
    (document,) = encode(replace(INFO, source_id="7"), new_ids(0, 1).binary, [event], [5])
    found: dict[str, Any] = bson.decode(document, CodecOptions(tz_aware=True))
    assert list(found) == KEY_ORDER
    assert (found["event_type"], found["data"], found["metadata"]) == ("a", {"n": 1}, {"m": {}})


@pytest.mark.parametrize("source_id", [None, "", "7"])
def test_an_empty_source_id_is_not_none(source_id: str | None) -> None:
    (document,) = encode(replace(INFO, source_id=source_id), new_ids(0, 1).binary, [Event("a", {})], [None])
    assert plain(decode(document).source_id) == source_id


def test_a_full_batch_and_long_indexes() -> None:
    ids = new_ids(0, MAX_BATCH_EVENTS)
    events = [Event("a", {"n": number}) for number in range(MAX_BATCH_EVENTS)]
    documents = encode(INFO, ids.binary, events, [None] * MAX_BATCH_EVENTS)
    assert [msgspec.json.decode(decode(item).data)["n"] for item in documents] == list(range(MAX_BATCH_EVENTS))


def test_a_large_reference_stays_an_object() -> None:
    data = {"a": {"$ref": "c", "$id": 1}, "b": "x" * 5000}
    assert msgspec.json.decode(decode(encode_one(data)).data) == data


@given(st.dictionaries(KEYS | st.just("\0"), ANY_VALUES, max_size=3))
def test_what_has_a_flaw_is_not_encoded(data: dict[str, Any]) -> None:
    flawed = find_flaw(data, "data")
    try:
        document = encode_one(data)
    except Unstorable:
        assert flawed is not None
    else:
        has_text = flawed is None or "double" in flawed.message  # BSON has infinities: decoding finds those
        assert has_text
        assert repr(msgspec.json.decode(decode(document).data)) == repr(data)


@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: [value]], ids=["objects", "arrays"])
@pytest.mark.parametrize("field", ["data", "metadata"])
def test_nesting_is_limited(wrap: Any, field: str) -> None:
    value: Any = 1
    for _ in range(MAX_NESTING - 1):
        value = wrap(value)
    encode_one(**{"data": {}, field: {"a": value}})
    with pytest.raises(Unstorable):
        encode_one(**{"data": {}, field: {"a": wrap(value)}})
    encode_one(**{"data": {}, field: {"wide": [[1]] * 500}})  # many levels in all, and none deep
