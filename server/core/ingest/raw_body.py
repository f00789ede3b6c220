"""A raw body: its pieces of at most 1,000 items, and its fingerprint. `body_ingest.py` stores it."""

from collections.abc import Callable, Coroutine, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from server.core.errors import EventError, InvalidBatch
from server.core.events.items import MAX_PIECE_BYTES, Items, taking_piece
from server.core.events.model import MAX_BATCH_EVENTS, DecodedBatch
from server.core.events.raw import ItemDecoder
from server.core.ingest.idempotency import fingerprinting
from server.core.ingest.prepare import invalid_batch
from server.core.slow_work import Steps

T = TypeVar("T")

HASHED_BYTES = 256 * 1024
"""What is hashed in one step, which takes some 0.5 ms."""

TOO_MANY = f"items: over {MAX_BATCH_EVENTS} given; strict handling is possible up to {MAX_BATCH_EVENTS}"


class Watch(Protocol):
    """Waits for work, and raises ClientGone if the client goes away meanwhile."""

    async def __call__(self, work: Coroutine[Any, Any, T], /) -> T:
        """The result of `work`."""


class RawBody(Struct):
    """A body, and what its client asks for."""

    size: int
    """In bytes."""
    items: Callable[[], Steps[Items]]
    """Begins to split it, which raises MalformedJson if it is not JSON as a whole."""
    decoder: ItemDecoder
    lenient: bool
    idempotency_key: str | None
    content: list[bytes] | None
    """What makes the key of the body, if it is to be made from its content."""
    unless_gone: Watch


class RawReceipt(NamedTuple):
    """What was stored of a body."""

    events_received: int
    errors: list[EventError]
    """The first of the items that were rejected."""
    replayed: bool


class Piece(NamedTuple):
    """Items that are stored as one batch."""

    first: int
    """The index of its first item in the body."""
    items: list[bytes]
    batch: DecodedBatch


def fingerprinting_body(body: RawBody, items: Items) -> Steps[bytes]:
    """The fingerprint of the whole body: of the values of its items, as that of a batch."""
    whole, first = sha256(), 0
    while piece := (yield from decoding_piece(body, items, first)):
        try:
            whole.update((yield from fingerprinting(piece.batch, piece.batch.errors, body.lenient)))
        except RecursionError:  # an event is nested too deeply to be encoded: it will be rejected
            whole.update((yield from hashing(piece.items)))
        first += len(piece.items)
    return whole.digest()


def decoding_piece(body: RawBody, items: Items, first: int) -> Steps[Piece | None]:
    """The next piece, decoded; None if no item is left. Raises InvalidBatch for too many under strict handling."""
    strict = not body.lenient
    most = MAX_BATCH_EVENTS + strict  # one more shows that they are too many
    taken = yield from taking_piece(items, most, float("inf") if strict else MAX_PIECE_BYTES)
    if len(taken) > MAX_BATCH_EVENTS:
        raise InvalidBatch(TOO_MANY)
    if not taken:
        return None
    return Piece(first, taken, (yield from body.decoder.decoding(taken, first, slowly=False)))


def of_items(path: str) -> str:
    """The path of an item, from that of an event: `items[3].data` instead of `events[3].data`."""
    return "items" + path.removeprefix("events")


def errors_of_items(errors: Sequence[EventError]) -> list[EventError]:
    """The errors of items, from those of events."""
    return [replace(error, path=of_items(error.path)) for error in errors]


def invalid_items(errors: Sequence[EventError], count: int) -> InvalidBatch:
    """The error for a body of which nothing is stored. `errors` are the first of `count` bad items."""
    return invalid_batch(errors, count, "item")


def hashing(parts: list[bytes]) -> Steps[bytes]:
    """A hash of the parts, in steps."""
    digest = sha256()
    for part in parts:
        digest.update(b"%d " % len(part))
        for start in range(0, len(part), HASHED_BYTES):
            digest.update(part[start : start + HASHED_BYTES])
            yield
    return digest.digest()
