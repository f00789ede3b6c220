"""Lines of an export are the JSON of the list, whichever way they were encoded."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import bson
import pytest
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st

from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo, Event
from server.rest.events import encode_event
from storage.documents import decode, encode
from storage.lines import PART_BYTES, in_parts, lines_of, stored_body
from tests.unit.strategies import EVENTS, MILLISECONDS, NAMES, TEXTS
from tests.unit.test_foreign_documents import FOREIGN, WHOLE

TENANT = UUID(int=7 << 90)
NOW = 1_800_000_000_123
OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD, tz_aware=True)

OWN_ID = {"tenant_id": TENANT, "id": UUID(int=9)}
STORED = {"_id": OWN_ID, **{name: WHOLE[name] for name in WHOLE if name not in ("_id", "tenant_id")}}


def expected(documents: Sequence[bytes]) -> bytes:
    return b"".join(encode_event(decode(document)) + b"\n" for document in documents)


@given(st.lists(st.tuples(EVENTS, st.none() | MILLISECONDS), max_size=4), NAMES, st.none() | TEXTS, MILLISECONDS)
def test_stored_events(
    events: list[tuple[Event, int | None]], source: str, source_id: str | None, received_at_ms: int
) -> None:
    info = BatchInfo(TENANT, source, source_id, received_at_ms)
    ids = new_ids(NOW, len(events)).binary
    documents = encode(info, ids, [event for event, _ in events], [time for _, time in events])
    assert lines_of(documents) == expected(documents)


def test_usual_events_take_the_quick_way() -> None:
    for source_id in (None, "one"):
        for event in (Event("view", {"a": [1, 2.5]}), Event("view", {}, None, {"b": None})):
            (document,) = encode(BatchInfo(TENANT, "web", source_id, NOW), new_ids(NOW, 1).binary, [event], [NOW])
            assert stored_body(document) is not None


CHANGED: dict[str, dict[str, Any]] = {
    **{f"no {name}": {key: STORED[key] for key in STORED if key != name} for name in STORED if name != "_id"},
    **{f"{name} is null": {**STORED, name: None} for name in STORED if name != "_id"},
    **{f"{name} is a number": {**STORED, name: 5} for name in STORED if name != "_id"},
    **{f"data holds {name}": {**STORED, "data": {"a": value}} for name, (value, _) in FOREIGN.items()},
    **{f"source is {name}": {**STORED, "source": value} for name, (value, _) in FOREIGN.items()},
    "one more": {**STORED, "more": 1},
    "one more before": {"_id": OWN_ID, "more": 1, **STORED},
    "in another order": {"_id": OWN_ID, **dict(sorted(STORED.items(), reverse=True))},
    "a source like a field": {**STORED, "source": "x\x00\x09timestamp\x00" + "y" * 20},
    "an id with more": {**STORED, "_id": {**OWN_ID, "more": 1}},
    "an id in another order": {**STORED, "_id": dict(reversed(OWN_ID.items()))},
}


@pytest.mark.parametrize("document", CHANGED.values(), ids=CHANGED)
def test_other_documents(document: dict[str, Any]) -> None:
    encoded = [bson.encode(document, codec_options=OPTIONS)]
    assert lines_of(encoded) == expected(encoded)


def test_parts_are_small() -> None:
    event = Event("view", {"text": "x" * 1_000})
    documents = encode(BatchInfo(TENANT, "web", None, NOW), new_ids(NOW, 200).binary, [event] * 200, [None] * 200)
    parts = list(in_parts(documents))
    assert b"".join(parts) == expected(documents)
    assert max(map(len, parts)) < 2 * PART_BYTES
    assert list(in_parts([])) == []
