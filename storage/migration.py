"""Copies the events of layout 1 into layout 2 (`layout.py`).

It can be killed at any moment, and goes on when it is run again:

1. Save in `meta` that the copy has begun, and make `probes` a view. From now on, no server of any layout starts.
2. Rename `events` to `events.layout1`, and create the clustered `events`.
3. Copy in the order of `_id`, COPIED_AT_ONCE at a time, and save after each step how far it is. What was copied and not
   saved is copied again: an event that is there already stays as it is.
4. Count both. If none is missing, make an operator's rules again (`operator_rules.py`), drop `events.layout1`, and save
   that the layout is 2.

Example: it is killed after the second of three steps, before that is saved. The next run does the second again, finds
all of it stored, and goes on with the third.

The `_id` of layout 2 takes a few bytes more. An event for which MongoDB's 16 MiB are then too small is kept as it is,
in `events.too_large`. No client can send one, but an operator can insert it.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeGuard
from uuid import UUID

from bson.binary import UUID_SUBTYPE, Binary
from bson.datetime_ms import DatetimeMS
from bson.min_key import MinKey
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from server.core.deadline import Deadline
from server.core.errors import ConfigurationError
from server.core.events.model import MAX_NAME_CHARS
from server.core.times import MAX_MS, MIN_MS
from storage import documents
from storage.catalog import Pair, Span, StoredCatalog
from storage.client import RawCollection, raw_collection
from storage.commands import (
    MAJORITY,
    RETRY_PAUSE_S,
    Database,
    listed,
)
from storage.documents import UUID_BYTES
from storage.failures import OPERATOR_ERRORS, TEMPORARY_CODES, codes_of
from storage.indexes import EVENTS, LEASES, META, check_collections
from storage.layout import (
    LAYOUT,
    LAYOUT_ID,
    OLD_EVENTS,
    TOO_LARGE_EVENTS,
    check_known,
    create_events,
    exists,
    is_clustered,
    keep_layout_1_out,
    layout_of,
    save_layout,
)
from storage.leases import CLOCK_MARGIN, end_after
from storage.operator_rules import Rule, make_again, rules_of

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
"""MongoDB's limit on a document."""

COPIED_AT_ONCE = 5_000
"""Events in one step, unless they have more than 16 MiB together."""

STEP_TIMEOUT_S = 120.0
"""How long temporary errors of a step are retried. A small cache that a very large event has filled is free again at
the next checkpoint, which MongoDB makes every 60 s."""

DUPLICATE_KEY = 11000
"""MongoDB's code for a document whose `_id` is stored already."""

COPYING, POSITION, COPIED = "copying", "position", "copied"
"""Fields of the layout's document in `meta` while a copy has begun: that it has, the last `_id`, and how many."""


class Plan(NamedTuple):
    """What a migration would do."""

    version: int | None
    """The layout of the database; None if it has no events."""
    events: int
    """How many events there are to copy, about, with those that are copied."""
    copied: int
    """How many of them an earlier run has copied."""
    has_begun: bool
    rules: list[Rule]
    """What an operator added to `events`."""

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to do."""
        return self.version is not None and self.version < LAYOUT


class Spans(NamedTuple):
    """What the catalog needs to know of events."""

    times_ms: dict[UUID, dict[Pair, Span]]
    """For each source and type of a tenant, when its first and its last event came."""
    incomplete: set[UUID]
    """Tenants with an event that the catalog cannot describe: an operator inserted it."""


async def plan(database: Database) -> Plan:
    """What `migrate` would do. It writes nothing.

    Raises ConfigurationError if the database has a layout that is newer than this code, or has a view or the like in
    place of a collection, and the driver's errors.
    """
    await check_collections(database)
    version = await layout_of(database)
    check_known(version)
    if version is None or version == LAYOUT:
        return Plan(version, 0, 0, has_begun=False, rules=[])
    saved = await database[META].find_one({"_id": LAYOUT_ID}, {COPYING: 1, COPIED: 1}) or {}
    source = await source_of(database)
    events = 0 if source is None else await database[source].estimated_document_count()
    rules = [] if source is None else await rules_of(database, source)
    return Plan(version, events, saved.get(COPIED, 0), COPYING in saved, rules)


async def source_of(database: Database) -> str | None:
    """The collection with the events of layout 1; None if it is dropped already."""
    for name in (OLD_EVENTS, EVENTS):
        found = await listed(database, "listCollections", filter={"name": name})
        if found and not is_clustered(found[0]):
            return name
    return None


async def migrate(database: Database, on_progress: Callable[[int], object], lease_s: float | None = None) -> list[str]:
    """Bring the database to this layout. Calls `on_progress` with how many events are copied after each step.

    `lease_s` is how long the leases of servers last, in seconds; None if no server can use the database. Returns what
    is not as it was, for people. Raises ConfigurationError if a server uses the database, if events are missing at the
    end, or if MongoDB refuses a step, and the driver's errors.
    """
    with refusals_named():
        if lease_s is not None:
            await check_unused(database, lease_s)
        await database[META].update_one({"_id": LAYOUT_ID}, {"$set": {"version": 1, COPYING: True}}, upsert=True)
        await keep_layout_1_out(database)
        if lease_s is not None:
            await check_unused(database, lease_s)  # one may have started meanwhile
        await set_old_events_aside(database)
        await create_events(database)
        await copy(database, on_progress)
        await check_complete(database)
        notes = await finish(database)
        await save_layout(database)
    return notes


@contextmanager
def refusals_named() -> Iterator[None]:
    """Turn what MongoDB refuses, and a retry does not change, into ConfigurationError with MongoDB's code."""
    try:
        yield
    except OperationFailure as error:
        codes = codes_of(error) - {DUPLICATE_KEY}
        if not codes or codes & (TEMPORARY_CODES | OPERATOR_ERRORS.keys()):
            raise
        raise ConfigurationError(
            f"MongoDB refuses a step of the migration (MongoDB code {min(codes)}; its log says more). Nothing is lost: "
            "fix the cause, and run `sluice migrate` again"
        ) from None


async def check_unused(database: Database, lease_s: float) -> None:
    """Raises ConfigurationError if a server uses the database: one of its workers holds the lease of a job.

    What counts as held is as in `Leases.acquire`: the database's clock may have been set back.
    """
    latest = end_after(CLOCK_MARGIN * lease_s)
    is_held = {"$expr": {"$and": [{"$gt": ["$expires_at", "$$NOW"]}, {"$lte": ["$expires_at", latest]}]}}
    if await database[LEASES].find_one(is_held) is not None:
        raise ConfigurationError(
            f"a server uses this database: stop all servers, wait {lease_s:.0f} s, and run `sluice migrate` again"
        )


async def set_old_events_aside(database: Database) -> None:
    """Rename the old collection, unless that was done.

    There may be both, if `events` was dropped and an insert has made it again: then all are put together.
    """
    found = await listed(database, "listCollections", filter={"name": EVENTS})
    if not found or is_clustered(found[0]):
        return
    if not await exists(database, OLD_EVENTS):
        await database[EVENTS].rename(OLD_EVENTS)
        return
    pipeline = [{"$merge": {"into": OLD_EVENTS, "whenMatched": "keepExisting"}}]
    await database.command({"aggregate": EVENTS, "pipeline": pipeline, "cursor": {}, "writeConcern": MAJORITY})
    await database[META].update_one({"_id": LAYOUT_ID}, {"$unset": {POSITION: 1, COPIED: 1}})
    await database[EVENTS].drop()


async def copy(database: Database, on_progress: Callable[[int], object]) -> None:
    """Copy all events that are not copied yet."""
    new, too_large = (raw_collection(database, name, documents.LAZY) for name in (EVENTS, TOO_LARGE_EVENTS))
    saved = await raw_collection(database, META, documents.LAZY).find_one({"_id": LAYOUT_ID})
    position, copied = (MinKey(), 0) if saved is None else (saved.get(POSITION, MinKey()), saved.get(COPIED, 0))
    while found := await next_events(database, position):
        copies = [documents.in_layout_2(bytes(document.raw)) for document in found]
        await add_to_catalog(database, spans_of(copies))
        fits = [len(each.raw) <= MAX_DOCUMENT_BYTES for each in copies]
        small = [each for each, is_small in zip(copies, fits, strict=True) if is_small]
        large = [each for each, is_small in zip(found, fits, strict=True) if not is_small]
        await insert_missing(new, small)
        await insert_missing(too_large, large)
        position, copied = found[-1]["_id"], copied + len(found)
        await database[META].update_one({"_id": LAYOUT_ID}, {"$set": {POSITION: position, COPIED: copied}})
        on_progress(copied)


async def next_events(database: Database, position: Any) -> Sequence[RawBSONDocument]:
    """The next old events after the one whose `_id` is `position`, as many as fit into one reply of 16 MiB.

    `$expr` compares ids of any type. Sluice's are UUIDs, but an operator may have inserted an event with another.
    """
    after = {"$expr": {"$gt": ["$_id", {"$literal": position}]}}
    command = {"find": OLD_EVENTS, "filter": after, "sort": {"_id": 1}, "hint": {"_id": 1}, "singleBatch": True}
    reply = await database.command({**command, "batchSize": COPIED_AT_ONCE}, codec_options=documents.LAZY)
    found: Sequence[RawBSONDocument] = reply["cursor"]["firstBatch"]
    return found


def spans_of(events: Sequence[Mapping[str, Any]]) -> Spans:
    """What the catalog needs to know of events of layout 2.

    An operator's event may lack a field, or have a value that no client can send. The catalog then does not know what
    its filters may find, so it is incomplete for that tenant.
    """
    spans = Spans({}, set())
    for event in events:
        tenant, source, event_type = event["_id"].get("tenant_id"), event.get("source"), event.get("event_type")
        time_ms = event.get("received_at")
        if not (isinstance(tenant, Binary) and tenant.subtype == UUID_SUBTYPE and len(tenant) == UUID_BYTES):
            continue  # of no tenant, so no list shows it
        tenant_id = UUID(bytes=tenant)
        if is_name(source) and is_name(event_type) and is_time(time_ms):
            types = spans.times_ms.setdefault(tenant_id, {})
            first, last = types.get((source, event_type), (int(time_ms), int(time_ms)))
            types[source, event_type] = min(first, int(time_ms)), max(last, int(time_ms))
        else:
            spans.incomplete.add(tenant_id)
    return spans


def is_name(value: Any) -> TypeGuard[str]:
    """Whether a client can send this source or type."""
    return isinstance(value, str) and len(value) <= MAX_NAME_CHARS


def is_time(value: Any) -> TypeGuard[DatetimeMS]:
    """Whether this is a time of the years 1 to 9999."""
    return isinstance(value, DatetimeMS) and MIN_MS <= int(value) <= MAX_MS


async def add_to_catalog(database: Database, spans: Spans) -> None:
    """Add the types to the catalog, or widen their times if they are there. Raises Unavailable."""
    for tenant_id in spans.times_ms.keys() | spans.incomplete:
        is_complete = tenant_id not in spans.incomplete
        await StoredCatalog(database).add_copied(tenant_id, spans.times_ms.get(tenant_id, {}), is_complete)


async def insert_missing(new: RawCollection, copies: Sequence[RawBSONDocument]) -> None:
    """Insert documents, but those that are there. Temporary errors are retried. Raises the driver's errors."""
    deadline = Deadline(STEP_TIMEOUT_S)
    while copies:
        try:
            await new.insert_many(copies, ordered=False)
        except OperationFailure as error:
            codes = codes_of(error) - {DUPLICATE_KEY}
            if codes and (not codes <= TEMPORARY_CODES or deadline.remaining() <= 0):
                raise
            if codes:
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
        return


async def check_complete(database: Database) -> None:
    """Raises ConfigurationError if the new collections have fewer events than the old one."""
    old, *new = [await database[name].count_documents({}) for name in (OLD_EVENTS, EVENTS, TOO_LARGE_EVENTS)]
    if sum(new) < old:
        raise ConfigurationError(
            f"{old - sum(new):,} of {old:,} events are missing in the copy: nothing was dropped, and {OLD_EVENTS!r} "
            "has all"
        )


async def finish(database: Database) -> list[str]:
    """Make an operator's rules again, and drop the old events. Returns what is not as it was, for people."""
    notes = []
    if await exists(database, OLD_EVENTS):
        notes = await make_again(database, await rules_of(database, OLD_EVENTS))
        await database[OLD_EVENTS].drop()
    if count := await database[TOO_LARGE_EVENTS].count_documents({}):
        notes.append(
            f"{count} events are too large for the new layout by a few bytes: they are in {TOO_LARGE_EVENTS!r}"
        )
    return notes
