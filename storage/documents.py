"""Encodes events as the BSON documents of the collection `events`, and decodes them.

An event is encoded once, to the very bytes that are sent to MongoDB. So encoding is also the check that MongoDB can
hold the event, and shows its size. Clients must get back exactly the JSON values that they sent. So decoding undoes or
avoids what the driver does for convenience (DBRef, Int64).
"""

import struct
from collections.abc import Sequence
from typing import Any

import bson
from bson.binary import UUID_SUBTYPE, UuidRepresentation
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from server.core.events.model import MAX_BATCH_EVENTS, MAX_NESTING, BatchInfo, Event, StoredEvent
from server.core.events.values import nests_too_deep
from server.core.ingest.store import Unstorable

RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, tz_aware=True, uuid_representation=UuidRepresentation.STANDARD
)
"""Decodes objects lazily, and leaves `{"$ref": ...}` an object."""

PLAIN: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD)
"""Decodes everything at once. That is ten times as fast, but turns an object with the key `$ref` into a DBRef."""

REFERENCE = b"$ref"

OBJECT, ARRAY = b"\x03", b"\x04"
"""BSON's type bytes of the two values that nest."""

LEVEL_BYTES = 7
"""The least bytes of a level of nesting: its type (1), the end of its name (1), its size (4), its end (1)."""

SHALLOW_BYTES = MAX_NESTING * LEVEL_BYTES
"""BSON of at most this length has at most MAX_NESTING levels, so it needs no check."""

SIZE = struct.Struct("<i")
"""BSON's size in bytes of a document, a string or a binary."""

LIST_START = SIZE.size + len(b"\x04\x00") + SIZE.size
"""The bytes before the first item of a list that is a document's only element and has an empty name."""

ITEM_STARTS = [len(b"\x03%d\x00" % index) for index in range(MAX_BATCH_EVENTS)]
"""The bytes before the document of each item of a list: its type, and its index as text."""

UUID_BYTES = 16

ID_ELEMENT = b"\x05_id\x00" + SIZE.pack(UUID_BYTES) + bytes([UUID_SUBTYPE])
"""The bytes before an id's own 16: the type binary, the name, the size, the subtype."""

SIZE_AND_ID_BYTES = SIZE.size + len(ID_ELEMENT) + UUID_BYTES
"""The bytes before all other elements: the document's size and its id."""

TENANT_ID = b"\x05tenant_id\x00" + SIZE.pack(UUID_BYTES) + bytes([UUID_SUBTYPE])
SOURCE, SOURCE_ID = b"\x02source\x00", b"\x02source_id\x00"
RECEIVED_AT, TIMESTAMP = b"\x09received_at\x00", b"\x09timestamp\x00"
"""The bytes before a value: its type and its name. The value of a time is an int64 of milliseconds since 1970."""


def encode(info: BatchInfo, ids: Sequence[bytes], events: Sequence[Event], times: Sequence[int | None]) -> list[bytes]:
    """The BSON document of each event of a batch. Raises Unstorable if MongoDB cannot hold one of their values.

    One call encodes what differs in all events, as a list. That takes half the time of a call for each. What the events
    have in common is encoded once. A document is put together from its id, the common part, and its item of the list.
    """
    received_at = int64(info.received_at_ms)
    shared = TENANT_ID + info.tenant_id.bytes + text(SOURCE, info.source) + RECEIVED_AT + received_at
    if info.source_id is not None:
        shared += text(SOURCE_ID, info.source_id)
    timed = shared + TIMESTAMP
    untimed = timed + received_at
    encoded = encode_list(
        [
            {"event_type": event.type, "data": event.data}
            if event.metadata is None
            else {"event_type": event.type, "data": event.data, "metadata": event.metadata}
            for event in events
        ]
    )
    documents, end = [], LIST_START
    for event_id, event, time, item_start in zip(ids, events, times, ITEM_STARTS[: len(events)], strict=True):
        start = end + item_start
        end = start + document_size(encoded, start)
        own = encoded[start + SIZE.size : end]
        if end - start > SHALLOW_BYTES and may_nest_too_deep(own):
            check_nesting(event)
        before = untimed if time is None else timed + int64(time)
        size = SIZE_AND_ID_BYTES + len(before) + len(own)
        documents.append(b"".join((SIZE.pack(size), ID_ELEMENT, event_id, before, own)))
    return documents


def document_size(encoded: bytes, start: int) -> int:
    """The size in bytes of the BSON document that begins at `start`."""
    size: int = SIZE.unpack_from(encoded, start)[0]
    return size


def encode_list(items: list[dict[str, Any]]) -> bytes:
    """A BSON document with a list as its only element, which has an empty name. Raises Unstorable."""
    try:
        return bson.encode({"": items})
    except (InvalidDocument, OverflowError, RecursionError, UnicodeEncodeError):
        raise Unstorable from None


def may_nest_too_deep(encoded: bytes) -> bool:
    """Whether BSON may have more than MAX_NESTING levels. It is quick, and wrong only in that it may say True.

    Every level has one of the two type bytes. But these bytes also occur in other places, such as in numbers.
    """
    return encoded.count(OBJECT) + encoded.count(ARRAY) > MAX_NESTING


def check_nesting(event: Event) -> None:
    """Raises Unstorable if `data` or `metadata` has more than MAX_NESTING levels."""
    if nests_too_deep(event.data) or nests_too_deep(event.metadata):
        raise Unstorable


def int64(value: int) -> bytes:
    """The 8 bytes of an integer in BSON."""
    return value.to_bytes(8, "little", signed=True)


def text(name: bytes, value: str) -> bytes:
    """The bytes of a string in BSON; `name` is its type and its name."""
    encoded = value.encode()
    return name + SIZE.pack(len(encoded) + 1) + encoded + b"\x00"


def decode(raw: RawBSONDocument) -> StoredEvent:
    """The event that a document holds. Its integers may be Int64, a subclass of int."""
    encoded = bytes(raw.raw)  # a large document has a memoryview, which has no search
    document = raw if REFERENCE in encoded else bson.decode(encoded, PLAIN)
    return StoredEvent(
        id=document["_id"],
        tenant_id=document["tenant_id"],
        source=document["source"],
        source_id=document.get("source_id"),
        event_type=document["event_type"],
        data=json_value(document["data"]),
        timestamp=document["timestamp"],
        received_at=document["received_at"],
        metadata=json_value(document.get("metadata")),
    )


def json_value(value: Any) -> Any:
    """The JSON value that was encoded as this BSON value."""
    match value:
        case RawBSONDocument():
            return {key: json_value(item) for key, item in value.items()}
        case list():
            return [json_value(item) for item in value]
        case Int64():
            return int(value)
    return value
