"""Counts the events of each minute, by source and type, and keeps the counts in the collection `volumes`.

A document is `{_id: {tenant_id, minute, source, event_type}, n, expires_at}`. Only minutes that are complete are
counted (`core/rules/windows.py`), and only of tenants with rules that need it. So a rule that compares an hour with the
four weeks before does not read the events of four weeks each time. One more document of a tenant, its marker, has the
`minute` null. Its `spans` say which minutes are counted: a minute without events has no other sign.

Minutes are counted when a measurement needs them: those since the last round, and once those of the time before a new
rule. The counts of some minutes are one transaction with the marker. So whatever is interrupted is repeated, and a
minute that is counted twice has the same counts. A measurement that is cut off keeps the minutes that it has counted.

One thing is not in them. A retry with an idempotency key may complete a batch whose minute was counted already. Its
events have their old time of receipt, so a later look at the events of their window finds them. They are in no count.
The counts of events that retention removes stay. MongoDB deletes them after KEPT, by the TTL index on `expires_at`.

Example: a rule with a window of 15 minutes is evaluated at 12:30 and 12:45. The first evaluation counts 12:15 to 12:30,
and the second 12:30 to 12:45. Then a rule with a window of an hour comes: 11:45 to 12:15 is counted, and no more.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

import pymongo
from bson.binary import Binary

from server.core.deadline import Deadline
from server.core.errors import NotFound, Unavailable
from server.core.rules.config import EventsConfig
from server.core.rules.model import Window
from server.core.rules.spans import gaps_in, with_span
from server.core.rules.windows import MINUTE_MS
from server.core.times import from_milliseconds, to_milliseconds
from storage.client import in_transaction
from storage.commands import Database, Document, retry_without_events
from storage.decoding import decoded
from storage.event_windows import aggregation, events_in
from storage.indexes import EVENTS, TENANTS, VOLUMES
from storage.tenants import NO_TENANT

KEPT = timedelta(days=92)
"""How long counts are kept: a quarter. The longest comparison needs five weeks."""

FIRST_MINUTES = 1
"""Minutes in the first part that is counted: so few that it is done in time, however busy the tenant is."""

MAX_MINUTES = 24 * 60

PART_S = 0.2
"""How long a part should take: a round that is cut off repeats no more than that."""

MAX_GROWTH = 4
"""How many times larger than the part before the next may be."""

FETCHED_TOGETHER = 10_000
"""Counts in one reply: as many as a minute usually has at most. MongoDB ends a reply at 16 MiB."""

SAVED_TOGETHER = 1_000
"""Counts in one command."""


class Volume(NamedTuple):
    """The number of events of a minute, a source and a type."""

    minute: datetime
    source: str
    event_type: str
    events: int


class Volumes:
    """The collection `volumes`. All methods raise Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def complete(self, tenant_id: UUID, window: Window, deadline: Deadline) -> None:
        """Count the minutes of a window that are not counted yet. They must be complete.

        What was counted before the deadline stays. Raises NotFound if the tenant is deleted.
        """
        call = partial(self._database[VOLUMES].find_one, {"_id": marker_id(tenant_id)})
        for gap in gaps_in(spans_of(await retry_without_events(call, deadline)), window):
            await self._fill(tenant_id, gap, deadline)

    async def count(self, tenant_id: UUID, config: EventsConfig, window: Window, deadline: Deadline) -> int:
        """The number of events of a window that a rule looks at. Its minutes must be counted."""
        pipeline = [{"$match": query_of(tenant_id, config, window)}, {"$group": {"_id": None, "n": {"$sum": "$n"}}}]
        command = {"aggregate": VOLUMES, "pipeline": pipeline, "cursor": {}}
        found = await self._run(command, deadline)
        return int(found[0]["n"]) if found else 0

    async def minutes(
        self,
        tenant_id: UUID,
        config: EventsConfig,
        window: Window,
        count: int,
        deadline: Deadline,
        *,
        newest_first: bool = False,
    ) -> list[int]:
        """The first minutes of a window with events of a rule, or the last: as many as surely have `count` of them."""
        command = {
            "find": VOLUMES,
            "filter": query_of(tenant_id, config, window),
            "projection": {"_id": 1},
            "sort": {"_id.minute": -1 if newest_first else 1},
            "limit": count,
            "singleBatch": True,
        }
        found = await self._run(command, deadline)
        return list(dict.fromkeys(to_milliseconds(each["_id"]["minute"]) for each in found))

    async def _run(self, command: Document, deadline: Deadline) -> list[Document]:
        majority = {**command, "readConcern": {"level": "majority"}}
        call = partial(self._database.command, majority, codec_options=self._database.codec_options)
        reply: Any = await retry_without_events(call, deadline)
        found: list[Document] = reply["cursor"]["firstBatch"]
        return found

    async def _fill(self, tenant_id: UUID, gap: Window, deadline: Deadline) -> None:
        """Count the minutes of a gap, part by part. Each part is as large as PART_S allows."""
        start_ms, minutes = gap.start_ms, FIRST_MINUTES
        while start_ms < gap.end_ms:
            part = Window(start_ms, min(start_ms + minutes * MINUTE_MS, gap.end_ms))
            began = monotonic()
            found = await retry_without_events(partial(self._count_events, tenant_id, part, deadline), deadline)
            save = partial(self._save, tenant_id, part, found)
            await retry_without_events(partial(in_transaction, self._database, save), deadline)
            factor = min(MAX_GROWTH, PART_S / max(monotonic() - began, PART_S / MAX_GROWTH))
            minutes = max(1, min(MAX_MINUTES, int(minutes * factor)))
            start_ms = part.end_ms

    async def _count_events(self, tenant_id: UUID, part: Window, deadline: Deadline) -> list[Volume]:
        """The volumes of some minutes, from the events."""
        minute = {"$dateTrunc": {"date": "$received_at", "unit": "minute"}}
        own_id = {"minute": minute, "source": "$source", "event_type": "$event_type"}
        pipeline = [{"$match": events_in(tenant_id, part)}, {"$group": {"_id": own_id, "n": {"$sum": 1}}}]
        options = self._database.codec_options
        reply: Any = await self._database.command(aggregation(pipeline, FETCHED_TOGETHER), codec_options=options)
        found = list(reply["cursor"]["firstBatch"])
        while own_cursor := reply["cursor"]["id"]:
            reply = await self._get_more({"getMore": own_cursor, "collection": EVENTS}, deadline)
            found += reply["cursor"]["nextBatch"]
        volumes = [Volume(**each["_id"], events=each["n"]) for each in found if len(each["_id"]) == len(own_id)]
        return [each for each in volumes if isinstance(each.source, str) and isinstance(each.event_type, str)]

    async def _get_more(self, command: Document, deadline: Deadline) -> Any:
        """The reply to a command that takes no `maxTimeMS`, which the driver would send for its own limit."""
        try:
            with pymongo.timeout(None):
                async with asyncio.timeout(deadline.remaining()):
                    return await self._database.command(command, codec_options=self._database.codec_options)
        except TimeoutError:
            raise Unavailable from None

    async def _save(self, tenant_id: UUID, part: Window, found: Sequence[Volume], session: Any) -> None:
        """Save the counts of some minutes, and that they are there. Raises NotFound, and the driver's errors."""
        tenant = {"tenant_id": Binary.from_uuid(tenant_id), "deletion": None}
        if await self._database[TENANTS].find_one(tenant, {"_id": 1}, session=session) is None:
            raise NotFound(NO_TENANT)
        for at in range(0, len(found), SAVED_TOGETHER):
            updates = [update_of(tenant_id, volume) for volume in found[at : at + SAVED_TOGETHER]]
            await self._database.command({"update": VOLUMES, "updates": updates}, session=session)
        own_id = {"_id": marker_id(tenant_id)}
        spans = with_span(spans_of(await self._database[VOLUMES].find_one(own_id, session=session)), part)
        oldest_ms = part.end_ms - KEPT // timedelta(milliseconds=1)
        kept = [span for span in spans if span.end_ms > oldest_ms]
        change = {"spans": [list(map(from_milliseconds, span)) for span in kept]}
        await self._database[VOLUMES].update_one(own_id, {"$set": change}, upsert=True, session=session)


def marker_id(tenant_id: UUID) -> Document:
    """The `_id` of a tenant's marker."""
    return {"tenant_id": Binary.from_uuid(tenant_id), "minute": None}


def spans_of(marker: Any) -> list[Window]:
    """Which minutes are counted, by a tenant's marker: none without one that can be decoded, so they are counted."""
    return next(iter(decoded(VOLUMES, [] if marker is None else [marker], spans_in)), [])


def spans_in(marker: Document) -> list[Window]:
    """The spans that a marker holds."""
    return [Window(to_milliseconds(start), to_milliseconds(end)) for start, end in marker["spans"]]


def query_of(tenant_id: UUID, config: EventsConfig, window: Window) -> Document:
    """The MongoDB query for the counts of the events of a window that a rule looks at."""
    start_at, end_at = map(from_milliseconds, window)
    query: Document = {
        "_id.tenant_id": Binary.from_uuid(tenant_id),
        "_id.event_type": config.event_type,
        "_id.minute": {"$gte": start_at, "$lt": end_at},
    }
    return query if config.source is None else {**query, "_id.source": config.source}


def update_of(tenant_id: UUID, volume: Volume) -> Document:
    """The statement that saves a count."""
    own_id = {
        "tenant_id": Binary.from_uuid(tenant_id),
        "minute": volume.minute,
        "source": volume.source,
        "event_type": volume.event_type,
    }
    change = {"n": volume.events, "expires_at": volume.minute + KEPT}
    return {"q": {"_id": own_id}, "u": {"$set": change}, "upsert": True}
