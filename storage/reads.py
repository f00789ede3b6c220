"""Reads events from MongoDB, by page or by id.

Reads have a client of their own: PyMongo's asynchronous one, whatever `--driver` says. Motor runs all calls of a
process in one pool of threads, so slow reads would hold up writes, key lookups and health.

No cursor is kept between two fetches of a page. A fetch starts after the id of the last event before it. So a slow
client holds nothing in the database, and a page outlives an election.
"""

import logging
from collections.abc import Sequence
from functools import partial
from time import monotonic
from uuid import UUID

from bson.binary import UUID_SUBTYPE, Binary
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from server.core.deadline import Deadline
from server.core.errors import NotFound
from server.core.events.ids import lowest_id
from server.core.events.model import EventFilter
from server.core.events.store import Fetched, Position
from storage import documents
from storage.commands import Database, Document, retry_without_events
from storage.indexes import EVENTS, LISTING

BAD_VALUE = 2
"""MongoDB's code for a hint that names no index, among others."""

WARNING_INTERVAL_S = 60
"""How often a missing index is logged: every list would notice it."""

log = logging.getLogger("sluice")


class StoredEvents:
    """The collection `events`, as reads see it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next_warning = 0.0

    async def fetch(
        self, tenant_id: UUID, where: EventFilter, start: Position, count: int, max_bytes: int, deadline: Deadline
    ) -> Fetched:
        """The next events of a tenant that match, newest first: at most `count`, and `max_bytes` unless one is larger.

        Raises Unavailable.
        """
        command = find_command(query(tenant_id, where, start), start.skip, count)
        found, is_complete = await retry_without_events(partial(self._find_hinted, command), deadline)
        kept = first_within(found, max_bytes)
        is_end = is_complete and len(kept) == len(found) and len(found) < count
        return fetched(kept, rest=None if is_end else Position(0, found[len(kept) - 1]["_id"]))

    async def get(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> Fetched:
        """One event of a tenant. Raises NotFound, for another tenant's too, and Unavailable."""
        command = find_command({"_id": Binary.from_uuid(event_id), "tenant_id": Binary.from_uuid(tenant_id)}, 0, 1)
        found, _ = await retry_without_events(partial(self._find, command), deadline)
        if not found:
            raise NotFound("This tenant has no event with this id")
        return fetched(found, rest=None)

    async def _find_hinted(self, command: Document) -> tuple[list[RawBSONDocument], bool]:
        """What `_find` returns, by the index for lists, or without it if an operator has dropped it."""
        try:
            return await self._find({**command, "hint": LISTING})
        except OperationFailure as error:
            if error.code != BAD_VALUE:
                raise
        found = await self._find(command)
        if monotonic() >= self._next_warning:
            self._next_warning = monotonic() + WARNING_INTERVAL_S
            log.warning("the index %r of %r is missing, so lists are slow: a restart creates it", LISTING, EVENTS)
        return found

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
    """The MongoDB query for the events of a tenant that match. Times become bounds of ids, which begin with a time.

    `$expr` compares ids of any type. Sluice's are UUIDs, but an operator may have inserted an event with another.
    """
    ids = {
        operator: Binary(lowest_id(moment), UUID_SUBTYPE)
        for operator, moment in (("$gte", where.since), ("$lt", where.until))
        if moment is not None
    }
    names = {"source": where.source, "event_type": where.event_type, "source_id": where.source_id}
    return {
        "tenant_id": Binary.from_uuid(tenant_id),
        **({"_id": ids} if ids else {}),
        **({} if start.after is None else {"$expr": {"$lt": ["$_id", {"$literal": start.after}]}}),
        **{field: name for field, name in names.items() if name is not None},
    }
