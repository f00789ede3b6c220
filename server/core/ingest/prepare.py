"""A batch that is prepared for the store, and what is done if one of its events cannot be stored."""

from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from server.core.errors import EventError, InvalidBatch
from server.core.events.decode import find_event_error
from server.core.events.ids import BatchIds, Seed, with_seed
from server.core.events.model import MAX_EVENT_BYTES, MAX_LISTED_ERRORS, BatchInfo, DecodedBatch, Event
from server.core.ingest.store import Unstorable
from server.core.slow_work import Steps

Encode = Callable[[BatchInfo, Sequence[bytes], Sequence[Event], Sequence[int | None]], list[bytes]]
"""`EventStore.encode`."""


class PreparedBatch(Struct, frozen=True):
    """A batch as it goes to the store."""

    info: BatchInfo
    seed: Seed
    documents: list[bytes]
    ids: list[str]
    event_types: list[str]
    indexes: Sequence[int]
    """Where each event is in the request."""
    errors: list[EventError]


def preparing_each(
    encode: Encode, info: BatchInfo, seed: Seed, ids: BatchIds, batch: DecodedBatch
) -> Steps[PreparedBatch]:
    """Encode a batch event by event, to find every event that cannot be stored."""
    indexes: list[int] = []
    prepared = PreparedBatch(info, seed, [], [], [], indexes, list(batch.errors))
    rows = zip(batch.indexes, batch.events, batch.times, ids.binary, ids.text, strict=True)
    for index, event, time, binary_id, text_id in rows:
        document = encode_one(encode, info, binary_id, event, time, index)
        if isinstance(document, EventError):
            prepared.errors.append(document)
        else:
            prepared.documents.append(document)
            prepared.ids.append(text_id)
            prepared.event_types.append(event.type)
            indexes.append(index)
        yield
    return prepared


def encode_one(
    encode: Encode, info: BatchInfo, event_id: bytes, event: Event, time: int | None, index: int
) -> bytes | EventError:
    """The stored form of an event, or what is wrong with it."""
    try:
        document = encode(info, [event_id], [event], [time])[0]
    except Unstorable:
        return find_event_error(event, index) or EventError(index, f"events[{index}]", "Cannot be stored")
    if len(document) > MAX_EVENT_BYTES:
        return EventError(index, f"events[{index}]", f"{len(document)} bytes as BSON; at most {MAX_EVENT_BYTES}")
    return document


def as_replay(prepared: PreparedBatch, seed: Seed) -> PreparedBatch:
    """A batch with the time and the ids of the seed in its idempotency record, and without documents."""
    info = replace(prepared.info, received_at_ms=seed.received_at_ms)
    return replace(prepared, info=info, seed=seed, ids=with_seed(prepared.ids, seed), documents=[])


def invalid_batch(
    errors: Sequence[EventError], count: int | None = None, noun: Literal["event", "item"] = "event"
) -> InvalidBatch:
    """The error for bad events, or items: the first in its text, and up to 100 in its list.

    `count` is their number if `errors` are only the first of them.
    """
    errors, count = sorted(errors), count or len(errors)
    first, more = errors[0], count - 1
    others = f" (and {more} more bad {noun}{'s' if more > 1 else ''})" if more else ""
    return InvalidBatch(f"{first.path}: {first.message}{others}", errors[:MAX_LISTED_ERRORS], count=count)
