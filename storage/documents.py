"""Encodes events as the BSON documents of the collection `events`, and decodes them.

An event is encoded once, to the very bytes that are sent to MongoDB. So encoding is also the check that MongoDB can
hold the event, and shows its size. Clients must get back exactly the JSON values that they sent. So decoding undoes or
avoids what the driver does for convenience (DBRef, Int64).

Operators and analysts may write to the collection too, and store what no client can: an ObjectId, a date inside
`data`, an event with no `source`. Such a foreign value reads back as MongoDB's Extended JSON in its relaxed form, and a
missing one as null. Example: `{"reviewer": ObjectId("64...")}` reads back as `{"reviewer": {"$oid": "64..."}}`.
"""

import math
import struct
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import bson
import msgspec
from bson import json_util
from bson.binary import UUID_SUBTYPE, Binary, UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion, TypeDecoder, TypeRegistry
from bson.datetime_ms import DatetimeMS
from bson.errors import InvalidDocument
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from server.core.events.model import MAX_BATCH_EVENTS, MAX_NESTING, BatchInfo, Event, StoredEvent
from server.core.events.values import nests_too_deep
from server.core.ingest.store import Unstorable
from server.core.times import MAX_MS, MIN_MS, from_milliseconds


class BytesDecoder(TypeDecoder):
    """Decodes binary data of the general kind as Binary, as the driver does with every other kind."""

    bson_type = bytes

    def transform_bson(self, value: bytes) -> Binary:
        """The same bytes."""
        return Binary(value)


PLAIN: CodecOptions[dict[str, Any]] = CodecOptions(
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    type_registry=TypeRegistry([BytesDecoder()]),
    unicode_decode_error_handler="replace",
)
"""Decodes everything at once: UUIDs and bytes as Binary, dates as DatetimeMS. msgspec knows neither, so it passes them
to `json_form`. It would encode a UUID, bytes or a datetime in a form of its own."""

LAZY: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="replace",
)
"""Decodes objects when they are used, and leaves `{"$ref": ...}` an object: PLAIN turns it into a DBRef. It takes ten
times as long."""

RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, tz_aware=True, uuid_representation=UuidRepresentation.STANDARD
)
"""Reads documents as bytes, and their ids as UUIDs."""

REFERENCE = b"$ref"

NON_FINITE_ENDS = b"\x7f", b"\xff"
"""The last bytes of the doubles that are not finite, which JSON does not have. UTF-8 text seldom has the first, and
never the second."""

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

TENANT_ID = b"\x05tenant_id\x00" + SIZE.pack(UUID_BYTES) + bytes([UUID_SUBTYPE])
EVENT_ID = b"\x05id\x00" + SIZE.pack(UUID_BYTES) + bytes([UUID_SUBTYPE])
"""The bytes before an id's own 16: the type binary, the name, the size, the subtype."""

END = b"\x00"
"""The end of a document."""

ID_BYTES = SIZE.size + len(TENANT_ID) + UUID_BYTES + len(EVENT_ID) + UUID_BYTES + len(END)
ID_START = b"\x03_id\x00" + SIZE.pack(ID_BYTES) + TENANT_ID
"""The bytes of `_id: {tenant_id, id}` before those of the tenant's id."""

SIZE_AND_ID_BYTES = SIZE.size + len(b"\x03_id\x00") + ID_BYTES
"""The bytes before all other elements: the document's size and its `_id`."""

BYTES_BEFORE_END = SIZE_AND_ID_BYTES - len(END)
"""The same, without the end of `_id`. What all events of a batch have in common begins with that."""

EVENT_ID_AT = BYTES_BEFORE_END - UUID_BYTES
"""Where the event's id begins. It ends at BYTES_BEFORE_END."""

SOURCE, SOURCE_ID = b"\x02source\x00", b"\x02source_id\x00"
RECEIVED_AT, TIMESTAMP = b"\x09received_at\x00", b"\x09timestamp\x00"
"""The bytes before a value: its type and its name. The value of a time is an int64 of milliseconds since 1970."""


def encode(info: BatchInfo, ids: Sequence[bytes], events: Sequence[Event], times: Sequence[int | None]) -> list[bytes]:
    """The BSON document of each event of a batch. Raises Unstorable if MongoDB cannot hold one of their values.

    One call encodes what differs in all events, as a list. That takes half the time of a call for each. What the events
    have in common is encoded once. A document is put together from its id, the common part, and its item of the list.
    """
    received_at = int64(info.received_at_ms)
    id_start = ID_START + info.tenant_id.bytes + EVENT_ID
    shared = END + text(SOURCE, info.source) + RECEIVED_AT + received_at
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
        size = BYTES_BEFORE_END + len(before) + len(own)
        documents.append(b"".join((SIZE.pack(size), id_start, event_id, before, own)))
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


def decode(encoded: bytes) -> StoredEvent:
    """The event that a document holds."""
    lazy = REFERENCE in encoded
    document = RawBSONDocument(encoded, LAZY) if lazy else bson.decode(encoded, PLAIN)
    values = document.get("data"), document.get("metadata")
    own_id = document["_id"]
    if lazy or may_hold_non_finite(encoded):
        values = json_value(values[0]), json_value(values[1])
    return StoredEvent(
        id=uuid_or_json(own_id.get("id")),
        tenant_id=uuid_or_json(own_id["tenant_id"]),
        source=text_or_json(document.get("source")),
        source_id=text_or_json(document.get("source_id")),
        event_type=text_or_json(document.get("event_type")),
        data=msgspec.Raw(encode_json(values[0])),
        timestamp=time_or_json(document.get("timestamp")),
        received_at=time_or_json(document.get("received_at")),
        metadata=msgspec.Raw(encode_json(values[1])),
    )


OLD_ID = b"\x05_id\x00" + SIZE.pack(UUID_BYTES) + bytes([UUID_SUBTYPE])
"""The bytes before the id of an event in layout 1."""

OLD_ID_BYTES = SIZE.size + len(OLD_ID) + UUID_BYTES
OLD_IDS_BYTES = OLD_ID_BYTES + len(TENANT_ID) + UUID_BYTES
"""The bytes before all elements but the two ids of layout 1."""


def in_layout_2(encoded: bytes) -> RawBSONDocument:
    """The same event as a document of layout 2.

    `encoded` is one of layout 1, or what an operator inserted there. It may be one of layout 2 already, if `events` was
    dropped and an insert has made a usual collection again.
    """
    if encoded.startswith(OLD_ID, SIZE.size) and encoded.startswith(TENANT_ID, OLD_ID_BYTES):
        event_id = encoded[OLD_ID_BYTES - UUID_BYTES : OLD_ID_BYTES]
        tenant_id = encoded[OLD_IDS_BYTES - UUID_BYTES : OLD_IDS_BYTES]
        own = ID_START + tenant_id + EVENT_ID + event_id + END + encoded[OLD_IDS_BYTES:]
        return RawBSONDocument(SIZE.pack(SIZE.size + len(own)) + own, LAZY)
    fields = dict(RawBSONDocument(encoded, LAZY))
    own_id = fields["_id"]
    if isinstance(own_id, RawBSONDocument) and list(own_id) == ["tenant_id", "id"] and "tenant_id" not in fields:
        return RawBSONDocument(encoded, LAZY)
    ids = {"tenant_id": fields.pop("tenant_id", None), "id": fields.pop("_id")}
    return RawBSONDocument(bson.encode({"_id": ids, **fields}, codec_options=LAZY), LAZY)


def may_hold_non_finite(encoded: bytes) -> bool:
    """Whether a document may hold a double that is infinite or NaN. It is quick, and wrong only in that it says True.

    The ids at the start of a document that Sluice encoded are left out: one in five has such a byte.
    """
    start = SIZE_AND_ID_BYTES if encoded.startswith(ID_START, SIZE.size) else 0
    return any(encoded.find(end, start) >= 0 for end in NON_FINITE_ENDS)


def json_value(value: Any) -> Any:
    """A BSON value with dictionaries for objects, and no float that JSON does not have."""
    match value:
        case RawBSONDocument() | dict():
            return {key: json_value(item) for key, item in value.items()}
        case list():
            return [json_value(item) for item in value]
        case float() if not math.isfinite(value):
            return json_form(value)
        case bytes() if type(value) is bytes:
            return Binary(value)
    return value


def json_form(value: Any) -> Any:
    """What is encoded instead of a value that is not JSON: an int for an Int64, else Extended JSON."""
    match value:
        case Int64():
            return int(value)
        case RawBSONDocument() | dict():  # inside Extended JSON, such as the scope of code
            return json_value(dict(value))
    return json_util.default(value, json_util.RELAXED_JSON_OPTIONS)


encode_json = msgspec.json.Encoder(enc_hook=json_form).encode


def uuid_or_json(value: Any) -> UUID | msgspec.Raw:
    """A UUID. Any other value as JSON."""
    if type(value) is Binary and value.subtype == UUID_SUBTYPE and len(value) == UUID_BYTES:
        return UUID(bytes=value)
    return msgspec.Raw(encode_json(json_value(value)))


def text_or_json(value: Any) -> str | msgspec.Raw:
    """A string. Any other value as JSON."""
    return value if type(value) is str else msgspec.Raw(encode_json(json_value(value)))


def time_or_json(value: Any) -> datetime | msgspec.Raw:
    """A time in the years 1 to 9999. Any other value as JSON."""
    if isinstance(value, DatetimeMS) and MIN_MS <= int(value) <= MAX_MS:
        return from_milliseconds(int(value))
    return msgspec.Raw(encode_json(json_value(value)))
