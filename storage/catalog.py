"""Stores the catalog of sources and types in MongoDB.

The `_id` of a document is `{tenant_id, source, event_type}`. So what a tenant has sent stands together, in the order in
which it is shown. One more document of a tenant, its marker, has neither source nor type:

- Its `is_complete` is true if every type of the tenant's events is in the catalog.
- It is false if the tenant has more than MAX_TYPES. No more are added then.
- Without a marker, types are added, but there may be events of others: an operator has dropped the collection.

Only a tenant without events gets the marker. So after the collection was dropped, lists find what is stored all the
same. A type is shown again once it was sent again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from bson.binary import Binary
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.raw_bson import RawBSONDocument

from server.core.deadline import Deadline
from server.core.events.catalog import EventType, FetchedTypes, TenantSource
from server.core.events.model import EventFilter
from server.core.times import from_milliseconds, to_milliseconds
from storage import documents
from storage.commands import MAJORITY, Database, Document, find_each, retry_without_events, update_each
from storage.indexes import CATALOG, EVENTS

MAX_TYPES = 10_000
"""Types of a tenant, over all its sources: far more than people look through. A list of them has about 1 MiB with names
of 10 characters, and 20 MiB with the longest."""

FETCHED_TYPES = 500
"""Types in one fetch: 1 MiB with the longest names, as much as a fetch of events."""

Pair = tuple[str, str]
"""A source, and a type."""

Span = tuple[int, int]
"""When the first and the last event of a type came, in milliseconds since 1970."""


class StoredCatalog:
    """The collection of the catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = database[CATALOG]

    async def add(
        self, tenant_source: TenantSource, event_types: Sequence[str], seen_at_ms: int, deadline: Deadline
    ) -> None:
        """See `CatalogStore`."""
        await retry_without_events(partial(self._add, tenant_source, event_types, seen_at_ms), deadline)

    async def add_copied(self, tenant_id: UUID, spans: Mapping[Pair, Span], is_complete: bool) -> None:
        """Add the types of events that a migration copies, or widen the times of those that are there.

        `is_complete` says whether these are all types of the events. Raises Unavailable.
        """
        await retry_without_events(partial(self._add_copied, tenant_id, spans, is_complete), Deadline())

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
        query = {**query_of(tenant_id), "$or": [{"_id": marker_id(tenant_id)}, given]}
        found = await retry_without_events(partial(self._find, query, 2), deadline)
        is_complete = bool(found) and found[0].get("is_complete", False)  # the marker is first in order
        return not is_complete or len(found) > 1

    async def first_seen(self, tenant_id: UUID, event_type: str, source: str | None, deadline: Deadline) -> int | None:
        """When the first event of a type was received from a source, or from any.

        In milliseconds since 1970; None if the catalog does not know the type. Raises Unavailable.
        """
        names = {"_id.event_type": event_type} | ({} if source is None else {"_id.source": source})
        query = {"$match": {**query_after(tenant_id, None), **names}}
        pipeline = [query, {"$group": {"_id": None, "at": {"$min": "$first_seen"}}}]
        command = {"aggregate": CATALOG, "pipeline": pipeline, "cursor": {}, "readConcern": {"level": "majority"}}
        call = partial(self._database.command, command, codec_options=self._database.codec_options)
        reply: Any = await retry_without_events(call, deadline)
        at = [each["at"] for each in reply["cursor"]["firstBatch"]]
        return to_milliseconds(at[0]) if at and isinstance(at[0], datetime) else None

    async def _add(self, tenant_source: TenantSource, event_types: Sequence[str], seen_at_ms: int) -> None:
        ids, marker = [id_of(tenant_source, event_type) for event_type in event_types], marker_id(tenant_source[0])
        stored = await self._find({"_id": {"$in": [marker, *ids]}}, len(ids) + 1)
        found = {document["_id"]["event_type"]: document for document in stored}
        missing = [own_id for own_id in ids if own_id["event_type"] not in found]
        statements = list[Document]()
        if missing:
            was_complete = found[None].get("is_complete", False) if None in found else None
            is_complete = await self._is_complete(tenant_source[0], was_complete, len(missing))
            if is_complete is False:
                missing = []
            if is_complete != was_complete:  # before the types: the next call does not look if it finds them there
                change = {"$setOnInsert" if is_complete else "$set": {"is_complete": is_complete}}
                statements.append({"q": {"_id": marker}, "u": change, "upsert": True})
        seen_at = from_milliseconds(seen_at_ms)
        older = [own_id for own_id in ids if is_older(found.get(own_id["event_type"]), seen_at)]
        times = {"$min": {"first_seen": seen_at}, "$max": {"last_seen": seen_at}}
        statements += [{"q": {"_id": own_id}, "u": times, "upsert": True} for own_id in [*missing, *older]]
        if statements:
            await update_each(self._database, CATALOG, statements, MAJORITY)

    async def _is_complete(self, tenant_id: UUID, was_complete: bool | None, more: int) -> bool | None:
        """What a tenant's marker says once `more` types are to be added; None if it has no marker."""
        if was_complete is False:
            return False
        if await self._collection.count_documents(query_after(tenant_id, None), limit=MAX_TYPES) + more > MAX_TYPES:
            return False
        if was_complete:
            return True
        tenant = Binary.from_uuid(tenant_id)
        events = {"_id": {"$gte": {"tenant_id": tenant, "id": MinKey()}, "$lt": {"tenant_id": tenant, "id": MaxKey()}}}
        return None if await find_each(self._database, EVENTS, events, {"_id": 1}, 1) else True

    async def _add_copied(self, tenant_id: UUID, spans: Mapping[Pair, Span], is_complete: bool) -> None:
        ids, marker = [id_of((tenant_id, source), event_type) for source, event_type in spans], marker_id(tenant_id)
        found = await self._find({"_id": {"$in": [marker, *ids]}}, len(ids) + 1)
        known = [document for document in found if document["_id"]["source"] is not None]
        count = await self._collection.count_documents(query_after(tenant_id, None), limit=MAX_TYPES)
        has_room = count + len(ids) - len(known) <= MAX_TYPES
        was_complete = len(found) == len(known) or found[0]["is_complete"]  # the marker is first in order
        change = {"$set": {"is_complete": is_complete and has_room and was_complete}}
        statements: list[Document] = [{"q": {"_id": marker}, "u": change, "upsert": True}]
        for own_id, (first_ms, last_ms) in zip(ids, spans.values(), strict=True):
            first, last = from_milliseconds(first_ms), from_milliseconds(last_ms)
            times = {"$min": {"first_seen": first}, "$max": {"last_seen": last}}
            statements.append({"q": {"_id": own_id}, "u": times, "upsert": has_room})
        await update_each(self._database, CATALOG, statements, MAJORITY)

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
    """The MongoDB query for a tenant's marker and types."""
    return {"_id": {"$gte": marker_id(tenant_id), "$lt": highest_id(tenant_id)}}


def query_after(tenant_id: UUID, last: EventType | None) -> Document:
    """The MongoDB query for a tenant's types after `last`; for all if that is None."""
    start = (
        {"$gte": id_of((tenant_id, ""), "")}
        if last is None
        else {"$gt": id_of((tenant_id, last.source), last.event_type)}
    )
    return {"_id": {**start, "$lt": highest_id(tenant_id)}}


def id_of(tenant_source: TenantSource, event_type: str) -> Document:
    """The `_id` of a type that a source has sent."""
    return {"tenant_id": Binary.from_uuid(tenant_source[0]), "source": tenant_source[1], "event_type": event_type}


def marker_id(tenant_id: UUID) -> Document:
    """The `_id` of a tenant's marker, which is below those of its types."""
    return {"tenant_id": Binary.from_uuid(tenant_id), "source": None, "event_type": None}


def highest_id(tenant_id: UUID) -> Document:
    """What is above the `_id`s of a tenant's types."""
    return {"tenant_id": Binary.from_uuid(tenant_id), "source": MaxKey()}


def is_older(document: Mapping[str, Any] | None, seen_at: datetime) -> bool:
    """Whether a type is in the catalog with a last event before `seen_at`."""
    return document is not None and document["last_seen"] < seen_at


def event_type_of(document: Mapping[str, Any]) -> EventType:
    """What a document says."""
    own_id = document["_id"]
    first, last = to_milliseconds(document["first_seen"]), to_milliseconds(document["last_seen"])
    return EventType(own_id["source"], own_id["event_type"], first, last)
