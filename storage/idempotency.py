"""Stores idempotency records in MongoDB.

A record is written once and never changed or removed. It must last as long as the events that it stands for. Its `_id`
is a hash, so the collection does not show any idempotency key.
"""

from collections.abc import Sequence
from functools import partial

from bson.binary import Binary

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.events.ids import Seed
from server.core.ingest.store import DocumentsRefused, IdempotencyRecord
from server.core.times import from_milliseconds, to_milliseconds
from storage.commands import Database, Document, insert_each, retry_without_events
from storage.indexes import IDEMPOTENCY_RECORDS


class IdempotencyRecords:
    """The collection of idempotency records."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = database[IDEMPOTENCY_RECORDS]

    async def put(self, records: Sequence[IdempotencyRecord], deadline: Deadline) -> list[IdempotencyRecord]:
        """Store each record, unless one with its id exists. Returns, for each, the record that is stored.

        All returned records are in the journals of a majority. Raises Unavailable if that is not certain. Its outcome
        is "not_stored" even if records were stored: the events of a batch are stored after its record.
        """
        return await retry_without_events(partial(self._put, records), deadline)

    async def _put(self, records: Sequence[IdempotencyRecord]) -> list[IdempotencyRecord]:
        not_inserted = await insert_each(
            self._database, IDEMPOTENCY_RECORDS, [document_of(record) for record in records]
        )
        if codes := {why.code for why in not_inserted.values() if not why.already_stored}:
            raise DocumentsRefused(*codes)
        earlier = await self._find([records[index].id for index in not_inserted]) if not_inserted else {}
        return [earlier[record.id] if index in not_inserted else record for index, record in enumerate(records)]

    async def _find(self, ids: Sequence[bytes]) -> dict[bytes, IdempotencyRecord]:
        """The records that an insert found already stored, by id.

        The insert returned when a majority had all that it saw. So a read of what a majority has finds them. Raises
        Unavailable if it does not: a primary elected since then may not know yet what a majority has.
        """
        cursor = self._collection.find({"_id": {"$in": list(ids)}}, batch_size=len(ids) + 1)
        found = {document["_id"]: record_of(document) for document in await cursor.to_list(None)}
        if not found.keys() >= set(ids):
            raise Unavailable("unknown")
        return found


def document_of(record: IdempotencyRecord) -> Document:
    """The document that holds a record."""
    return {
        "_id": Binary(record.id),
        "tenant_id": Binary.from_uuid(record.tenant_id),
        "fingerprint": Binary(record.fingerprint),
        "received_at": from_milliseconds(record.seed.received_at_ms),
        "random": record.seed.random,
    }


def record_of(document: Document) -> IdempotencyRecord:
    """The record that a document holds."""
    return IdempotencyRecord(
        id=document["_id"],
        tenant_id=document["tenant_id"],
        fingerprint=document["fingerprint"],
        seed=Seed(to_milliseconds(document["received_at"]), document["random"]),
    )
