"""Stores raw bodies: items without a limit on their number, in batches of at most 1,000, in order.

A body is cut into pieces, and each piece is stored as a batch by `ingest.py`. The next piece is decoded while one is
stored. Handling is lenient unless the client asks for strict handling: then the body is one piece, all or nothing.

With an idempotency key each piece has a key of its own, made from that of the body, and all that `idempotency.py` says
holds for it. So a retry stores what is missing and no event twice, whichever worker takes it, and whichever pieces were
stored before a crash. `dedupe=content` makes the key of a body from its content.

The fingerprint of each piece has that of the whole body in it. The first piece that is stored has the key of the body
itself. So another body under the same key conflicts at its first piece, before any of its events is stored.

Example: a body of 2,500 lines under the key K. Pieces [0, 1000) with key K and [1000, 2000) with key "K\\n1000" are
stored, and the worker is killed. The retry finds both records, inserts nothing of these, stores [2000, 2500) with key
"K\\n2000", and answers 201 with 2,500 events, as a replay.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from server.core.access.keys import Credentials
from server.core.deadline import REQUEST_TIMEOUT_S, Deadline
from server.core.errors import EventError, InvalidBatch, Unavailable
from server.core.events.items import MAX_PIECE_BYTES, Items, taking_piece
from server.core.events.model import MAX_BATCH_EVENTS, MAX_LISTED_ERRORS, DecodedBatch
from server.core.events.raw import ItemDecoder
from server.core.fair_limit import FairLimit
from server.core.in_flight import Arrived, InFlight
from server.core.ingest.idempotency import fingerprinting
from server.core.ingest.ingest import AdmittedRequest, Ingest, Ingested, IngestOptions, Submission
from server.core.ingest.prepare import invalid_batch
from server.core.slow_work import SlowWork, Steps

T = TypeVar("T")

PROGRESS_TIMEOUT_S = 30.0
"""How long a body may wait for its turn, and then for its next piece. There is no limit on the whole body: millions of
small items take a minute. Each piece has the time of a request in it."""

MAX_BYTES, MAX_TENANT_BYTES = 60 * 1024 * 1024, 40 * 1024 * 1024
"""Bodies that are worked on at a time, in all and of one tenant: enough of them that the database is always busy."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Bodies that wait for their turn: as much as may arrive at a time."""

HASHED_BYTES = 256 * 1024
"""What is hashed in one step, which takes some 0.5 ms."""

COMPLETE = "retry after the time in Retry-After, with the same Idempotency-Key or dedupe=content, to store the rest"
WOULD_DOUBLE = "a retry would store them again, since the request had neither an Idempotency-Key nor dedupe=content"

NO_CAPACITY = "This server holds as many raw bodies as it can: retry after the time in Retry-After"
TOO_MANY = f"items: over {MAX_BATCH_EVENTS} given; strict handling is possible up to {MAX_BATCH_EVENTS}"
NO_ITEMS = "items: 0 given, at least 1 needed"


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


class BodyKey(NamedTuple):
    """The idempotency key of a body, and the fingerprint of the whole body."""

    key: str
    fingerprint: bytes


class Piece(NamedTuple):
    """Items that are stored as one batch."""

    first: int
    """The index of its first item in the body."""
    items: list[bytes]
    batch: DecodedBatch


class RawIngest:
    """Stores raw bodies by `ingest`, within the limits of `in_flight`."""

    def __init__(self, ingest: Ingest, in_flight: InFlight) -> None:
        self._ingest = ingest
        self._in_flight = in_flight
        self._bodies = FairLimit(MAX_BYTES, MAX_TENANT_BYTES)
        self._waiting_bytes = 0

    async def __call__(
        self, credentials: Credentials, read: Callable[[AdmittedRequest], Awaitable[RawBody]]
    ) -> Ingested[RawReceipt]:
        """Admit a request, `read` its body and store it.

        Raises what `Ingest.handle`, `read` and `Ingest.store` do. Unavailable says how many events are stored.
        """
        try:
            return await self._ingest.handle(credentials, read, self._store)
        except Unavailable as error:
            error.events_received = error.events_received or 0
            raise

    async def _store(self, request: AdmittedRequest, body: RawBody) -> RawReceipt:
        """Store a body when it is its turn. The limits on what is in flight count only a piece that is being stored."""
        request.slot.release()
        await self._wait_for_turn(request, body)
        try:
            return await BodyIngest(self._ingest, self._in_flight, request, body).run()
        finally:
            self._bodies.add(request.tenant_id, -body.size)

    async def _wait_for_turn(self, request: AdmittedRequest, body: RawBody) -> None:
        """Return when the body may be worked on. Raises Unavailable."""
        if self._bodies.try_acquire(request.tenant_id, body.size):
            return
        if self._waiting_bytes + body.size > MAX_WAITING_BYTES:
            raise Unavailable("not_stored", NO_CAPACITY)
        self._waiting_bytes += body.size
        try:
            acquired = self._bodies.acquire(request.tenant_id, body.size, Deadline(PROGRESS_TIMEOUT_S))
            await body.unless_gone(acquired)
        except TimeoutError:
            raise Unavailable("not_stored", NO_CAPACITY) from None
        finally:
            self._waiting_bytes -= body.size


class BodyIngest:
    """Stores one body, piece by piece."""

    def __init__(self, ingest: Ingest, in_flight: InFlight, request: AdmittedRequest, body: RawBody) -> None:
        self._ingest = ingest
        self._in_flight = in_flight
        self._tenant_id: UUID = request.tenant_id
        self._slow_work: SlowWork = request.slow_work
        self._body = body
        self._deadline = Deadline(PROGRESS_TIMEOUT_S)
        self._stored = self._rejected = 0
        self._errors = list[EventError]()
        self._replayed = False

    async def run(self) -> RawReceipt:
        """Store the body. Raises what `Ingest.store` does; Unavailable says how many events are stored."""
        try:
            key = await self._body_key()
            items = await self._slowly(self._body.items())
            await self._store_pieces(items, key)
        except Unavailable as error:
            raise self._interrupted(error) from None
        if not self._stored:
            raise invalid_items(self._errors, self._rejected) if self._rejected else InvalidBatch(NO_ITEMS)
        return RawReceipt(self._stored, self._errors, self._replayed)

    async def _store_pieces(self, items: Items, key: BodyKey | None) -> None:
        """Store one piece after the other. The next one is decoded meanwhile."""
        piece = await self._slowly(self._decoding_piece(items, 0))
        while piece is not None:
            following = asyncio.ensure_future(self._slowly(self._decoding_piece(items, piece.first + len(piece.items))))
            try:
                await self._store_piece(piece, key)
                piece = await following
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                del following  # or an error of it would hold itself, and the piece

    async def _store_piece(self, piece: Piece, key: BodyKey | None) -> None:
        """Store a piece, and count what was stored of it. A piece without a good item is no error."""
        self._deadline.reset(PROGRESS_TIMEOUT_S)
        deadline = Deadline(min(REQUEST_TIMEOUT_S, self._deadline.remaining()))
        submission = self._submission(piece, key)
        try:
            async with asyncio.timeout(deadline.remaining()):
                await self._in_flight.wait_for_capacity()
        except TimeoutError:
            raise Unavailable("not_stored") from None
        with self._in_flight.slot(Arrived(submission.size, len(piece.items))) as slot:
            request = AdmittedRequest(self._tenant_id, slot, deadline, self._slow_work)
            try:
                receipt = await self._ingest.store(request, submission)
            except InvalidBatch as error:
                if not self._body.lenient:
                    raise invalid_items(errors_of_items(error.errors), error.count) from None
                self._reject(error.errors, len(piece.items))
                return
        self._stored += len(receipt.ids)
        self._replayed = self._replayed or receipt.replayed
        self._reject(receipt.rejected, len(receipt.rejected))

    def _submission(self, piece: Piece, key: BodyKey | None) -> Submission:
        """A piece as a batch."""

        async def decode_slowly() -> DecodedBatch:
            return await self._slowly(self._body.decoder.decoding(piece.items, piece.first, slowly=True))

        options, fingerprint = IngestOptions(None, self._body.lenient), None
        if key is not None:
            name = f"{key.key}\n{piece.first}" if self._stored else key.key  # no client's key has a line feed
            options = replace(options, idempotency_key=name)
            place = b"%d %d" % (piece.first, len(piece.items))
            fingerprint = sha256(key.fingerprint + place).digest()
        return Submission(piece.batch, options, sum(map(len, piece.items)), decode_slowly, fingerprint)

    def _reject(self, errors: Sequence[EventError], count: int) -> None:
        """Count rejected items, of which `errors` are the first."""
        self._rejected += count
        self._errors += errors_of_items(errors[: MAX_LISTED_ERRORS - len(self._errors)])

    def _interrupted(self, error: Unavailable) -> Unavailable:
        """The error for a body of which a piece could not be stored."""
        if not self._stored:
            return error
        is_keyed = self._body.content is not None or self._body.idempotency_key is not None
        detail = f"{self._stored} events of the body are stored, and others may be: "
        detail += COMPLETE if is_keyed else WOULD_DOUBLE
        return Unavailable("unknown", detail, self._stored)

    async def _body_key(self) -> BodyKey | None:
        """The idempotency key of the body. Without one, its events cannot be told from others."""
        if self._body.content is not None:
            digest = await self._slowly(hashing([self._tenant_id.bytes, *self._body.content]))
            return BodyKey("\n" + digest.hex(), digest + bytes([self._body.lenient]))
        if self._body.idempotency_key is None:
            return None
        items = await self._slowly(self._body.items())
        return BodyKey(self._body.idempotency_key, await self._slowly(self._fingerprinting(items)))

    def _fingerprinting(self, items: Items) -> Steps[bytes]:
        """The fingerprint of the whole body: of the values of its items, as that of a batch."""
        whole, first = sha256(), 0
        while piece := (yield from self._decoding_piece(items, first)):
            try:
                whole.update((yield from fingerprinting(piece.batch, piece.batch.errors, self._body.lenient)))
            except RecursionError:  # an event is nested too deeply to be encoded: it will be rejected
                whole.update((yield from hashing(piece.items)))
            first += len(piece.items)
        return whole.digest()

    def _decoding_piece(self, items: Items, first: int) -> Steps[Piece | None]:
        """The next piece, decoded; None if no item is left. Raises InvalidBatch for too many under strict handling."""
        strict = not self._body.lenient
        most = MAX_BATCH_EVENTS + strict  # one more shows that they are too many
        taken = yield from taking_piece(items, most, float("inf") if strict else MAX_PIECE_BYTES)
        if len(taken) > MAX_BATCH_EVENTS:
            raise InvalidBatch(TOO_MANY)
        if not taken:
            return None
        return Piece(first, taken, (yield from self._body.decoder.decoding(taken, first, slowly=False)))

    async def _slowly(self, steps: Steps[T]) -> T:
        """What `steps` returns, which work on a piece of the body."""
        size = min(self._body.size, MAX_PIECE_BYTES)
        return await self._body.unless_gone(self._slow_work(steps, size, self._tenant_id, self._deadline))


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
