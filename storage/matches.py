"""Finds the events of a page, newest first, in a bounded time, however rare they are.

There is no index on what a filter names, so MongoDB compares all events of a range of `_id`. First it may try the whole
rest of the list, for ATTEMPT_MS. That is enough for most requests. If it is not, the rest is searched window by window,
from the newest to the oldest, until the page is full or SEARCH_S is over. What is left is for the next page, however
few events this one has.

A window is a span of time. The first has SAMPLE events. The span of the next is chosen by how long the one before took:
quiet years take a few windows, and a busy hour takes as many as it needs. A window that takes too long is divided.

Example: 2,000,000 events, and 1 in a million matches. The whole rest takes too long. A window of 2,000 events takes
3 ms, the next has 16,000, the next 100,000, and so on: about 600,000 events a second. The page ends after 0.7 s with no
event, or with one. Its `rest` says from where to go on.
"""

from collections.abc import Sequence
from time import monotonic
from typing import Any
from uuid import UUID

import bson
from bson.binary import UUID_SUBTYPE, Binary
from bson.errors import InvalidBSON
from bson.max_key import MaxKey
from bson.min_key import MinKey

from server.core.deadline import Deadline
from server.core.errors import InvalidParameter
from server.core.events.ids import MAX_TIME_MS, lowest_id, time_of
from server.core.events.model import EventFilter
from server.core.events.store import Match, Matches, Position
from storage import documents
from storage.commands import Database, Document, attempt
from storage.indexes import EVENTS

LOWEST, HIGHEST = Binary(bytes(16), UUID_SUBTYPE), Binary(b"\xff" * 16, UUID_SUBTYPE)
"""Bounds of all UUIDs. No id of ours is one of them: each has a version."""

SEARCH_S = 0.7
"""After this, a search begins no other window. It ends by 0.9 s: an attempt in vain takes 0.15 s, and a first window a
few milliseconds. With the fetch of its events, a request takes about a second."""

ATTEMPT_MS = 150
"""How long the database may try a range before it is divided."""

WINDOW_S = 0.075
"""How long a window should take: half of an attempt, so that few are in vain."""

SAMPLE = 2_000
"""Events in the first window: they take a few milliseconds."""

MAX_GROWTH = 8
"""How many times larger or smaller than the one before a window may be."""


class Search:
    """One search for `count` events of a tenant that match, from `start` on."""

    def __init__(
        self, database: Database, tenant_id: UUID, where: EventFilter, start: Position, count: int, deadline: Deadline
    ) -> None:
        self._database = database
        self._tenant = Binary.from_uuid(tenant_id)
        self._names = {name: value for name, value in where.names().items() if value is not None}
        self._bottom, self._top = bounds_of(where)
        if start.below is not None:
            self._top = decode_bound(start.below)
        self._skip = start.skip
        self._count = count
        self._deadline = deadline
        self._found: list[Match] = []
        self._sample = SAMPLE
        self._span_ms = 1

    async def run(self) -> Matches:
        """The matches. Raises Unavailable."""
        ends_at, lower, has_searched = monotonic() + SEARCH_S, self._bottom, False
        while True:
            began = monotonic()
            if is_searched := await self._search(lower):
                self._top, has_searched = lower, True
            if len(self._found) > self._count:
                return matches_before_more(self._found[: self._count])
            if self._top == self._bottom:
                return Matches(self._found, None)
            if len(self._found) == self._count or (has_searched and monotonic() >= ends_at):
                return Matches(self._found, Position(self._skip, encode_bound(self._top)))
            lower = self._next_window(monotonic() - began) if is_searched else await self._first_window()

    async def _search(self, lower: Any) -> bool:
        """Search from `lower` up to `_top`. Returns False if it takes too long; nothing is changed then."""
        window, skip = {**self._range(lower), **self._names}, self._skip
        if skip:
            reply = await self._run({"count": EVENTS, "query": window, "limit": skip})
            if reply is None:
                return False
            if reply["n"] < skip:
                self._skip -= reply["n"]
                return True
        found = await self._find(window, skip, self._count + 1 - len(self._found))
        if found is None:
            return False
        self._skip = 0
        self._found += found
        return True

    async def _first_window(self) -> Any:
        """The lower end of a window of few events: fewer each time that a window turned out too large."""
        while (found := await self._find(self._range(self._bottom), 0, self._sample)) is None:
            self._sample = max(1, self._sample // MAX_GROWTH)
        is_whole, self._sample = len(found) < self._sample, max(1, self._sample // MAX_GROWTH)
        if is_whole:
            return self._bottom
        newest, lower = found[0].id.get("id"), found[-1].id.get("id")
        self._span_ms = max(1, time_of_bound(newest) - time_of_bound(lower))
        return lower

    def _next_window(self, took_s: float) -> Any:
        """The lower end of the next window, whose span follows from how long the last one took."""
        factor = WINDOW_S / max(took_s, WINDOW_S / MAX_GROWTH)
        self._span_ms = max(1, int(self._span_ms * max(factor, 1 / MAX_GROWTH)))
        start_ms = time_of_bound(self._top) - self._span_ms
        return self._bottom if start_ms <= time_of_bound(self._bottom) else bound_at(start_ms, None)

    def _range(self, lower: Any) -> Document:
        """The MongoDB query for all events of the tenant from `lower` up to `_top`."""
        lowest, highest = {"tenant_id": self._tenant, "id": lower}, {"tenant_id": self._tenant, "id": self._top}
        return {"_id": {"$gte": lowest, "$lt": highest}}

    async def _find(self, matching: Document, skip: int, count: int) -> list[Match] | None:
        """The newest events that match; None if it takes too long."""
        command = {
            "find": EVENTS,
            "filter": matching,
            "projection": {"_id": 1, "size": {"$bsonSize": "$$ROOT"}},
            "sort": {"_id": -1},
            "skip": skip,
            "limit": count,
            "batchSize": count,
            "singleBatch": True,
        }
        reply = await self._run(command)
        if reply is None:
            return None
        return [Match(document["_id"], document["size"]) for document in reply["cursor"]["firstBatch"]]

    async def _run(self, command: Document) -> Any:
        """The reply to a command; None if it takes too long. Raises Unavailable."""
        options = {"hint": {"_id": 1}, "readConcern": {"level": "majority"}}
        return await attempt(self._database, {**command, **options}, ATTEMPT_MS, documents.LAZY, self._deadline)


def matches_before_more(found: Sequence[Match]) -> Matches:
    """Matches behind which there are more."""
    return Matches(found, Position(0, encode_bound(found[-1].id.get("id"))))


def first_matches(matches: Matches, max_bytes: int) -> Matches:
    """The first matches, of `max_bytes` at most, and of one match at least."""
    size = 0
    for number, match in enumerate(matches.found):
        size += match.size
        if size > max_bytes and number:
            return matches_before_more(matches.found[:number])
    return matches


def bounds_of(where: EventFilter) -> tuple[Any, Any]:
    """The bounds of the ids of events that match: the first is inclusive, and the second is not."""
    bottom = bound_at(where.since, LOWEST if where.until is not None else MinKey())
    return bottom, bound_at(where.until, HIGHEST if where.since is not None else MaxKey())


def bound_at(moment: int | None, default: Any) -> Any:
    """The bound of ids of events received at `moment`; `default` without one."""
    return default if moment is None else Binary(lowest_id(moment), UUID_SUBTYPE)


def time_of_bound(bound: Any) -> int:
    """The time of a bound of ids, in milliseconds since 1970.

    For an id that an operator made, of another type, it is 0: then the next window is all that is left.
    """
    if isinstance(bound, MaxKey):
        return MAX_TIME_MS + 1
    is_uuid = isinstance(bound, Binary) and bound.subtype == UUID_SUBTYPE and len(bound) == len(LOWEST)
    return time_of(bound) if is_uuid else 0


def encode_bound(bound: Any) -> bytes:
    """A bound of ids as bytes, for a position."""
    return bson.encode({"": bound}, codec_options=documents.LAZY)


def decode_bound(encoded: bytes) -> Any:
    """The bound that `encode_bound` encoded. Raises InvalidParameter for other bytes."""
    try:
        bson.decode(encoded, documents.PLAIN)  # checks all levels: LAZY would pass malformed ones on to MongoDB
        ((name, bound),) = bson.decode(encoded, documents.LAZY).items()
    except (InvalidBSON, RecursionError, ValueError):
        name, bound = None, None
    if name != "":
        raise InvalidParameter("cursor: is not one of this server's: take it from a Link header as it is")
    return bound
