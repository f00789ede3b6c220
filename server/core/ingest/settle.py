"""Settles a batch of which the database did not insert every document, or which is a replay.

An operator may add indexes and validators to the collection of events. So the database may refuse a document after it
has inserted others of the batch. What it refuses is an error of that event, as if it had been found earlier: in strict
handling nothing of the batch may be left, in lenient handling the others stay.

`idempotency.py` says what this means for batches with an idempotency key, which may be stored by several requests at
the same time.
"""

import asyncio
from typing import NamedTuple
from uuid import UUID

from msgspec.structs import replace

from server.core.deadline import Deadline
from server.core.errors import EventError, Unavailable
from server.core.ingest.idempotency import Idempotency
from server.core.ingest.prepare import PreparedBatch, invalid_batch
from server.core.ingest.store import EventStore, IdempotencyRecord, NotInserted, NotInsertedByIndex

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
        return [UUID(text).bytes for text in self.prepared.ids]


class Settlement:
    """Settles batches in `events`."""

    def __init__(self, events: EventStore, idempotency: Idempotency) -> None:
        self._events = events
        self._idempotency = idempotency
        self._running: set[asyncio.Task[PreparedBatch]] = set()

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
        if any(why.reason is None for why in refused.values()):
            raise Unavailable
        if refused and not (batch.lenient and len(refused) < len(batch.prepared.ids)):
            if record is not None and not await self._idempotency.refuse(record, batch.is_replay, deadline):
                return batch.prepared  # another request has stored all of it meanwhile
            await self._undo(batch, deadline)
            raise invalid_batch([*batch.prepared.errors, *errors_of(batch, refused)])
        relies_on_others = batch.is_replay or len(batch.not_inserted) > len(refused)
        if record is None or not relies_on_others or await self._idempotency.confirm(record, deadline):
            return without(batch, refused)
        await self._remove(batch, inserted_ids(batch), deadline)
        raise Unavailable

    async def _refused(self, batch: InsertedBatch, deadline: Deadline) -> dict[int, NotInserted]:
        """The documents that were refused and are not stored, by index.

        A document of an acknowledged batch may be refused now, by a validator that was added since. It counts as
        stored.
        """
        refused = {index: why for index, why in batch.not_inserted.items() if not is_stored(batch, why)}
        if not refused or batch.record is None:
            return refused
        ids = batch.ids()
        tenant_id = batch.prepared.info.tenant_id
        stored = await self._events.find_stored(tenant_id, [ids[index] for index in refused], deadline)
        return {index: why for index, why in refused.items() if ids[index] not in stored}

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


def is_stored(batch: InsertedBatch, why: NotInserted) -> bool:
    """Whether a document that was not inserted is stored already, by this request or another of its key."""
    return why.already_stored and (batch.record is not None or why.is_perhaps_ours)


def inserted_ids(batch: InsertedBatch) -> list[bytes]:
    """The ids of the documents that certainly this request inserted. Without a record, no other request knows them."""
    others = {index for index, why in batch.not_inserted.items() if batch.record is not None or not why.is_perhaps_ours}
    return [event_id for index, event_id in enumerate(batch.ids()) if index not in others]


def errors_of(batch: InsertedBatch, refused: dict[int, NotInserted]) -> list[EventError]:
    """What is wrong with each refused document, as an error of its event."""
    indexes = batch.prepared.indexes
    return [EventError(indexes[at], f"events[{indexes[at]}]", why.reason or "") for at, why in refused.items()]


def without(batch: InsertedBatch, refused: dict[int, NotInserted]) -> PreparedBatch:
    """The batch without the refused documents, whose events become errors."""
    if not refused:
        return batch.prepared
    kept = [at for at in range(len(batch.prepared.ids)) if at not in refused]
    return replace(
        batch.prepared,
        ids=[batch.prepared.ids[at] for at in kept],
        event_types=[batch.prepared.event_types[at] for at in kept],
        indexes=[batch.prepared.indexes[at] for at in kept],
        errors=[*batch.prepared.errors, *errors_of(batch, refused)],
    )
