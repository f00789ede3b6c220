"""Reads events from MongoDB, by page or by id.

Reads have a client of their own: PyMongo's asynchronous one, whatever `--driver` says. Motor runs all calls of a
process in one pool of threads, so slow reads would hold up writes, key lookups and health.

No cursor is kept between two calls. A page is found first, as ids (`matches.py`), and then fetched by them. So a slow
client holds nothing in the database, and a page outlives an election.
"""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from bson.binary import Binary
from bson.raw_bson import RawBSONDocument

from server.core.deadline import Deadline
from server.core.errors import NotFound
from server.core.events.model import EventFilter
from server.core.events.store import Fetched, Match, Matches, Position
from storage import documents
from storage.commands import Database, Document, retry_without_events
from storage.indexes import EVENTS
from storage.layout import query_by_full_ids
from storage.matches import Search


class StoredEvents:
    """The collection `events`, as reads see it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self, tenant_id: UUID, where: EventFilter, start: Position, count: int, deadline: Deadline
    ) -> Matches:
        """See `EventReader`."""
        return await Search(self._database, tenant_id, where, start, count, deadline).run()

    async def fetch(self, matches: Sequence[Match], deadline: Deadline) -> Fetched:
        """See `EventReader`."""
        return await self._fetch(query_by_full_ids([match.id for match in reversed(matches)]), len(matches), deadline)

    async def get(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> Fetched:
        """See `EventReader`."""
        own_id = {"tenant_id": Binary.from_uuid(tenant_id), "id": Binary.from_uuid(event_id)}
        found = await self._fetch({"_id": own_id}, 1, deadline)
        if not found.length:
            raise NotFound("This tenant has no event with this id")
        return found

    async def _fetch(self, matching: Document, count: int, deadline: Deadline) -> Fetched:
        command = {
            "find": EVENTS,
            "filter": matching,
            "sort": {"_id": -1},
            "hint": {"_id": 1},
            "batchSize": count,
            "singleBatch": True,
            "readConcern": {"level": "majority"},
        }
        call = partial(self._database.command, command, codec_options=documents.LAZY)
        return fetched((await retry_without_events(call, deadline))["cursor"]["firstBatch"])


def fetched(found: Sequence[RawBSONDocument]) -> Fetched:
    """Documents as the core sees them. Their bytes are copied: a document may be a view of the whole reply."""
    encoded = [bytes(document.raw) for document in found]
    return Fetched(map(documents.decode, encoded), len(encoded), sum(map(len, encoded)))
