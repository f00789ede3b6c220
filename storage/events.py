"""Stores events in MongoDB, and reads them by page or by id.

Events are inserted and read as BSON bytes. `documents.py` says why.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID

from server.core.deadline import Deadline
from server.core.errors import NotFound, Unavailable
from server.core.events.ids import lowest_id
from server.core.events.model import EventFilter, StoredEvent
from server.core.ingest.store import EncodedBatch, NotInserted
from storage import documents
from storage.client import raw_collection
from storage.commands import (
    Database,
    EncodedDocuments,
    driver_errors_as_unavailable,
    insert_each,
    retry_event_write,
    time_limit,
)
from storage.documents import document_size
from storage.indexes import EVENTS, LISTING

FETCH_SIZE = 20
"""Events that a read holds in memory at a time: 20 MiB, as an event has at most 1 MiB."""

MAX_COMMAND_BYTES = 15 * 1024 * 1024
"""Documents in one command: below the 16 MiB that the driver sends at once."""


class Events:
    """The collection `events`."""

    encode = staticmethod(documents.encode)

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = raw_collection(database, EVENTS, documents.RAW)

    async def insert(self, group: Sequence[EncodedBatch], deadline: Deadline) -> list[dict[int, NotInserted]]:
        """Return when all documents but the returned ones are in the journals of a majority.

        Returns, for each batch, the documents that were not inserted, by their index in the batch. Raises Unavailable
        if the outcome of any document is uncertain.
        """
        not_inserted: dict[int, NotInserted] = {}  # by index in the whole group
        start = 0
        for command in commands(group):
            documents_in_command = [EncodedDocuments(batch.documents) for batch in command]
            insert = partial(insert_each, self._database, EVENTS, documents_in_command)
            try:
                not_in_command, was_in_doubt = await retry_event_write(insert, deadline)
            except Unavailable as error:
                raise Unavailable("unknown" if start else error.outcome) from None  # earlier commands were carried out
            for index, why in not_in_command.items():
                if not (was_in_doubt and why.already_stored):  # else an earlier attempt stored it
                    not_inserted[start + index] = why
            start += sum(batch.event_count for batch in command)
        return by_batch(group, not_inserted)

    async def page(self, tenant_id: UUID, where: EventFilter, skip: int, limit: int) -> AsyncIterator[StoredEvent]:
        """Up to `limit` events of a tenant that match, newest first, after the first `skip`. Raises Unavailable."""
        cursor = self._collection.find(query(tenant_id, where), sort=[("_id", -1)], skip=skip, limit=limit)
        cursor = cursor.hint(LISTING)
        try:
            while True:
                # Each fetch has a deadline of its own: the time between two depends on how fast the client reads.
                with driver_errors_as_unavailable(), time_limit(Deadline()):
                    fetched = await cursor.to_list(FETCH_SIZE)
                if not fetched:
                    return
                for document in fetched:
                    yield documents.decode(document)
        finally:
            await cursor.close()

    async def get(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> StoredEvent:
        """One event of a tenant. Raises NotFound, for another tenant's too."""
        with driver_errors_as_unavailable(), time_limit(deadline):
            document = await self._collection.find_one({"_id": event_id, "tenant_id": tenant_id})
        if document is None:
            raise NotFound("This tenant has no event with this id")
        return documents.decode(document)


def by_batch(group: Sequence[EncodedBatch], not_inserted: Mapping[int, NotInserted]) -> list[dict[int, NotInserted]]:
    """For each batch, the documents of it that were not inserted. Indexes count the whole group, and then the batch."""
    outcomes: list[dict[int, NotInserted]] = []
    start = 0
    for batch in group:
        end = start + batch.event_count
        outcomes.append({index - start: why for index, why in not_inserted.items() if start <= index < end})
        start = end
    return outcomes


def commands(group: Sequence[EncodedBatch]) -> Iterator[list[EncodedBatch]]:
    """Divide a group into the batches of each command. Most often one command takes the whole group."""
    command, size = list[EncodedBatch](), 0
    for piece in chain.from_iterable(map(pieces, group)):
        size += piece.size
        if command and size > MAX_COMMAND_BYTES:
            yield command
            command, size = [], piece.size
        command.append(piece)
    yield command


def pieces(batch: EncodedBatch) -> Iterator[EncodedBatch]:
    """Divide a batch into pieces that each fit into a command. Most often it fits as a whole."""
    if batch.size <= MAX_COMMAND_BYTES:
        yield batch
        return
    encoded = batch.documents
    start = end = count = 0
    while end < batch.size:
        size = document_size(encoded, end)
        if end + size - start > MAX_COMMAND_BYTES:
            yield EncodedBatch(encoded[start:end], end - start, count)
            start, count = end, 0
        end, count = end + size, count + 1
    yield EncodedBatch(encoded[start:end], end - start, count)


def query(tenant_id: UUID, where: EventFilter) -> dict[str, Any]:
    """The MongoDB query for the events of a tenant that match. Times become bounds of ids, which begin with a time."""
    ids = {
        operator: UUID(bytes=lowest_id(moment))
        for operator, moment in (("$gte", where.since), ("$lt", where.until))
        if moment is not None
    }
    names = {"source": where.source, "event_type": where.event_type, "source_id": where.source_id}
    return {
        "tenant_id": tenant_id,
        **({"_id": ids} if ids else {}),
        **{field: name for field, name in names.items() if name is not None},
    }
