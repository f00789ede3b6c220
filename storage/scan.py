"""Walks through a tenant's events, oldest or newest first, in commands that take milliseconds.

Each command reads a range of `_id` that begins behind the last event of the one before. No cursor is kept between two
commands. So a slow client holds nothing in the database, and a walk outlives an election.

The ids of new events may be below those that are stored, since workers make them before they insert. A walk that goes
up would also meet new events again and again, and never end. So it ends at the event that was the newest when it began.

Without an index, MongoDB compares all events with what a filter names, and rare events would take minutes to find. So
the walk of a filter goes through windows: it finds where the next 20,000 events end, and then those among them that
match. The windows are smaller if the database cannot read as many in time, such as events of 1 MiB from a slow disk.

Example: 2,000,000 events, and the 2 of the type `rare` are wanted. 100 windows are searched, each in 0.02 s, and 98 of
these fetches find nothing.
"""

from functools import partial
from typing import Any
from uuid import UUID

from bson.binary import Binary
from bson.raw_bson import RawBSONDocument

from server.core.deadline import Deadline
from server.core.events.ids import lowest_id
from server.core.events.model import EventFilter
from server.core.events.store import Course, Scanned
from server.core.read_limits import FETCH_BYTES
from storage import documents
from storage.commands import Database, Document, attempt, retry_without_events
from storage.indexes import EVENTS
from storage.lines import in_parts
from storage.matches import ATTEMPT_MS, bounds_of

MAX_COUNT_GROWTH = 8
"""How many times as many events as the last fetch the next may have. The first has one, since their size is not known:
5,000 large events would be 16 MiB, where MongoDB ends a reply."""

MAX_COUNT = 5_000
"""Events of a fetch: enough to make the cost of a command small."""

MAX_WINDOW_EVENTS = 20_000
"""Events that are searched by one command: they take some 20 ms."""

WINDOW_GROWTH = 4
"""How much smaller a window is than one that took too long, and how much larger than one that did not."""


NOTHING = Scanned(iter(()), 0, is_last=True)
"""The end of a walk."""


class EventScan:
    """One walk."""

    def __init__(self, database: Database, tenant_id: UUID, where: EventFilter, course: Course) -> None:
        self._database = database
        self._tenant = Binary.from_uuid(tenant_id)
        self._names = {name: value for name, value in where.names().items() if value is not None}
        self._is_upward = course.oldest_first
        bottom, top = bounds_of(where)
        self._range: Document = {"$gte": self._own_id(bottom), "$lt": self._own_id(top)}  # what is left
        if course.after is not None and is_inside(course, where):
            self._go_on_behind(self._own_id(Binary.from_uuid(course.after)))
        self._has_begun = False
        self._count = 1
        self._window: Document | None = None  # what is left is searched up to here; an empty one ends with it
        self._window_events = MAX_WINDOW_EVENTS

    async def fetch(self, deadline: Deadline) -> Scanned:
        """See `Scan`."""
        if not self._has_begun and not await self._begin(deadline):
            return NOTHING
        if self._names and self._window is None:
            self._window = await self._next_window(deadline)
        found = await self._find({**self._range, **(self._window or {})}, deadline)
        if found:
            self._go_on_behind(RawBSONDocument(found[-1], documents.LAZY)["_id"])
        elif not self._window:
            return NOTHING
        else:
            self._go_on_behind(*self._window.values())
            self._window = None
        size = sum(map(len, found))
        if found:
            self._count = max(1, min(MAX_COUNT, MAX_COUNT_GROWTH * self._count, FETCH_BYTES * len(found) // size))
        return Scanned(in_parts(found), size, is_last=False)

    async def _begin(self, deadline: Deadline) -> bool:
        """Fix the end of a walk that goes up. Returns whether there is anything."""
        if self._is_upward:
            newest = await self._run({**self._command(self._range, 1), "sort": {"_id": -1}}, deadline)
            if not newest:
                return False
            del self._range["$lt"]
            self._range["$lte"] = newest[0]["_id"]
        self._has_begun = True
        return True

    async def _next_window(self, deadline: Deadline) -> Document:
        """Where the next window ends; nothing if it is the last. Raises Unavailable."""
        reply = None
        while reply is None:
            command = {**self._command(self._range, 1), "skip": self._window_events - 1, "projection": {"_id": 1}}
            reply = await attempt(self._database, command, ATTEMPT_MS, documents.LAZY, deadline)
            factor = 1 / WINDOW_GROWTH if reply is None else WINDOW_GROWTH
            self._window_events = max(1, min(MAX_WINDOW_EVENTS, int(self._window_events * factor)))
        last = reply["cursor"]["firstBatch"]
        return {"$lte" if self._is_upward else "$gte": last[0]["_id"]} if last else {}

    async def _find(self, within: Document, deadline: Deadline) -> list[bytes]:
        """The next events that match, as BSON. Raises Unavailable."""
        command = self._command(within, self._count)
        command["filter"] |= self._names
        return [bytes(document.raw) for document in await self._run(command, deadline)]

    async def _run(self, command: Document, deadline: Deadline) -> list[RawBSONDocument]:
        call = partial(self._database.command, command, codec_options=documents.LAZY)
        reply: Any = await retry_without_events(call, deadline)
        found: list[RawBSONDocument] = reply["cursor"]["firstBatch"]
        return found

    def _command(self, within: Document, count: int) -> Document:
        """The command that finds the next `count` events of a range."""
        return {
            "find": EVENTS,
            "filter": {"_id": within},
            "sort": {"_id": 1 if self._is_upward else -1},
            "hint": {"_id": 1},
            "limit": count,
            "batchSize": count,
            "singleBatch": True,
            "readConcern": {"level": "majority"},
        }

    def _own_id(self, bound: Any) -> Document:
        """The `_id` of this tenant's event with an id, or a bound of them."""
        return {"tenant_id": self._tenant, "id": bound}

    def _go_on_behind(self, own_id: Any) -> None:
        """Leave out all up to the event with this `_id`."""
        if self._is_upward:
            self._range.pop("$gte", None)
            self._range["$gt"] = own_id
        else:
            self._range["$lt"] = own_id


def is_inside(course: Course, where: EventFilter) -> bool:
    """Whether the event to begin behind is not before the first that is wanted by its time."""
    assert course.after is not None  # noqa: S101
    if course.oldest_first:
        return where.since is None or course.after.bytes >= lowest_id(where.since)
    return where.until is None or course.after.bytes < lowest_id(where.until)
