"""Settles a batch of which the database did not insert every document, or which is a replay.

An operator may add indexes and validators to the collection of events. So the database may refuse a document after it
has inserted others of the batch. What it refuses is an error of that event, as if it had been found earlier: in strict
handling nothing of the batch may be left, in lenient handling the others stay.

`idempotency.py` says what this means for batches with an idempotency key, which may be stored by several requests at
the same time.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from server.core.deadline import Deadline
from server.core.errors import EventError, Unavailable
from server.core.events.ids import binary_id
from server.core.ingest.idempotency import Idempotency
from server.core.ingest.prepare import PreparedBatch, invalid_batch
from server.core.ingest.store import ALREADY_STORED, EventStore, IdempotencyRecord, NotInserted, NotInsertedByIndex

UNDO_TIMEOUT_S = 5.0
"""The least time to undo a batch, even if the request's deadline is nearly over: half of what a request may take."""


class InsertedBatch(NamedTuple):
    """A batch after its insert."""

    prepared: PreparedBatch
    not_inserted: NotInsertedByIndex
    lenient: bool
    record: IdempotencyRecord | None
    """The record of its idempotency key, if it has one."""
    is_replay: bool
    """Whether another request made the record."""

    def ids(self) -> list[bytes]:
        """The ids of all its events that were to be inserted."""
        return [binary_id(text) for text in self.prepared.ids]


class Settlement:
    """Settles batches in `events`."""

    def __init__(self, events: EventStore, idempotency: Idempotency) -> None:
        self._events = events
        self._idempotency = idempotency
        self._running: set[asyncio.Task[PreparedBatch]] = set()

    async def is_stored(self, replay: PreparedBatch, record: IdempotencyRecord, deadline: Deadline) -> bool:
        """Whether every event of a replay is stored, but for those that its record names as refused.

        Then no insert is needed. One takes MongoDB several times as long for documents that it has as for new ones.
        Raises Unavailable.
        """
        refused = {error.index for error in record.refused}
        rows = zip(replay.ids, replay.indexes, strict=True)
        ids = {binary_id(text) for text, index in rows if index not in refused}
        return await self._events.find_stored(replay.info.tenant_id, ids, deadline) == ids

    async def __call__(self, batch: InsertedBatch, deadline: Deadline) -> PreparedBatch:
        """The batch as it is stored.

        Raises InvalidBatch if it is refused; nothing of this request is left then. Raises Unavailable with the outcome
        "unknown" if what is left is not certain.
        """
        task = asyncio.create_task(self._settle(batch, Deadline(max(deadline.remaining(), UNDO_TIMEOUT_S))))
        self._running.add(task)
        task.add_done_callback(self._on_done)
        try:
            return await asyncio.shield(task)  # it goes on if the client is gone
        except Unavailable:
            raise Unavailable("unknown") from None

    def _on_done(self, task: asyncio.Task[PreparedBatch]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # it is not lost if the client is gone: nobody else wants to know

    async def _settle(self, batch: InsertedBatch, deadline: Deadline) -> PreparedBatch:
        record, refused = batch.record, await self._refused(batch, deadline)
        if refused and not (batch.lenient and len(refused) < len(batch.prepared.ids)):
            confirmed = record and await self._idempotency.refuse(record, batch.is_replay, deadline)
            if confirmed is not None:  # another request has stored the batch meanwhile
                return await self._as_confirmed(batch, confirmed, deadline)
            await self._undo(batch, deadline)
            raise invalid_batch([*batch.prepared.errors, *refused])
        if record is None:
            return without(batch.prepared, refused)
        confirmed = await self._idempotency.confirm(record, refused, batch.is_replay, deadline)
        if confirmed is not None:
            return await self._as_confirmed(batch, confirmed, deadline)
        await self._remove(batch, inserted_ids(batch), deadline)
        raise Unavailable

    async def _refused(self, batch: InsertedBatch, deadline: Deadline) -> list[EventError]:
        """The events that were refused and are not stored. Raises Unavailable if the cause is not the event.

        An event of an acknowledged batch may be refused now, by a validator that was added since. It counts as stored.
        """
        refused = {at: why.reason for at, why in batch.not_inserted.items() if not is_stored(batch, why)}
        if refused and batch.record is not None:
            ids = batch.ids()
            tenant_id = batch.prepared.info.tenant_id
            stored = await self._events.find_stored(tenant_id, [ids[at] for at in refused], deadline)
            refused = {at: reason for at, reason in refused.items() if ids[at] not in stored}
        return [error_of(batch.prepared.indexes[at], reason) for at, reason in refused.items()]

    async def _as_confirmed(
        self, batch: InsertedBatch, confirmed: IdempotencyRecord, deadline: Deadline
    ) -> PreparedBatch:
        """The batch as its confirmed record says. What the record refused was perhaps inserted by this request."""
        refused = {error.index for error in confirmed.refused}
        ids = [
            event_id for event_id, index in zip(batch.ids(), batch.prepared.indexes, strict=True) if index in refused
        ]
        await self._remove(batch, ids, deadline)
        return without(batch.prepared, confirmed.refused)

    async def _undo(self, batch: InsertedBatch, deadline: Deadline) -> None:
        """Remove the documents that this request inserted, then the record that it made."""
        if batch.record is None or batch.is_replay:
            await self._remove(batch, inserted_ids(batch), deadline)
        else:  # as the request that made the record has refused it, no other is acknowledged: all can go
            await self._remove(batch, batch.ids(), deadline)
            await self._idempotency.forget(batch.record, deadline)

    async def _remove(self, batch: InsertedBatch, ids: list[bytes], deadline: Deadline) -> None:
        if ids:
            await self._events.remove(batch.prepared.info.tenant_id, ids, deadline)


def all_stored(replay: PreparedBatch) -> NotInsertedByIndex:
    """What an insert would say of a batch whose events are all stored."""
    return dict.fromkeys(range(len(replay.ids)), ALREADY_STORED)


def count_already_stored(batch: InsertedBatch, settled: PreparedBatch) -> int:
    """How many events of a batch, as it was settled, another request of the same idempotency key had stored."""
    if batch.record is None:
        return 0
    others = {
        batch.prepared.ids[index]
        for index, why in batch.not_inserted.items()
        if why.already_stored and (batch.is_replay or not why.is_perhaps_ours)
    }
    return sum(event_id in others for event_id in settled.ids)


def is_stored(batch: InsertedBatch, why: NotInserted) -> bool:
    """Whether a document that was not inserted is stored already, by this request or another of its key."""
    return why.already_stored and (batch.record is not None or why.is_perhaps_ours)


def inserted_ids(batch: InsertedBatch) -> list[bytes]:
    """The ids of the documents that certainly this request inserted. Without a record, no other request knows them."""
    others = {index for index, why in batch.not_inserted.items() if batch.record is not None or not why.is_perhaps_ours}
    return [event_id for index, event_id in enumerate(batch.ids()) if index not in others]


def error_of(index: int, reason: str | None) -> EventError:
    """What is wrong with a refused event. Raises Unavailable if the cause is not the event."""
    if reason is None:
        raise Unavailable
    return EventError(index, f"events[{index}]", reason)


def without(prepared: PreparedBatch, refused: Sequence[EventError]) -> PreparedBatch:
    """The batch without the refused events, which become errors."""
    indexes = {error.index for error in refused}
    kept = [at for at, index in enumerate(prepared.indexes) if index not in indexes]
    return replace(
        prepared,
        ids=[prepared.ids[at] for at in kept],
        event_types=[prepared.event_types[at] for at in kept],
        indexes=[prepared.indexes[at] for at in kept],
        errors=[*prepared.errors, *refused],
    )
