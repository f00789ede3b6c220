"""What callers send and what they get back: batch, event and receipt, and the limits on them. Imports the errors.

A `Batch` is checked by decoding into it (`server.core.decode`); constructing one checks nothing. Limits are the
contract's; each says why it is there.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from msgspec import Meta, Struct

from server.core.errors import Problem

MAX_NAME_CHARS = 255
"""`source`, `source_id` and `type`: they are index keys, and names rather than content."""

MAX_EVENTS = 1_000
"""Events in a batch: enough to spread a request's cost, few enough to answer in well under a second."""

MAX_BODY_BYTES = 10 * 1024 * 1024
"""A request's body, compressed or not: what a worker is willing to hold for one caller."""

MAX_EVENT_BYTES = 1024 * 1024
"""One event as BSON: far below MongoDB's 16 MiB, so that pages of events stay readable."""

MAX_BATCH_BYTES = 32 * 1024 * 1024
"""A batch as BSON: three commands to MongoDB at the most, and more than a usual body of the largest size comes to."""

MAX_NESTING = 100
"""Levels of `data` and of `metadata`, they being the first: MongoDB's documented bound on BSON."""

MAX_PROBLEMS = 100
"""Bad events listed in one answer: enough to see the pattern, small enough to read."""

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "iso-8601"})]
SourceId = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]


class Event(Struct, forbid_unknown_fields=True):
    """One event as a caller sends it."""

    type: Annotated[Name, Meta(description="Event type, such as purchase or signup")]
    data: Annotated[dict[str, Any], Meta(description=f"The payload, kept as it is; at most {MAX_NESTING} levels deep")]
    timestamp: Annotated[
        Timestamp | None,
        Meta(description="When it happened: an ISO 8601 date or date-time, UTC unless it says otherwise; default: now"),
    ] = None
    """As text, which only decoding reads: what it comes to is in `Candidate.times`."""
    metadata: Annotated[dict[str, Any] | None, Meta(description="Anything about the event, such as an SDK version")] = (
        None
    )


class Batch(Struct, forbid_unknown_fields=True):
    """A request's body: events of one source."""

    source: Annotated[Name, Meta(description="Where the events come from, such as backend or etl")]
    events: Annotated[list[Event], Meta(min_length=1, max_length=MAX_EVENTS)]
    source_id: Annotated[SourceId | None, Meta(description="Which instance of the source")] = None


class Candidate(NamedTuple):
    """A decoded batch: its well-formed `events`, where each stood (`indexes`), and the `problems` of the others.

    `times` are the events' timestamps in milliseconds since 1970; None is the time of receipt.
    """

    source: str
    source_id: str | None
    events: Sequence[Event]
    times: Sequence[int | None]
    indexes: Sequence[int]
    problems: list[Problem]


class Header(NamedTuple):
    """What the events of one stored batch have in common."""

    tenant_id: UUID
    source: str
    source_id: str | None
    received_at_ms: int
    """Milliseconds since 1970."""


class Receipt(NamedTuple):
    """What was stored: the events' ids and types, in the order sent, and in lenient handling what was left out."""

    header: Header
    ids: list[str]
    event_types: list[str]
    rejected: list[Problem]
    replayed: bool
    """Whether an earlier request had the same idempotency key."""


class StoredEvent(NamedTuple):
    """An event as it reads back."""

    id: UUID
    tenant_id: UUID
    source: str
    source_id: str | None
    event_type: str
    data: dict[str, Any]
    timestamp: datetime
    received_at: datetime
    metadata: dict[str, Any] | None


class EventFilter(NamedTuple):
    """Which events to read; None matches all.

    `since` is inclusive and `until` exclusive, both on `received_at`, in milliseconds since 1970.
    """

    source: str | None = None
    event_type: str | None = None
    source_id: str | None = None
    since: int | None = None
    until: int | None = None
