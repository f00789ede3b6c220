"""Idempotency: a batch that is sent again under its key is stored once, with the same receipt.

Theory of operation. Before any event of a batch is stored, a record is stored: the fingerprint of the batch and the
seed of its ids, under a hash of tenant and key. The record is on disk on a majority, and never changes. Every repeat
finds it, whichever worker, protocol or host takes it. From the seed it makes the same ids. So inserting the events
again stores exactly those that are missing: MongoDB refuses a second document with the same `_id`.

Example with two workers and a crash:
1. Worker 1 gets batch B (3 events) under key K. It draws seed S1 and stores the record (K, fingerprint of B, S1).
2. Worker 1 inserts events 0 and 1, and is killed. The client gets no response.
3. The client sends B again under K. Worker 2 draws seed S2, tries to store its record, and gets back the one with S1.
   The fingerprints are equal, so it is the same batch. The seeds differ, so it is a replay.
4. Worker 2 makes the ids again from S1 and inserts all 3 events. 0 and 1 are stored already; 2 is inserted now.
5. The receipt has the ids and the time of S1, and says that it is a replay.
If B were another batch, its fingerprint would differ in step 3: 422, and nothing is stored.

Before step 4, worker 2 looks whether all events of S1 are stored, which is nearly always so. Then it inserts nothing.

Records are kept for good. One that expired would let a late retry store its batch twice.

A refused batch does not use its key, so its record is removed. The database may refuse an event after it has inserted
others of the batch, and several requests may store the batch at the same time. A request must not undo what another
has acknowledged. So a record has a state, and each change of it is one atomic update:

    open               its batch is being stored, or was stored by the request that made the record
    confirmed          a request that did not insert every event itself is acknowledged. The record names the events
                       that were refused. Every other event stays stored, and every receipt says the same
    refused            set by the request that made the record: no request is acknowledged, all events may be removed
    refused_by_replay  set by another request: the same, but the request that made the record may still be running

1. A request that made the record and inserted every event is acknowledged, and changes nothing. This is the usual case.
2. Any other request that is to be acknowledged first changes `open` to `confirmed`, with the events that were refused
   to it. If it finds `confirmed`, the record counts: it removes what it inserted of the events that the record names.
   If it finds that the batch was refused, it removes all that it inserted: 503.
3. A request whose batch is refused first changes `open` to one of the refused states. If it finds `confirmed`, another
   request has stored the batch, which counts for both. Else it removes what it inserted. The request that made the
   record then removes it too.
4. A request that finds a refused record takes it over: at once if it is `refused`, since all its events may go. If it
   is `refused_by_replay`, only SETTLED_AFTER_S later, when every request that knew it open has ended; 503 until then.
5. In lenient handling a replay may be refused an event that the request that made the record can insert a moment later.
   So if it finds the record open, it confirms refused events only SETTLED_AFTER_S later too; 503 until then.

Example: worker 1 makes record S1, inserts events 0 and 2, and learns that an index refuses event 1. It changes S1 to
`refused`, removes 0 and 2, removes S1, and answers 400. Worker 2 has found S1 meanwhile, when it was open, and inserts
all 3 events, since whatever event 1 collided with is gone. It cannot confirm S1, so it removes them and answers 503.
The client's next retry makes a record of its own.
"""

import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from time import time_ns
from uuid import UUID

import msgspec
from msgspec.structs import replace

from server.core.coalesce import Coalescer
from server.core.deadline import Deadline
from server.core.errors import EventError, IdempotencyConflict, InvalidHeader, Unavailable
from server.core.events.ids import ids_of
from server.core.events.model import MAX_BATCH_EVENTS, DecodedBatch
from server.core.ingest.store import IdempotencyRecord, IdempotencyStore, RecordState
from server.core.slow_work import Steps
from server.core.times import MS_PER_S, NS_PER_MS

MAX_IDEMPOTENCY_KEY_CHARS = 255
"""Room for any id that clients use, such as a path and an offset. Only a hash is stored, so length costs nothing."""

VISIBLE = re.compile(rf"[\x21-\x7e]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}")

GROUPS_AT_ONCE = 2
"""Groups of records in flight: one is written to the journal while the database reads the next."""

SETTLED_AFTER_S = 60
"""When every request that began before has ended, by a wide margin: one may take 10 s, without the arrival of its body,
and its record is made when the body has arrived. The rest is for clocks that differ."""

encode_canonically = msgspec.json.Encoder(order="deterministic").encode
"""Equal values give equal bytes: keys are sorted, and 1 and 1.0 differ."""


class Idempotency:
    """Finds or makes the records in `store`. Records of requests that wait at the same time are stored together.

    `remove_events` removes a tenant's events by their ids.
    """

    def __init__(
        self, store: IdempotencyStore, remove_events: Callable[[UUID, Sequence[bytes], Deadline], Awaitable[None]]
    ) -> None:
        self._store = store
        self._put = Coalescer(store.put, at_once=GROUPS_AT_ONCE)
        self._remove_events = remove_events

    async def __call__(self, record: IdempotencyRecord, deadline: Deadline) -> IdempotencyRecord:
        """The record that counts for the key: `record` itself if it is the first.

        Raises IdempotencyConflict if the key stands for another batch, and Unavailable.
        """
        stored = await self._put(record, deadline)
        if stored.state in ("refused", "refused_by_replay"):
            stored = await self._take_over(stored, record, deadline)
        if stored.fingerprint != record.fingerprint:
            raise IdempotencyConflict
        return stored

    async def confirm(
        self, record: IdempotencyRecord, refused: Sequence[EventError], is_replay: bool, deadline: Deadline
    ) -> IdempotencyRecord | None:
        """Make sure that nothing of the record's batch is undone but the events in `refused`.

        Returns the confirmed record, which may name other refused events; None if the whole batch is refused. Raises
        Unavailable, also if the request that made the record may still insert what was refused to this replay.
        """
        if refused and is_replay and record.state == "open" and not is_settled(record):
            raise Unavailable("unknown")
        return await self._change(record, replace(record, state="confirmed", refused=tuple(refused)), deadline)

    async def refuse(self, record: IdempotencyRecord, is_replay: bool, deadline: Deadline) -> IdempotencyRecord | None:
        """Make sure that no request for the record's batch is confirmed. Returns the confirmed record if one is."""
        state: RecordState = "refused_by_replay" if is_replay else "refused"
        return await self._change(record, replace(record, state=state), deadline)

    async def forget(self, record: IdempotencyRecord, deadline: Deadline) -> None:
        """Remove a refused record, so that its key can be used. If that fails, the next request takes it over."""
        with contextlib.suppress(Unavailable):
            await self._store.remove(record, deadline)

    async def _change(
        self, record: IdempotencyRecord, new: IdempotencyRecord, deadline: Deadline
    ) -> IdempotencyRecord | None:
        """Put `new` in the place of a record if that is open. Returns what is stored then if it is confirmed."""
        stored = record if record.state == "confirmed" else await self._store.replace(record, new, deadline)
        return stored if stored is not None and stored.seed == record.seed and stored.state == "confirmed" else None

    async def _take_over(
        self, refused: IdempotencyRecord, record: IdempotencyRecord, deadline: Deadline
    ) -> IdempotencyRecord:
        """Put `record` in the place of a refused one. Raises Unavailable if it is too early, or another was faster."""
        new = record
        if refused.state == "refused":
            ids = ids_of(refused.seed, MAX_BATCH_EVENTS).binary
            await self._remove_events(refused.tenant_id, ids, deadline)
        elif not is_settled(refused):
            raise Unavailable("unknown")
        elif refused.fingerprint == record.fingerprint:
            new = replace(refused, state="open")  # the request that made it may have stored it all
        if await self._store.replace(refused, new, deadline) != new:
            raise Unavailable("unknown")
        return new


def is_settled(record: IdempotencyRecord) -> bool:
    """Whether every request that knew the record open has ended."""
    return time_ns() // NS_PER_MS - record.seed.received_at_ms >= SETTLED_AFTER_S * MS_PER_S


def parse_idempotency_key(keys: Sequence[str]) -> str:
    """The only key in `keys`. Raises InvalidHeader for several, or if it is not 1 to 255 visible characters."""
    if len(keys) > 1 or not VISIBLE.fullmatch(keys[0]):
        detail = f"Idempotency-Key: one of 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters"
        raise InvalidHeader(detail, field="idempotency_key")
    return keys[0]


def record_id(tenant_id: UUID, key: str) -> bytes:
    """The id of the record of a tenant's key. Tenants never share a record; protocols do."""
    return sha256(tenant_id.bytes + key.encode()).digest()


def fingerprinting(batch: DecodedBatch, errors: Sequence[EventError], lenient: bool) -> Steps[bytes]:
    """A hash that is equal for equal batches with equal handling, over either protocol, made in steps.

    Good events count by their values, and their timestamps by the moment they name. Bad events count by the path of
    what is wrong, since each protocol holds them in another form. The input to the hash must never change: records
    outlive the release that made them.
    """
    bad = {error.index for error in errors}
    wrong = [(error.index, error.path) for error in sorted(errors)]
    digest = sha256(encode_canonically([batch.source, batch.source_id, lenient, wrong]))
    for index, event, time in zip(batch.indexes, batch.events, batch.times, strict=True):
        if index not in bad:
            digest.update(encode_canonically(msgspec.structs.replace(event, timestamp=time)))
        yield
    return digest.digest()
