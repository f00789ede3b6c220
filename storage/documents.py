"""Event <-> BSON: what stands in the collection `events`, and how it reads back. Imports `bson` and the core.

An event is encoded once, to the bytes that go over the wire: encoding is also the check that MongoDB can hold it, and
the bytes have a size. Reading back goes round the driver's conveniences (DBRef, Int64) that would alter what was sent.
"""

from typing import Any

import bson
from bson.binary import UUID_SUBTYPE, Binary, UuidRepresentation
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from server.core.events import MAX_NESTING, Event, Header, StoredEvent
from server.core.ingest import Unstorable
from server.core.times import parse_time
from server.core.values import nests_too_deep

RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, tz_aware=True, uuid_representation=UuidRepresentation.STANDARD
)
"""Decode objects lazily and to the letter: `{"$ref": ...}` stays an object."""

OBJECT, ARRAY = b"\x03", b"\x04"
"""BSON's type bytes of what nests."""


def encode(header: Header, event_id: bytes, event: Event) -> bytes:
    """The document of one event as BSON.

    Raises Unstorable where MongoDB cannot hold its values, and ValueError for a timestamp that is none.
    """
    document: dict[str, Any] = {
        "_id": Binary(event_id, UUID_SUBTYPE),
        "tenant_id": Binary(header.tenant_id.bytes, UUID_SUBTYPE),
        "source": header.source,
        "event_type": event.type,
        "data": event.data,
        "timestamp": header.received_at if event.timestamp is None else parse_time(event.timestamp),
        "received_at": header.received_at,
    }
    if header.source_id is not None:
        document["source_id"] = header.source_id
    if event.metadata is not None:
        document["metadata"] = event.metadata
    try:
        encoded = bson.encode(document)
    except (InvalidDocument, OverflowError, RecursionError, UnicodeEncodeError):
        raise Unstorable from None
    # Counting type bytes takes a tenth of a walk, and never counts too few: most events stop here.
    may_nest = encoded.count(OBJECT) + encoded.count(ARRAY) > MAX_NESTING
    if may_nest and (nests_too_deep(event.data) or nests_too_deep(event.metadata)):
        raise Unstorable
    return encoded


def decode(document: RawBSONDocument) -> StoredEvent:
    """The event that a document holds."""
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
