"""Reads events from MongoDB, by page or by id.

Reads have a client of their own: PyMongo's asynchronous one, whatever `--driver` says. Motor runs all calls of a
process in one pool of threads, so slow reads would hold up writes, key lookups and health.

No cursor is kept between two fetches of a page. A fetch starts after the id of the last event before it. So a slow
client holds nothing in the database, and a page outlives an election.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from bson.binary import UUID_SUBTYPE, Binary
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.raw_bson import RawBSONDocument

from server.core.deadline import Deadline
from server.core.errors import NotFound
from server.core.events.ids import lowest_id
from server.core.events.model import EventFilter
from server.core.events.store import Fetched, Position
from storage import documents
from storage.commands import Database, Document, retry_without_events
from storage.indexes import EVENTS

LOWEST, HIGHEST = Binary(bytes(16), UUID_SUBTYPE), Binary(b"\xff" * 16, UUID_SUBTYPE)
"""Bounds of all UUIDs. No id of ours is one of them: each has a version."""


class StoredEvents:
    """The collection `events`, as reads see it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def fetch(
        self, tenant_id: UUID, where: EventFilter, start: Position, count: int, max_bytes: int, deadline: Deadline
    ) -> Fetched:
        """The next events of a tenant that match, newest first: at most `count`, and `max_bytes` unless one is larger.

        Raises Unavailable.
        """
        command = find_command(query(tenant_id, where, start), start.skip, count)
        found, is_complete = await retry_without_events(partial(self._find, command), deadline)
        kept = first_within(found, max_bytes)
        is_end = is_complete and len(kept) == len(found) and len(found) < count
        return fetched(kept, rest=None if is_end else Position(0, found[len(kept) - 1]["_id"]))

    async def get(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> Fetched:
        """One event of a tenant. Raises NotFound, for another tenant's too, and Unavailable."""
        own_id = {"tenant_id": Binary.from_uuid(tenant_id), "id": Binary.from_uuid(event_id)}
        command = find_command({"_id": own_id}, 0, 1)
        found, _ = await retry_without_events(partial(self._find, command), deadline)
        if not found:
            raise NotFound("This tenant has no event with this id")
        return fetched(found, rest=None)

    async def _find(self, command: Document) -> tuple[list[RawBSONDocument], bool]:
        """The documents of the first reply, and whether they are all. A reply has 16 MiB at most."""
        reply = await self._database.command(command, codec_options=documents.LAZY)
        cursor = reply["cursor"]
        if cursor["id"]:
            await self._database.command({"killCursors": EVENTS, "cursors": [cursor["id"]]})
        return cursor["firstBatch"], not cursor["id"]


def find_command(matching: Document, skip: int, count: int) -> Document:
    """The command for the newest `count` documents that match. One more than `count` in a batch ends the cursor."""
    return {
        "find": EVENTS,
        "filter": matching,
        "sort": {"_id": -1},
        "hint": {"_id": 1},
        "skip": skip,
        "limit": count,
        "batchSize": count + 1,
        "readConcern": {"level": "majority"},
    }


def first_within(found: Sequence[RawBSONDocument], max_bytes: int) -> list[RawBSONDocument]:
    """The first documents that have `max_bytes` together, and at least one if there is one."""
    kept, size = list[RawBSONDocument](), 0
    for document in found:
        size += len(document.raw)
        if kept and size > max_bytes:
            break
        kept.append(document)
    return kept


def fetched(found: Sequence[RawBSONDocument], rest: Position | None) -> Fetched:
    """Documents as the core sees them. Their bytes are copied: a document may be a view of the whole reply."""
    encoded = [bytes(document.raw) for document in found]
    size = sum(map(len, encoded))
    return Fetched(map(documents.decode, encoded), len(encoded), size, rest)


def query(tenant_id: UUID, where: EventFilter, start: Position) -> Document:
    """The MongoDB query for the events of a tenant that match: a range of `_id`, and what a filter names.

    Times become bounds of ids, which begin with a time. Without a time, the range also has the events that an operator
    inserted with an id of another type.
    """
    names = {"source": where.source, "event_type": where.event_type, "source_id": where.source_id}
    return {
        "_id": {
            "$gte": id_at(tenant_id, LOWEST if where.until is not None else MinKey(), where.since),
            "$lt": start.after or id_at(tenant_id, HIGHEST if where.since is not None else MaxKey(), where.until),
        },
        **{field: name for field, name in names.items() if name is not None},
    }


def id_at(tenant_id: UUID, default: Any, moment: int | None) -> Document:
    """The bound of `_id` for events of a tenant received at `moment`; without one, for the id `default`."""
    bound = default if moment is None else Binary(lowest_id(moment), UUID_SUBTYPE)
    return {"tenant_id": Binary.from_uuid(tenant_id), "id": bound}
