"""Copies the events of layout 1 into layout 2 (`layout.py`).

It can be killed at any moment, and goes on when it is run again:

1. Save in `meta` that the copy has begun. From now on, no server starts.
2. Rename `events` to `events.layout1`, and create the clustered `events`.
3. Copy in the order of `_id`, COPIED_AT_ONCE at a time, and save after each step how far it is. What was copied and not
   saved is copied again: an event that is there already stays as it is.
4. Count both. If none is missing, drop `events.layout1`, and save that the layout is 2.

Example: it is killed after the second of three steps, before that is saved. The next run does the second again, finds
all of it stored, and goes on with the third.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.min_key import MinKey
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError

from server.core.deadline import Deadline
from server.core.errors import ConfigurationError
from server.core.events.catalog import Sender
from storage import documents
from storage.catalog import StoredCatalog
from storage.client import raw_collection
from storage.commands import Database, listed
from storage.documents import UUID_BYTES
from storage.indexes import EVENTS, LEASES, META
from storage.layout import LAYOUT, LAYOUT_ID, create_events, is_clustered, layout_of, save_layout

OLD_EVENTS = "events.layout1"

COPIED_AT_ONCE = 5_000
"""Events in one step, unless they have more than 16 MiB together."""

DUPLICATE_KEY = 11000
"""MongoDB's code for a document whose `_id` is stored already."""

COPYING = "copying"
"""The field of the layout's document in `meta` that exists while a copy has begun."""


class Plan(NamedTuple):
    """What a migration would do."""

    version: int | None
    """The layout of the database; None if it has no events."""
    events: int
    """How many events would be copied, about."""
    has_begun: bool

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to do."""
        return self.version is not None and self.version < LAYOUT


async def plan(database: Database) -> Plan:
    """What `migrate` would do. Raises the driver's errors."""
    saved = await database[META].find_one({"_id": LAYOUT_ID}) or {}
    version = await layout_of(database)
    name = OLD_EVENTS if await exists(database, OLD_EVENTS) else EVENTS
    events = await database[name].estimated_document_count() if version == 1 else 0
    return Plan(version, events, COPYING in saved)


async def migrate(database: Database, on_progress: Callable[[int], Any]) -> None:
    """Bring the database to this layout. Calls `on_progress` with the number of events after each step.

    No server may use the database (`check_unused`). Raises ConfigurationError if events are missing at the end, and the
    driver's errors.
    """
    await database[META].update_one({"_id": LAYOUT_ID}, {"$set": {"version": 1, COPYING: True}}, upsert=True)
    await set_old_events_aside(database)
    await create_events(database)
    await copy(database, on_progress)
    await check_complete(database)
    await database[OLD_EVENTS].drop()
    await save_layout(database)


async def check_unused(database: Database) -> None:
    """Raises ConfigurationError if a server uses the database: one of its workers holds the lease of a job."""
    now = (await database.command("hello"))["localTime"]
    held = await database[LEASES].find_one({"expires_at": {"$gt": now}})
    if held is not None:
        raise ConfigurationError(
            "a server uses this database: stop all servers, wait 15 s, and run `sluice migrate` again"
        )


async def set_old_events_aside(database: Database) -> None:
    """Rename the old collection, unless that was done."""
    found = await listed(database, "listCollections", filter={"name": EVENTS})
    if found and not is_clustered(found[0]):
        await database[EVENTS].rename(OLD_EVENTS)


async def copy(database: Database, on_progress: Callable[[int], Any]) -> None:
    """Copy all events that are not copied yet."""
    new, catalog = raw_collection(database, EVENTS, documents.LAZY), StoredCatalog(database)
    saved = await raw_collection(database, META, documents.LAZY).find_one({"_id": LAYOUT_ID})
    position = MinKey() if saved is None else saved.get("position", MinKey())
    while found := await next_events(database, position):
        for sender, times_ms in seen(found).items():
            await catalog.add(sender, list(times_ms), min(times_ms.values()), Deadline())
            await catalog.save_last_seen({sender: times_ms}, Deadline())
        await insert_missing(new, [documents.in_layout_2(bytes(document.raw)) for document in found])
        position = found[-1]["_id"]
        await database[META].update_one({"_id": LAYOUT_ID}, {"$set": {"position": position}})
        on_progress(len(found))


async def next_events(database: Database, position: Any) -> Sequence[RawBSONDocument]:
    """The next old events after the one whose `_id` is `position`, as many as fit into one reply of 16 MiB.

    `$expr` compares ids of any type. Sluice's are UUIDs, but an operator may have inserted an event with another.
    """
    after = {"$expr": {"$gt": ["$_id", {"$literal": position}]}}
    command = {"find": OLD_EVENTS, "filter": after, "sort": {"_id": 1}, "hint": {"_id": 1}, "singleBatch": True}
    reply = await database.command({**command, "batchSize": COPIED_AT_ONCE}, codec_options=documents.LAZY)
    found: Sequence[RawBSONDocument] = reply["cursor"]["firstBatch"]
    return found


def seen(found: Sequence[RawBSONDocument]) -> dict[Sender, dict[str, int]]:
    """For each source of a tenant in old events, when the last event of each type came, in milliseconds since 1970.

    What an operator inserted may have no such fields. It is left out.
    """
    times_ms: dict[Sender, dict[str, int]] = {}
    for event in found:
        match event.get("tenant_id"), event.get("source"), event.get("event_type"), event.get("received_at"):
            case Binary() as tenant_id, str(source), str(event_type), DatetimeMS() as time if (
                len(tenant_id) == UUID_BYTES
            ):
                times_ms.setdefault((UUID(bytes=tenant_id), source), {})[event_type] = int(time)
    return times_ms


async def insert_missing(new: Any, copies: Sequence[RawBSONDocument]) -> None:
    """Insert documents, but those that are there."""
    try:
        await new.insert_many(copies, ordered=False)
    except BulkWriteError as error:
        details: Any = error.details
        if any(each["code"] != DUPLICATE_KEY for each in details["writeErrors"]) or details.get("writeConcernErrors"):
            raise


async def check_complete(database: Database) -> None:
    """Raises ConfigurationError if the new collection has fewer events than the old one."""
    old = await database[OLD_EVENTS].count_documents({})
    new = await database[EVENTS].count_documents({})
    if new < old:
        raise ConfigurationError(
            f"{old - new:,} of {old:,} events are missing in the copy: nothing was dropped, and {OLD_EVENTS!r} has all"
        )


async def exists(database: Database, name: str) -> bool:
    """Whether there is a collection of this name."""
    return bool(await listed(database, "listCollections", filter={"name": name}))
