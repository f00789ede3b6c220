"""Stores one raw body: items without a limit on their number, in batches of at most 1,000, in order.

A body is cut into pieces, and each piece is stored as a batch by `ingest.py`. Two pieces are stored at a time, and the
next one is decoded meanwhile. Each has a later time of receipt than the one before, by 1 ms at least, so ids ascend in
the order of the items. Only if a fault stopped a piece, and not the one behind it, a retry gives it the later ids.
Handling is lenient unless the client asks for strict handling: then the body is one piece, all or nothing.

With an idempotency key each piece has a key of its own, made from that of the body, and all that `idempotency.py` says
holds for it. So a retry stores what is missing and no event twice, whichever worker takes it, and whichever pieces were
stored before a crash. `dedupe=content` makes the key of a body from its content.

The fingerprint of each piece has that of the whole body in it. The first piece that is stored has the key of the body
itself. So another body under the same key conflicts at its first piece, before any of its events is stored.

An index of the operator may refuse all of the first piece, so that the second one gets the key. In a retry the first
piece conflicts then, and the second one shows that it is the same body. So as long as nothing is stored, a piece that
conflicts counts as rejected, and the next one is tried under the key. If every piece conflicts, it is another body.

When a request ends, also because its client has gone, it saves how many items are settled. A retry passes over them.
So a client that waits for a few seconds only comes further with each retry. It is no more than a short cut: after a
crash, a retry looks at each piece.

Example: a body of 2,500 lines under the key K. Pieces [0, 1000) with key K and [1000, 2000) with key "K\\n1000" are
stored, and the worker is killed. The retry finds both records, inserts nothing of these, stores [2000, 2500) with key
"K\\n2000", and answers 201 with 2,500 events, as a replay. It saves that 2,500 items are settled, so another retry
looks at the first piece only.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from time import perf_counter_ns, time_ns
from typing import NamedTuple, TypeVar
from uuid import UUID

from msgspec.structs import replace

from server.core.access.key_check import KeyCheck
from server.core.deadline import REQUEST_TIMEOUT_S, Deadline
from server.core.errors import EventError, IdempotencyConflict, InvalidBatch, Unauthenticated, Unavailable
from server.core.events.items import MAX_PIECE_BYTES, Items, passing
from server.core.events.model import MAX_LISTED_ERRORS, DecodedBatch
from server.core.in_flight import Arrived, InFlight
from server.core.ingest.idempotency import record_id
from server.core.ingest.ingest import AdmittedRequest, Ingest, IngestOptions, Submission
from server.core.ingest.raw_body import (
    Piece,
    RawBody,
    RawReceipt,
    decoding_piece,
    errors_of_items,
    fingerprinting_body,
    hashing,
    invalid_items,
)
from server.core.ingest.store import BodyProgress, ProgressStore
from server.core.ordered import Ordered
from server.core.slow_work import SlowWork, Steps
from server.core.times import NS_PER_MS

T = TypeVar("T")

PROGRESS_TIMEOUT_S = 30.0
"""How long a body may wait for its turn, and then for its next piece. There is no limit on the whole body: millions of
small items take a minute. Each piece has the time of a request in it."""

COMPLETE = "retry after the time in Retry-After, with the same Idempotency-Key or dedupe=content, to store the rest"
WOULD_DOUBLE = "a retry would store them again, since the request had neither an Idempotency-Key nor dedupe=content"

PIECES_AT_ONCE = 2
"""Pieces that are being stored: one is written to the journal while the database reads the next."""

SAVE_TIMEOUT_S = 1.0
"""How long saving the progress may take. If the database is away, the client waits for its 503 meanwhile."""

NO_ITEMS = "items: 0 given, at least 1 needed"

REJECTED_BEFORE = "Rejected by an index or the validator of the collection when this body was sent before"


class BodyKey(NamedTuple):
    """The idempotency key of a body, and the fingerprint of the whole body."""

    key: str
    fingerprint: bytes

    def progress_id(self, tenant_id: UUID) -> bytes:
        """The id of the progress of just this body. No key of a client or a piece has two line feeds."""
        return record_id(tenant_id, f"{self.key}\n\n{self.fingerprint.hex()}")


class Settled(NamedTuple):
    """What became of a piece."""

    end: int
    """The index of the first item behind it."""
    stored: int
    errors: Sequence[EventError]
    """The first of the items that were rejected."""
    rejected: int
    replayed: bool


class BodyIngest:
    """Stores one body, piece by piece."""

    def __init__(
        self,
        ingest: Ingest,
        in_flight: InFlight,
        store: ProgressStore,
        request: AdmittedRequest,
        body: RawBody,
    ) -> None:
        self._ingest = ingest
        self._in_flight = in_flight
        self._store = store
        self._origin = request.origin
        self._tenant_id: UUID = request.tenant_id
        self._key_check: KeyCheck = request.key_check
        self._slow_work: SlowWork = request.slow_work
        self._body = body
        self._deadline = Deadline(PROGRESS_TIMEOUT_S)
        self._received_at_ms = 0
        """Of the piece that was begun last."""
        self._progress = BodyProgress()
        self._saved_items = 0
        self._replayed = False
        self._conflict: IdempotencyConflict | None = None
        """Of a piece that came before any that is stored."""

    async def run(self) -> RawReceipt:
        """Store the body. Raises what `Ingest.store` does; Unavailable says how many events are stored."""
        try:
            key = await self._body_key()
            items = await self._slowly(self._body.items())
            try:
                await self._store_pieces(items, key)
            finally:
                await self._save_progress(key)
        except Unavailable as error:
            raise self._interrupted(error) from None
        progress = self._progress
        if not progress.stored:
            if self._conflict is not None:
                raise self._conflict
            raise invalid_items(progress.errors, progress.rejected) if progress.rejected else InvalidBatch(NO_ITEMS)
        return RawReceipt(progress.stored, progress.errors, self._replayed)

    async def _store_pieces(self, items: Items, key: BodyKey | None) -> None:
        """Store the pieces in order, some at a time. The next one is decoded meanwhile."""
        piece = await self._next_piece(items, 0)
        self._saved_items = 0 if piece is None else len(piece.items)  # progress of one piece would tell nothing
        async with Ordered[Piece | None]() as following, Ordered[Settled]() as storing:
            while piece is not None:
                was_replayed = self._replayed
                storing.begin(self._store_piece(piece, key))
                following.begin(self._next_piece(items, piece.first + len(piece.items)))
                await self._settle(storing, PIECES_AT_ONCE - 1 if self._progress.stored else 0)
                piece = await following.take()
                is_first_replay = self._replayed and not was_replayed
                if key is not None and is_first_replay and (piece is not None or self._conflict is not None):
                    await self._settle(storing, 0)
                    piece = await self._pass_over_settled(piece, items, key)
            await self._settle(storing, 0)

    async def _next_piece(self, items: Items, first: int) -> Piece | None:
        """Decode the piece that begins with the item number `first`; None at the end of the body."""
        started_ns = perf_counter_ns()
        try:
            return await self._slowly(decoding_piece(self._body, items, first))
        finally:
            self._origin.end_step("decode", started_ns)

    async def _pass_over_settled(self, piece: Piece | None, items: Items, key: BodyKey) -> Piece | None:
        """The piece from which on nothing is settled: `piece`, or one that comes later. Raises Unavailable.

        What was saved also says why items were rejected before.
        """
        progress = await self._store.find_progress(key.progress_id(self._tenant_id), Deadline())
        settled_items = self._progress.items
        if progress is None or progress.items < settled_items:
            return piece
        self._progress, self._saved_items = progress, progress.items
        if piece is None or progress.items == settled_items:
            return piece
        await self._slowly(passing(items, progress.items - piece.first - len(piece.items)))
        return await self._next_piece(items, progress.items)

    async def _save_progress(self, key: BodyKey | None) -> None:
        """Save how far the body is settled, if that is further than what is saved. Without it, a retry takes longer."""
        if key is not None and self._progress.items > self._saved_items and self._progress.stored:
            own_id, deadline = key.progress_id(self._tenant_id), Deadline(SAVE_TIMEOUT_S)
            with suppress(Unavailable, Unauthenticated):
                await self._key_check.renew(deadline)  # else it could come after the tenant was deleted
                await self._store.save_progress(own_id, self._tenant_id, self._progress, deadline)

    async def _store_piece(self, piece: Piece, key: BodyKey | None) -> Settled:
        """Store a piece. One without a good item is no error."""
        self._deadline.reset(PROGRESS_TIMEOUT_S)
        deadline = Deadline(min(REQUEST_TIMEOUT_S, self._deadline.remaining()))
        submission, end = self._submission(piece, key), piece.first + len(piece.items)
        try:
            async with asyncio.timeout(deadline.remaining()):
                await self._in_flight.wait_for_capacity()
        except TimeoutError:
            raise Unavailable("not_stored") from None
        with self._in_flight.slot(Arrived(submission.size, len(piece.items))) as slot:
            request = AdmittedRequest(self._origin, self._tenant_id, self._key_check, slot, deadline, self._slow_work)
            try:
                receipt = await self._ingest.store(request, submission)
                self._note_rejected()
            except InvalidBatch as error:
                if not self._body.lenient:
                    raise invalid_items(errors_of_items(error.errors), error.count) from None
                return Settled(end, 0, error.errors, len(piece.items), replayed=False)
            except Unauthenticated:  # the key was revoked meanwhile
                if not self._progress.stored:
                    raise
                raise Unavailable from None  # it says how much is stored
            except IdempotencyConflict as error:
                if self._progress.stored:
                    raise
                self._conflict = error
                return Settled(end, 0, rejected_before(piece), len(piece.items), replayed=False)
        return Settled(end, len(receipt.ids), receipt.rejected, len(receipt.rejected), receipt.replayed)

    def _submission(self, piece: Piece, key: BodyKey | None) -> Submission:
        """A piece as a batch."""

        async def decode_slowly() -> DecodedBatch:
            return await self._slowly(self._body.decoder.decoding(piece.items, piece.first, slowly=True))

        options, fingerprint = IngestOptions(None, self._body.lenient), None
        if key is not None:
            name = f"{key.key}\n{piece.first}" if self._progress.stored else key.key  # no client's key has a line feed
            options = replace(options, idempotency_key=name)
            place = b"%d %d" % (piece.first, len(piece.items))
            fingerprint = sha256(key.fingerprint + place).digest()
        size = sum(map(len, piece.items))
        return Submission(piece.batch, options, size, decode_slowly, fingerprint, self._next_time_ms())

    def _next_time_ms(self) -> int:
        """The time of receipt of the piece that is begun now. Two pieces of one millisecond would mix their ids."""
        self._received_at_ms = max(self._received_at_ms + 1, time_ns() // NS_PER_MS)
        return self._received_at_ms

    async def _settle(self, storing: Ordered[Settled], left: int) -> None:
        """Wait until no more than `left` pieces are being stored, and count what became of the others."""
        progress = self._progress
        while len(storing) > left:
            piece = await storing.take()
            self._replayed = self._replayed or piece.replayed
            progress.items = piece.end
            progress.stored += piece.stored
            progress.rejected += piece.rejected
            progress.errors += errors_of_items(piece.errors[: MAX_LISTED_ERRORS - len(progress.errors)])
            self._note_rejected()

    def _note_rejected(self) -> None:
        """Note which items of the body are rejected so far. A piece that is stored notes only its own, as events."""
        progress = self._progress
        self._origin.partly_rejected = invalid_items(progress.errors, progress.rejected) if progress.rejected else None

    def _interrupted(self, error: Unavailable) -> Unavailable:
        """The error for a body of which a piece could not be stored."""
        stored = self._progress.stored
        if not stored:
            return error
        is_keyed = self._body.content is not None or self._body.idempotency_key is not None
        detail = f"{stored} events of the body are stored, and others may be: "
        detail += COMPLETE if is_keyed else WOULD_DOUBLE
        return Unavailable("unknown", detail, stored)

    async def _body_key(self) -> BodyKey | None:
        """The idempotency key of the body. Without one, its events cannot be told from others."""
        if self._body.content is not None:
            digest = await self._slowly(hashing([self._tenant_id.bytes, *self._body.content]))
            return BodyKey("\n" + digest.hex(), digest + bytes([self._body.lenient]))
        if self._body.idempotency_key is None:
            return None
        items = await self._slowly(self._body.items())
        return BodyKey(self._body.idempotency_key, await self._slowly(fingerprinting_body(self._body, items)))

    async def _slowly(self, steps: Steps[T]) -> T:
        """What `steps` returns, which work on a piece of the body."""
        size = min(self._body.size, MAX_PIECE_BYTES)
        return await self._body.unless_gone(self._slow_work(steps, size, self._tenant_id, self._deadline))


def rejected_before(piece: Piece) -> list[EventError]:
    """The errors of the first items of a piece that was rejected when its body was sent before."""
    indexes = range(piece.first, piece.first + min(len(piece.items), MAX_LISTED_ERRORS))
    return [EventError(index, f"events[{index}]", REJECTED_BEFORE) for index in indexes]
