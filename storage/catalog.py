"""Stores the catalog of sources and types in MongoDB.

The `_id` of a document is `{tenant_id, source, event_type}`. So what a tenant has sent stands together, in the order in
which it is shown. A tenant with more than MAX_TYPES has a document in which source and type are null: its catalog is
incomplete, so it cannot tell what was never sent.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from bson.binary import Binary
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.raw_bson import RawBSONDocument

from server.core.deadline import Deadline
from server.core.events.catalog import EventType, FetchedTypes, Sender
from server.core.events.model import EventFilter
from server.core.times import from_milliseconds, to_milliseconds
from storage import documents
from storage.commands import MAJORITY, Database, Document, retry_without_events, update_each
from storage.indexes import CATALOG

MAX_TYPES = 10_000
"""Types of a tenant, over all its sources: far more than people look through. A list of them has about 1 MiB with names
of 10 characters, and 20 MiB with the longest."""

FETCHED_TYPES = 500
"""Types in one fetch: 1 MiB with the longest names, as much as a fetch of events."""

UPDATES_AT_ONCE = 1_000
"""Updates in one command."""


class StoredCatalog:
    """The collection of the catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = database[CATALOG]

    async def add(self, sender: Sender, event_types: Sequence[str], seen_at_ms: int, deadline: Deadline) -> None:
        """See `CatalogStore`."""
        await retry_without_events(partial(self._add, sender, event_types, seen_at_ms), deadline)

    async def save_last_seen(self, times_ms: Mapping[Sender, Mapping[str, int]], deadline: Deadline) -> None:
        """See `CatalogStore`."""
        await retry_without_events(partial(self._save, times_ms), deadline)

    async def types(self, tenant_id: UUID, last: EventType | None, deadline: Deadline) -> FetchedTypes:
        """See `CatalogStore`."""
        call = partial(self._find, query_after(tenant_id, last), FETCHED_TYPES)
        found = await retry_without_events(call, deadline)
        size = sum(len(document.raw) for document in found)
        return FetchedTypes(list(map(event_type_of, found)), size, len(found) < FETCHED_TYPES)

    async def may_match(self, tenant_id: UUID, where: EventFilter, deadline: Deadline) -> bool:
        """See `CatalogStore`."""
        names = {"_id.source": where.source, "_id.event_type": where.event_type}
        given = {field: name for field, name in names.items() if name is not None}
        if not given:
            return True
        query = {**query_of(tenant_id), "$or": [{"_id.source": None}, given]}
        return bool(await retry_without_events(partial(self._find, query, 1), deadline))

    async def _add(self, sender: Sender, event_types: Sequence[str], seen_at_ms: int) -> None:
        ids = [id_of(sender, event_type) for event_type in event_types]
        query = {"_id": {"$in": ids}}
        known = {document["_id"]["event_type"] for document in await self._find(query, len(ids))}
        missing = [own_id for own_id in ids if own_id["event_type"] not in known]
        if not missing:
            return
        count = await self._collection.count_documents(query_of(sender[0]), limit=MAX_TYPES)
        if count + len(missing) > MAX_TYPES:
            missing = [{"tenant_id": Binary.from_uuid(sender[0]), "source": None, "event_type": None}]
        seen_at = from_milliseconds(seen_at_ms)
        times = {"$min": {"first_seen": seen_at}, "$max": {"last_seen": seen_at}}
        statements = [{"q": {"_id": own_id}, "u": times, "upsert": True} for own_id in missing]
        await update_each(self._database, CATALOG, statements, MAJORITY)

    async def _save(self, times_ms: Mapping[Sender, Mapping[str, int]]) -> None:
        statements = [
            {"q": {"_id": id_of(sender, event_type)}, "u": {"$max": {"last_seen": from_milliseconds(time_ms)}}}
            for sender, times in times_ms.items()
            for event_type, time_ms in times.items()
        ]
        for start in range(0, len(statements), UPDATES_AT_ONCE):
            await update_each(self._database, CATALOG, statements[start : start + UPDATES_AT_ONCE])

    async def _find(self, query: Document, count: int) -> list[RawBSONDocument]:
        """At most `count` documents in order, as a majority has them, and as bytes, so that their size is known.

        They must fit into one reply of 16 MiB.
        """
        command = {
            "find": CATALOG,
            "filter": query,
            "sort": {"_id": 1},
            "limit": count,
            "batchSize": count,
            "singleBatch": True,
            "readConcern": {"level": "majority"},
        }
        reply = await self._database.command(command, codec_options=documents.RAW)
        found: list[RawBSONDocument] = reply["cursor"]["firstBatch"]
        return found


def query_of(tenant_id: UUID) -> Document:
    """The MongoDB query for all documents of a tenant."""
    tenant = Binary.from_uuid(tenant_id)
    lowest, highest = {"tenant_id": tenant, "source": MinKey()}, {"tenant_id": tenant, "source": MaxKey()}
    return {"_id": {"$gte": lowest, "$lt": highest}}


def query_after(tenant_id: UUID, last: EventType | None) -> Document:
    """The MongoDB query for a tenant's types after `last`; for all if that is None."""
    start = (
        {"$gte": id_of((tenant_id, ""), "")}
        if last is None
        else {"$gt": id_of((tenant_id, last.source), last.event_type)}
    )
    return {"_id": {**start, "$lt": highest_id(tenant_id)}}


def id_of(sender: Sender, event_type: str) -> Document:
    """The `_id` of a type that a source has sent."""
    return {"tenant_id": Binary.from_uuid(sender[0]), "source": sender[1], "event_type": event_type}


def highest_id(tenant_id: UUID) -> Document:
    """What is above the `_id`s of a tenant's types."""
    return {"tenant_id": Binary.from_uuid(tenant_id), "source": MaxKey()}


def event_type_of(document: Mapping[str, Any]) -> EventType:
    """What a document says."""
    own_id = document["_id"]
    first, last = to_milliseconds(document["first_seen"]), to_milliseconds(document["last_seen"])
    return EventType(own_id["source"], own_id["event_type"], first, last)
