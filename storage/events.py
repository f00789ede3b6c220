"""Events in MongoDB: writing batches, reading pages. Imports the documents, the driver's edge and the core."""

from collections.abc import AsyncIterator, Iterator, Sequence
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
from storage.client import (
    Database,
    EncodedDocuments,
    driver_errors_as_unavailable,
    insert_each,
    raw_collection,
    retry_write,
    time_limit,
)
from storage.documents import document_size
from storage.indexes import EVENTS, LISTING

FETCH_SIZE = 20
"""Events in memory at a time while a page is read: 20 MiB at most."""

MAX_COMMAND_BYTES = 15 * 1024 * 1024
"""Documents in one command: the driver sends none of over 16 MiB."""


class Events:
    """The collection `events`."""

    encode = staticmethod(documents.encode)

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = raw_collection(database, EVENTS, documents.RAW)

    async def insert(self, group: Sequence[EncodedBatch], deadline: Deadline) -> dict[int, NotInserted]:
        """Return when all documents are in the journals of a majority, but for those the database refused.

        Those are returned as index -> MongoDB's error code. Raises Unavailable where not all is certain.
        """
        refused: dict[int, NotInserted] = {}
        start = 0
        for command in commands(group):
            together = [EncodedDocuments(encoded.documents) for encoded in command]
            try:
                insert = partial(insert_each, self._database, EVENTS, together)
                failed, was_in_doubt = await retry_write(insert, deadline)
            except Unavailable as error:
                raise Unavailable("unknown" if start else error.outcome) from None  # earlier commands were carried out
            for index, why in failed.items():
                if not (was_in_doubt and why.already_stored):  # else an earlier attempt stored it
                    refused[start + index] = why
            start += sum(encoded.event_count for encoded in command)
        return refused

    async def page(self, tenant_id: UUID, where: EventFilter, skip: int, limit: int) -> AsyncIterator[StoredEvent]:
        """Up to `limit` events of a tenant that match, newest first, after the first `skip`. Raises Unavailable."""
        cursor = self._collection.find(query(tenant_id, where), sort=[("_id", -1)], skip=skip, limit=limit)
        cursor = cursor.hint(LISTING)
        try:
            while True:
                with (
                    driver_errors_as_unavailable(),
                    time_limit(Deadline()),
                ):  # of each stretch: the reader's pace is its own
                    stretch = await cursor.to_list(FETCH_SIZE)
                if not stretch:
                    return
                for document in stretch:
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


def commands(group: Sequence[EncodedBatch]) -> Iterator[list[EncodedBatch]]:
    """What goes into one command together, most often all of the group."""
    command, size = list[EncodedBatch](), 0
    for encoded in chain.from_iterable(map(pieces, group)):
        size += len(encoded.documents)
        if command and size > MAX_COMMAND_BYTES:
            yield command
            command, size = [], len(encoded.documents)
        command.append(encoded)
    yield command


def pieces(encoded: EncodedBatch) -> Iterator[EncodedBatch]:
    """Documents in pieces that each fit into a command, most often one."""
    documents = encoded.documents
    if len(documents) <= MAX_COMMAND_BYTES:
        yield encoded
        return
    start = end = count = 0
    while end < len(documents):
        size = document_size(documents, end)
        if end + size - start > MAX_COMMAND_BYTES:
            yield EncodedBatch(documents[start:end], count)
            start, count = end, 0
        end, count = end + size, count + 1
    yield EncodedBatch(documents[start:end], count)


def query(tenant_id: UUID, where: EventFilter) -> dict[str, Any]:
    """The MongoDB query for the events of a tenant that match. Times become ranges of ids, which begin with them."""
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
