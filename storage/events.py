"""Stores events in MongoDB. `reads.py` reads them.

Events are inserted as BSON bytes. `documents.py` says why.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from math import inf
from time import monotonic
from typing import Any
from uuid import UUID

from bson.binary import UUID_SUBTYPE, Binary

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.events.model import MAX_BATCH_EVENTS
from server.core.ingest.store import EncodedBatch, NotInserted
from storage import documents
from storage.commands import (
    Database,
    EncodedDocuments,
    delete_each,
    insert_each,
    retry_event_write,
    retry_without_events,
)
from storage.documents import BYTES_BEFORE_END, EVENT_ID_AT, document_size
from storage.indexes import EVENTS
from storage.layout import query_by_full_ids

MAX_COMMAND_BYTES = 15 * 1024 * 1024
"""Documents in one command: below the 16 MiB that the driver sends at once."""


class Events:
    """The collection `events`."""

    encode = staticmethod(documents.encode)

    def __init__(self, database: Database) -> None:
        self._database = database
        self.confirmed_at = -inf
        """When the database confirmed the last insert, by the monotonic clock."""

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
                not_inserted[start + index] = why._replace(is_perhaps_ours=was_in_doubt and why.already_stored)
            start += sum(batch.event_count for batch in command)
        self.confirmed_at = monotonic()
        return by_batch(group, not_inserted)

    async def find_stored(self, tenant_id: UUID, ids: Collection[bytes], deadline: Deadline) -> set[bytes]:
        """See `EventStore`."""
        first, last = full_ids(tenant_id, [min(ids), max(ids)])
        query = {"_id": {"$gte": first, "$lte": last}}
        stored = await retry_without_events(partial(self._ids, query), deadline)
        return stored.intersection(ids)

    async def remove(self, tenant_id: UUID, ids: Sequence[bytes], deadline: Deadline) -> None:
        """See `EventStore`."""
        query = query_by_full_ids(full_ids(tenant_id, sorted(ids)))
        await retry_event_write(partial(delete_each, self._database, EVENTS, query), deadline)

    async def _ids(self, query: dict[str, Any]) -> set[bytes]:
        """The ids of the events that match. To name each id in the query would take longer than to read them."""
        events, size = self._database[EVENTS], MAX_BATCH_EVENTS + 1
        cursor: Any = events.find_raw_batches(query, {"_id": 1}, hint={"_id": 1}, batch_size=size)
        return set(chain.from_iterable([ids_in(batch) async for batch in cursor]))


def ids_in(documents: bytes) -> Iterator[bytes]:
    """The event ids in documents, one after the other."""
    at = 0
    while at < len(documents):
        yield documents[at + EVENT_ID_AT : at + BYTES_BEFORE_END]
        at += document_size(documents, at)


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


def full_ids(tenant_id: UUID, ids: Sequence[bytes]) -> list[dict[str, Any]]:
    """The `_id`s of events of a tenant."""
    tenant = Binary.from_uuid(tenant_id)
    return [{"tenant_id": tenant, "id": Binary(event_id, UUID_SUBTYPE)} for event_id in ids]
