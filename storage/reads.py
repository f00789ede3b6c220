"""Reads events from MongoDB, by page or by id.

Reads have a client of their own: PyMongo's asynchronous one, whatever `--driver` says. Motor runs all calls of a
process in one pool of threads, so slow reads would hold up writes, key lookups and health.

No cursor is kept between two calls. A page is found first, as ids (`matches.py`), and then fetched by them. So a slow
client holds nothing in the database, and a page outlives an election.

MongoDB 6.0 looks up one `_id` in a clustered collection, and reads the whole range between the ends of a list of them.
Neighbours are read as a range: 1,000 in 7 ms. That of rare events may be the whole collection: 30 of 300,000 took
650 ms. So a range has as much time as looking up each id would take, and then that is done: 30 take 4 ms.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from bson.binary import Binary
from bson.raw_bson import RawBSONDocument

from server.core.deadline import Deadline
from server.core.errors import NotFound
from server.core.events.model import EventFilter
from server.core.events.store import Course, Fetched, Match, Matches, PageSize, Position
from storage import documents
from storage.commands import Database, Document, attempt, retry_without_events
from storage.indexes import EVENTS
from storage.layout import query_by_full_ids
from storage.matches import Search, first_matches
from storage.scan import EventScan

LOOKUPS_PER_MS = 10
"""How many events MongoDB looks up by their `_id` in a millisecond."""

SHORTEST_RANGE_MS = 10
"""How long the database may always try a range: it needs some milliseconds to find that its time is over."""


class StoredEvents:
    """The collection `events`, as reads see it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self, tenant_id: UUID, where: EventFilter, start: Position, size: PageSize, deadline: Deadline
    ) -> Matches:
        """See `EventReader`."""
        found = await Search(self._database, tenant_id, where, start, size.events, deadline).run()
        return found if size.bytes is None else first_matches(found, size.bytes)

    async def fetch(self, matches: Sequence[Match], deadline: Deadline) -> Fetched:
        """See `EventReader`."""
        ids = [match.id for match in matches]
        in_range = find(query_by_full_ids(ids[::-1]), len(ids))
        if len(ids) == 1:  # it may be of any size: a lookup would need room for it and its id in one document
            return await self._run(in_range, deadline)
        limit_ms = SHORTEST_RANGE_MS + len(ids) // LOOKUPS_PER_MS
        reply = await attempt(self._database, in_range, limit_ms, documents.LAZY, deadline)
        return await self._run(look_up(ids), deadline) if reply is None else fetched(reply)

    def scan(self, tenant_id: UUID, where: EventFilter, course: Course) -> EventScan:
        """See `EventScanner`."""
        return EventScan(self._database, tenant_id, where, course)

    async def get(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> Fetched:
        """See `EventReader`."""
        own_id = {"tenant_id": Binary.from_uuid(tenant_id), "id": Binary.from_uuid(event_id)}
        found = await self._run(find({"_id": own_id}, 1), deadline)
        if not found.length:
            raise NotFound("This tenant has no event with this id")
        return found

    async def _run(self, command: Document, deadline: Deadline) -> Fetched:
        call = partial(self._database.command, command, codec_options=documents.LAZY)
        return fetched(await retry_without_events(call, deadline))


def find(matching: Document, count: int) -> Document:
    """The command that finds `count` events, newest first."""
    return {
        "find": EVENTS,
        "filter": matching,
        "sort": {"_id": -1},
        "hint": {"_id": 1},
        "batchSize": count,
        "singleBatch": True,
        "readConcern": {"level": "majority"},
    }


def look_up(ids: Sequence[RawBSONDocument]) -> Document:
    """The command that looks up each of the ids, in their order. An id may have any content, so it is a literal."""
    return {
        "aggregate": 1,
        "pipeline": [
            {"$documents": {"$literal": [{"_id": own_id} for own_id in ids]}},
            {"$lookup": {"from": EVENTS, "localField": "_id", "foreignField": "_id", "as": "event"}},
            {"$unwind": "$event"},
            {"$replaceWith": "$event"},
        ],
        "cursor": {"batchSize": len(ids) + 1},  # with one less, MongoDB would keep the cursor
        "readConcern": {"level": "majority"},
    }


def fetched(reply: Any) -> Fetched:
    """The documents in a reply as the core sees them. Their bytes are copied: one may be a view of the whole reply."""
    encoded = [bytes(document.raw) for document in reply["cursor"]["firstBatch"]]
    return Fetched(map(documents.decode, encoded), len(encoded), sum(map(len, encoded)))
