"""Stores idempotency records in MongoDB.

A record lasts as long as the events that it stands for, unless its batch was refused. Its `_id` is a hash, so the
collection does not show any idempotency key. The field `state` is absent while a record is open. The field `refused` is
there if the database refused some of its events: their indexes, paths and messages.

The progress of a raw body is in the same collection, as its field `progress`.
"""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

import msgspec
from bson.binary import Binary
from msgspec.structs import asdict
from pymongo import ReturnDocument
from pymongo.errors import OperationFailure

from server.core.deadline import Deadline
from server.core.errors import EventError
from server.core.events.ids import Seed
from server.core.ingest.store import BodyProgress, IdempotencyRecord
from server.core.times import from_milliseconds, to_milliseconds
from storage.commands import Database, Document, insert_each, retry_without_events
from storage.failures import NOT_ON_A_MAJORITY
from storage.indexes import IDEMPOTENCY_RECORDS


class IdempotencyRecords:
    """The collection of idempotency records."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = database[IDEMPOTENCY_RECORDS]

    async def put(self, records: Sequence[IdempotencyRecord], deadline: Deadline) -> list[IdempotencyRecord]:
        """See `IdempotencyStore`. Raises Unavailable without an outcome: no event of a batch is stored before this."""
        return await retry_without_events(partial(self._put, records), deadline)

    async def replace(
        self, record: IdempotencyRecord, new: IdempotencyRecord, deadline: Deadline
    ) -> IdempotencyRecord | None:
        """See `IdempotencyStore`. If it is repeated, `new` is found stored already."""
        return await retry_without_events(partial(self._replace, record, new), deadline)

    async def remove(self, record: IdempotencyRecord, deadline: Deadline) -> None:
        """See `IdempotencyStore`."""
        query = {**query_of(record), "state": {"$in": ["refused", "refused_by_replay"]}}
        await retry_without_events(partial(self._collection.delete_one, query), deadline)

    async def find_progress(self, record_id: bytes, deadline: Deadline) -> BodyProgress | None:
        """See `ProgressStore`."""
        find = partial(self._collection.find_one, {"_id": Binary(record_id)})
        document = await retry_without_events(find, deadline)
        return None if document is None else msgspec.convert(document["progress"], BodyProgress)

    async def save_progress(
        self, record_id: bytes, tenant_id: UUID, progress: BodyProgress, deadline: Deadline
    ) -> None:
        """See `ProgressStore`."""
        own_id, tenant = Binary(record_id), Binary.from_uuid(tenant_id)
        document = {"_id": own_id, "tenant_id": tenant, "progress": msgspec.to_builtins(progress)}
        replace = partial(self._collection.replace_one, {"_id": own_id}, document, upsert=True)
        await retry_without_events(replace, deadline)

    async def _put(self, records: Sequence[IdempotencyRecord]) -> list[IdempotencyRecord]:
        not_inserted = await insert_each(
            self._database, IDEMPOTENCY_RECORDS, [document_of(record) for record in records]
        )
        for why in not_inserted.values():
            if not why.already_stored:  # an index or a validator of the operator, which cannot be about the batch
                raise OperationFailure("not now", why.code)
        earlier = await self._find([records[index].id for index in not_inserted]) if not_inserted else {}
        return [earlier[record.id] if index in not_inserted else record for index, record in enumerate(records)]

    async def _replace(self, record: IdempotencyRecord, new: IdempotencyRecord) -> IdempotencyRecord | None:
        query = {**query_of(record), "state": None if record.state == "open" else record.state}
        document = await self._collection.find_one_and_replace(
            query, document_of(new), return_document=ReturnDocument.AFTER
        ) or await self._collection.find_one({"_id": Binary(record.id)})
        stored = None if document is None else record_of(document)
        if stored == record:  # another request has changed it, but a majority does not know yet
            raise OperationFailure("not yet", NOT_ON_A_MAJORITY)
        return stored

    async def _find(self, ids: Sequence[bytes]) -> dict[bytes, IdempotencyRecord]:
        """The records that an insert found already stored, by id.

        The insert returned when a majority had all that it saw. So a read of what a majority has finds them. Raises
        OperationFailure if it does not: a primary elected since then may not know yet what a majority has.
        """
        cursor = self._collection.find({"_id": {"$in": list(ids)}}, batch_size=len(ids) + 1)
        found = {document["_id"]: record_of(document) for document in await cursor.to_list(None)}
        if not found.keys() >= set(ids):
            raise OperationFailure("not yet", NOT_ON_A_MAJORITY)
        return found


def document_of(record: IdempotencyRecord) -> Document:
    """The document that holds a record."""
    return {
        "_id": Binary(record.id),
        "tenant_id": Binary.from_uuid(record.tenant_id),
        "fingerprint": Binary(record.fingerprint),
        "received_at": from_milliseconds(record.seed.received_at_ms),
        "random": record.seed.random,
        **({} if record.state == "open" else {"state": record.state}),
        **({"refused": [asdict(error) for error in record.refused]} if record.refused else {}),
    }


def query_of(record: IdempotencyRecord) -> Document:
    """The query for a record with just this seed."""
    return {"_id": Binary(record.id), "random": record.seed.random}


def record_of(document: Document) -> IdempotencyRecord:
    """The record that a document holds."""
    return IdempotencyRecord(
        id=document["_id"],
        tenant_id=document["tenant_id"],
        fingerprint=document["fingerprint"],
        seed=Seed(to_milliseconds(document["received_at"]), document["random"]),
        state=document.get("state", "open"),
        refused=tuple(EventError(**error) for error in document.get("refused", ())),
    )
