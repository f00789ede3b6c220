"""Event <-> BSON: what stands in the collection `events`, and how it reads back. Imports `bson` and the core.

An event is encoded once, to the bytes that go over the wire: encoding is also the check that MongoDB can hold it, and
the bytes have a size. Reading back goes round the driver's conveniences (DBRef, Int64) that would alter what was sent.
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
"""Decode objects lazily and to the letter: `{"$ref": ...}` stays an object."""

PLAIN: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD)

REFERENCE = b"$ref"
"""The driver makes a DBRef of an object with this key."""

OBJECT, ARRAY = b"\x03", b"\x04"
"""BSON's type bytes of what nests."""

LEVEL_BYTES = 7
"""What a level of nesting takes at least: its type, the end of its name, its length, its end."""

SHALLOW_BYTES = MAX_NESTING * LEVEL_BYTES
"""BSON that is not longer cannot nest too deep."""

SIZE = struct.Struct("<i")
"""How many bytes a document, a string or a binary has, in BSON."""

LIST_START = SIZE.size + len(b"\x04\x00") + SIZE.size
"""Where the first element stands of a list that is all there is in a document, under an empty name."""

ITEM_STARTS = [len(b"\x03%d\x00" % index) for index in range(MAX_BATCH_EVENTS)]
"""What stands before each object in a list: its type, and its index in text."""

UUID_BYTES = 16

ID_ELEMENT = b"\x05_id\x00" + SIZE.pack(UUID_BYTES) + bytes([UUID_SUBTYPE])
"""What stands before an id's 16 bytes in BSON: binary, its name, its length, its subtype."""

SIZE_AND_ID_BYTES = SIZE.size + len(ID_ELEMENT) + UUID_BYTES
"""What stands before all other elements: the document's size and its id."""

TENANT_ID = b"\x05tenant_id\x00" + SIZE.pack(UUID_BYTES) + bytes([UUID_SUBTYPE])
SOURCE, SOURCE_ID = b"\x02source\x00", b"\x02source_id\x00"
RECEIVED_AT, TIMESTAMP = b"\x09received_at\x00", b"\x09timestamp\x00"
"""What stands before a value in BSON: its type and its name. A time's value is milliseconds."""


def encode(
    header: BatchInfo, ids: Sequence[bytes], events: Sequence[Event], times: Sequence[int | None]
) -> list[bytes]:
    """The BSON documents of events with that header. Raises Unstorable where MongoDB cannot hold a value of theirs.

    All are encoded in one call, which takes half the time of a call for each. What they share is encoded once and
    joined to each.
    """
    received_at = int64(header.received_at_ms)
    shared = TENANT_ID + header.tenant_id.bytes + text(SOURCE, header.source) + RECEIVED_AT + received_at
    if header.source_id is not None:
        shared += text(SOURCE_ID, header.source_id)
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
    """How many bytes the BSON document has that begins there."""
    size: int = SIZE.unpack_from(encoded, start)[0]
    return size


def encode_list(items: list[dict[str, Any]]) -> bytes:
    """A BSON document with nothing but a list, under an empty name. Raises Unstorable."""
    try:
        return bson.encode({"": items})
    except (InvalidDocument, OverflowError, RecursionError, UnicodeEncodeError):
        raise Unstorable from None


def may_nest_too_deep(encoded: bytes) -> bool:
    """Whether BSON may have more than MAX_NESTING levels: quick, and never wrongly False."""
    return encoded.count(OBJECT) + encoded.count(ARRAY) > MAX_NESTING


def check_nesting(event: Event) -> None:
    """Raises Unstorable where `data` or `metadata` has more levels than it may."""
    if nests_too_deep(event.data) or nests_too_deep(event.metadata):
        raise Unstorable


def int64(value: int) -> bytes:
    """An integer as BSON has it."""
    return value.to_bytes(8, "little", signed=True)


def text(name: bytes, value: str) -> bytes:
    """A string in BSON, with its type and name before it."""
    encoded = value.encode()
    return name + SIZE.pack(len(encoded) + 1) + encoded + b"\x00"


def decode(raw: RawBSONDocument) -> StoredEvent:
    """The event that a document holds. Its integers may be of BSON's own kind."""
    # Ten times as fast as going to the letter, and the same but for what looks like a reference.
    encoded = bytes(raw.raw)  # of a large document it is a view, in which nothing can be found
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
    """The JSON value that a raw BSON value was made from."""
    match value:
        case RawBSONDocument():
            return {key: json_value(item) for key, item in value.items()}
        case list():
            return [json_value(item) for item in value]
        case Int64():
            return int(value)
    return value
