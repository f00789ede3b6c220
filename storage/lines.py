"""Encodes stored documents as lines of JSON, three times as fast as one by one through `documents.decode`.

An export has millions of them. Nearly all are as Sluice stored them (`documents.encode`): the `_id`, what all events of
a batch have in common, the timestamp, and what the client sent. So the ids and the timestamp are read at their places,
and the common part is decoded once for a batch. Any other document takes the slow way. The text is the same.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import bson
import msgspec
from bson.datetime_ms import DatetimeMS
from bson.errors import InvalidBSON

from server.core.events.model import EventBody, body_of
from server.core.times import MAX_MS, MIN_MS, format_time, from_milliseconds
from storage.documents import (
    BYTES_BEFORE_END,
    END,
    EVENT_ID,
    EVENT_ID_AT,
    ID_START,
    PLAIN,
    REFERENCE,
    SIZE,
    SIZE_AND_ID_BYTES,
    TIMESTAMP,
    UUID_BYTES,
    decode,
    json_form,
    may_hold_non_finite,
)

PART_BYTES = 64 * 1024
"""How much BSON is encoded at a time: some 200 small events, in a millisecond."""

EVENT_ID_NAME_AT = EVENT_ID_AT - len(EVENT_ID)
TENANT_ID_AT = EVENT_ID_NAME_AT - UUID_BYTES
"""Where the name of the event's id and the tenant's id begin, in a document that Sluice stored."""

TIME_BYTES = 8

TIMES_REMEMBERED = 4_096
BATCHES_REMEMBERED = 256
TENANTS_REMEMBERED = 64


class Shared(NamedTuple):
    """What the events of a batch have in common."""

    source: str
    source_id: str | None
    received_at: str


def in_parts(encoded: Sequence[bytes]) -> Iterator[bytes]:
    """The lines of documents, about PART_BYTES at a time."""
    start = size = 0
    for end, document in enumerate(encoded, 1):
        size += len(document)
        if size >= PART_BYTES or end == len(encoded):
            yield lines_of(encoded[start:end])
            start, size = end, 0


def lines_of(encoded: Sequence[bytes]) -> bytes:
    """A line for each document."""
    return encode_lines([stored_body(document) or body_of(decode(document)) for document in encoded])


encode_lines = msgspec.json.Encoder(enc_hook=json_form).encode_lines


def stored_body(encoded: bytes) -> EventBody | None:
    """The event of a document that Sluice stored; None for any other document, and for values that JSON lacks."""
    at = encoded.find(TIMESTAMP, SIZE_AND_ID_BYTES)
    if (
        at < 0
        or not encoded.startswith(ID_START, SIZE.size)
        or not encoded.startswith(EVENT_ID, EVENT_ID_NAME_AT)
        or REFERENCE in encoded
        or may_hold_non_finite(encoded)
    ):
        return None
    shared = shared_of(encoded[SIZE_AND_ID_BYTES:at])
    time_at = at + len(TIMESTAMP)
    own = decode_elements(encoded[time_at + TIME_BYTES : -len(END)])
    timestamp = time_text(int.from_bytes(encoded[time_at : time_at + TIME_BYTES], "little", signed=True))
    if shared is None or own is None or timestamp is None or not is_own(own):
        return None
    own_id = encoded[EVENT_ID_AT:BYTES_BEFORE_END].hex()
    return EventBody(
        id=f"{own_id[:8]}-{own_id[8:12]}-{own_id[12:16]}-{own_id[16:20]}-{own_id[20:]}",
        tenant_id=uuid_text(encoded[TENANT_ID_AT:EVENT_ID_NAME_AT]),
        source=shared.source,
        source_id=shared.source_id,
        event_type=own["event_type"],
        data=own["data"],
        timestamp=timestamp,
        received_at=shared.received_at,
        metadata=own.get("metadata"),
    )


def is_own(own: dict[str, Any]) -> bool:
    """Whether these are the fields that differ between the events of a batch."""
    return (
        type(own.get("event_type")) is str
        and type(own.get("data")) is dict
        and (len(own) == 2 or (len(own) == 3 and type(own.get("metadata")) is dict))
    )


@lru_cache(BATCHES_REMEMBERED)
def shared_of(elements: bytes) -> Shared | None:
    """What the events of a batch have in common; None if these elements are others."""
    fields = decode_elements(elements) or {}
    received = fields.get("received_at")
    received_at = time_text(int(received)) if isinstance(received, DatetimeMS) else None
    match fields:
        case {"source": str(source), "received_at": _, **rest} if received_at is not None:
            match rest:
                case {"source_id": str(source_id)} if len(rest) == 1:
                    return Shared(source, source_id, received_at)
                case {} if not rest:
                    return Shared(source, None, received_at)
    return None


def decode_elements(elements: bytes) -> dict[str, Any] | None:
    """The fields of some elements of a document; None if these bytes are not whole elements."""
    try:
        return bson.decode(SIZE.pack(SIZE.size + len(elements) + len(END)) + elements + END, PLAIN)
    except InvalidBSON:
        return None


@lru_cache(TIMES_REMEMBERED)
def time_text(milliseconds: int) -> str | None:
    """A time as it is shown; None outside the years 1 to 9999."""
    return format_time(from_milliseconds(milliseconds)) if MIN_MS <= milliseconds <= MAX_MS else None


@lru_cache(TENANTS_REMEMBERED)
def uuid_text(value: bytes) -> str:
    """A UUID as text."""
    return str(UUID(bytes=value))
