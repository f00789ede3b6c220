"""What clients send and get back, and the limits on it: batch, event, receipt, stored event.

A `Batch` is validated by decoding into it (`decode.py`). Constructing one validates nothing.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple, cast
from uuid import UUID

import msgspec
from msgspec import Meta, Raw, Struct

from server.core.errors import EventError
from server.core.times import format_time

MAX_NAME_CHARS = 255
"""The length of `source`, `source_id` and `type`: they are index keys, and names rather than content."""

MAX_BATCH_EVENTS = 1_000
"""Events in a batch: enough to spread the cost of a request, few enough to be stored in well under a second."""

MAX_BODY_BYTES = 10 * 1024 * 1024
"""A request's body, both as it arrives and decompressed: what a worker holds for one client."""

MAX_EVENT_BYTES = 1024 * 1024
"""One event as BSON: far below MongoDB's 16 MiB, so that pages of events stay readable."""

MAX_BATCH_BYTES = 32 * 1024 * 1024
"""A batch as BSON: at most 3 commands to MongoDB, and more than a usual body of 10 MiB comes to."""

DEFAULT_PAGE_EVENTS = 100
MAX_PAGE_EVENTS = 1_000
"""Events on a page: 300 kB if they are small."""

MAX_NESTING = 100
"""Levels of `data` and of `metadata`, they being the first: MongoDB's documented bound on BSON."""

MAX_LISTED_ERRORS = 100
"""Bad events listed in one response: enough to see the pattern, few enough to read."""

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "iso-8601"})]
SourceId = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]


class Event(Struct, forbid_unknown_fields=True):
    """One event as a client sends it."""

    type: Annotated[Name, Meta(description="Event type, such as purchase or signup")]
    data: Annotated[dict[str, Any], Meta(description=f"The payload, kept as it is; at most {MAX_NESTING} levels deep")]
    timestamp: Annotated[
        Timestamp | None,
        Meta(description="When it happened: an ISO 8601 date or date-time, UTC unless it says otherwise; default: now"),
    ] = None
    """As text. Decoding parses it into `DecodedBatch.times`."""
    metadata: Annotated[dict[str, Any] | None, Meta(description="Anything about the event, such as an SDK version")] = (
        None
    )


encode_event = msgspec.json.Encoder().encode
decode_event = msgspec.json.Decoder(Event).decode


class Batch(Struct, forbid_unknown_fields=True):
    """A request's body: events of one source."""

    source: Annotated[Name, Meta(description="Where the events come from, such as backend or etl")]
    events: Annotated[list[Event], Meta(min_length=1, max_length=MAX_BATCH_EVENTS)]
    source_id: Annotated[SourceId | None, Meta(description="Which instance of the source")] = None


class PackedEvents(Sequence[Event]):
    """Events that are held as JSON, and decoded when they are used: as values they take up to 30 times the memory."""

    def __init__(self) -> None:
        self._packed = list[bytes]()

    def append(self, event: Event) -> None:
        """Add an event, which must be one that can be stored."""
        self._packed.append(encode_event(event))

    def append_json(self, text: bytes) -> None:
        """Add an event by its JSON, which must decode."""
        self._packed.append(text)

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, at: Any) -> Any:
        return decode_event(self._packed[at])


class EventList(list[Event]):
    """Events that are held as values, with the methods of PackedEvents."""

    def append_json(self, text: bytes) -> None:
        """Add an event by its JSON, which must decode."""
        self.append(decode_event(text))


class DecodedBatch(Struct, frozen=True):
    """A decoded batch: its well-formed `events`, their `indexes` in the request, and the `errors` of the other events.

    `times` are the timestamps of `events` in milliseconds since 1970; None is the time of receipt.
    """

    source: str
    source_id: str | None
    events: Sequence[Event]
    times: Sequence[int | None]
    indexes: Sequence[int]
    errors: list[EventError]


class BatchInfo(Struct, frozen=True):
    """What the events of one stored batch have in common."""

    tenant_id: UUID
    source: str
    source_id: str | None
    received_at_ms: int
    """Milliseconds since 1970."""


class Receipt(Struct, frozen=True):
    """What was stored: the ids and types of the events, in the order sent; and what lenient handling rejected."""

    info: BatchInfo
    ids: list[str]
    event_types: list[str]
    rejected: list[EventError]
    lenient: bool
    """Whether lenient handling was asked for."""
    replayed: bool
    """Whether an earlier request had the same idempotency key."""
    already_stored: int
    """Of the events, those that another request with the same idempotency key had stored."""


class StoredEvent(NamedTuple):
    """An event as it reads back. `data` and `metadata` are encoded as JSON.

    Any other value is encoded as JSON too if it is not what Sluice stores there: if it is missing, or of another type.
    """

    id: UUID | Raw
    tenant_id: UUID | Raw
    source: str | Raw
    source_id: str | Raw
    event_type: str | Raw
    data: Raw
    timestamp: datetime | Raw
    received_at: datetime | Raw
    metadata: Raw


class EventBody(Struct):
    """A stored event in JSON, as lists and exports show it."""

    id: str
    tenant_id: str
    source: str
    source_id: str | None
    event_type: str
    data: dict[str, Any]
    timestamp: str
    received_at: str
    metadata: dict[str, Any] | None


def body_of(event: StoredEvent) -> EventBody:
    """A stored event as it is shown."""
    return EventBody(
        id=text_of(event.id),
        tenant_id=text_of(event.tenant_id),
        source=text_of(event.source),
        source_id=text_of(event.source_id),
        event_type=text_of(event.event_type),
        data=cast("Any", event.data),
        timestamp=text_of(event.timestamp),
        received_at=text_of(event.received_at),
        metadata=cast("Any", event.metadata),
    )


def text_of(value: UUID | datetime | str | Raw) -> Any:
    """A value as the text that it is shown as. JSON stays as it is."""
    match value:
        case UUID():
            return str(value)
        case datetime():
            return format_time(value)
    return value


class EventFilter(NamedTuple):
    """Which events to read; None matches all.

    `since` is inclusive and `until` exclusive, both on `received_at`, in milliseconds since 1970.
    """

    source: str | None = None
    event_type: str | None = None
    source_id: str | None = None
    since: int | None = None
    until: int | None = None

    def names(self) -> dict[str, str | None]:
        """The fields that are compared as text."""
        return {"source": self.source, "event_type": self.event_type, "source_id": self.source_id}
