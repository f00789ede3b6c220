"""Reads what is stored and what is being stored, for followers (`server/core/tail/follower.py` has the theory).

Stored events are read from a snapshot: the collection as it was at a cluster time. So it is exact which events a page
can hold, and the change stream from that time on has all others. No cursor is kept between two pages, so a slow client
holds nothing in the database.

This has a client of its own, PyMongo's asynchronous one: a change stream keeps a connection, and Motor a thread too.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from bson.binary import UUID_SUBTYPE, Binary
from bson.max_key import MaxKey
from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.errors import OperationFailure

from server.core.deadline import Deadline
from server.core.events.ids import lowest_id, time_of
from server.core.events.model import EventFilter, StoredEvent
from server.core.tail.store import ChangePage, HistoryLost, Place, StoredPage
from server.core.times import MS_PER_S
from storage import documents
from storage.commands import Database, Document, driver_errors_as_unavailable, retry_without_events
from storage.indexes import EVENTS
from storage.matches import decode_bound, encode_bound
from storage.positions import last_time, position_after, position_of, ticks
from storage.positions import time_of as cluster_time_of

SAMPLE = 50_000
"""Events that are compared with a filter in one call: they take 50 ms, and are counted in 20 ms."""

WAIT_MS = 1
"""How long the database waits for a change at the end of its log: not at all, which it has no number for."""

PAGE_BYTES = 1024 * 1024
"""After this, a page of changes ends."""

LATEST_S = 60
"""How much later than its id says an event may be stored: a request takes 20 s at most. The rest is for clocks that
differ. A retry with an idempotency key may come any time later."""

HISTORY_LOST = frozenset(
    {
        136,  # CappedPositionLost
        260,  # InvalidResumeToken: the collection was dropped
        280,  # ChangeStreamFatalError: the token is not in the oplog
        286,  # ChangeStreamHistoryLost
    }
)
"""MongoDB's codes if the oplog does not reach back to a position."""

Shown = TypeVar("Shown")


class StoredChange:
    """See `Change`."""

    __slots__ = ("_document", "_id", "_shown", "position", "size", "tenant_id")

    def __init__(self, document: RawBSONDocument, position: bytes = b"") -> None:
        self._document = document
        self._id: Any = document["_id"]
        self._shown: dict[Any, Any] = {}
        self.position = position
        self.size = len(document.raw)
        self.tenant_id = UUID(bytes=self._id["tenant_id"])

    def id_bound(self) -> bytes:
        """See `Change`."""
        return encode_bound(self._id.get("id"))

    def matches(self, where: EventFilter) -> bool:
        """See `Change`."""
        return all(self._document.get(name) == value for name, value in names_in(where).items())

    def shown(self, show: Callable[[StoredEvent], Shown]) -> Shown:
        """See `Change`."""
        if show not in self._shown:
            self._shown[show] = show(documents.decode(bytes(self._document.raw)))
        shown: Shown = self._shown[show]
        return shown


class Listener:
    """See `ChangeStream`."""

    def __init__(self, stream: AsyncChangeStream[Any], position: bytes) -> None:
        self._stream = stream
        self.position = position

    async def next(self) -> StoredChange | None:
        """See `ChangeStream`."""
        with change_stream_errors():
            while (change := await self._stream.try_next()) is not None:
                position = position_of(change["_id"])
                if position > self.position:
                    self.position = position
                    return StoredChange(change["fullDocument"], position)
        if not self._stream.alive:  # the collection was dropped
            raise HistoryLost
        if self._stream.resume_token is not None:
            self.position = max(self.position, position_of(self._stream.resume_token))
        return None


class TailHistory:
    """See `TailStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._log: Any = database.with_options(codec_options=documents.LAZY)

    async def now(self, deadline: Deadline) -> bytes:
        """See `TailStore`."""
        command = {"find": EVENTS, "filter": {"_id": None}, "limit": 1, "readConcern": {"level": "snapshot"}}
        reply: Any = await retry_without_events(partial(self._database.command, command), deadline)
        return position_after(reply["cursor"].get("atClusterTime", reply["operationTime"]))

    async def stored(
        self, tenant_id: UUID, where: EventFilter, place: Place, count: int, deadline: Deadline
    ) -> StoredPage:
        """See `TailStore`."""
        names, tenant = names_in(where), Binary.from_uuid(tenant_id)
        assert place.read_to is not None, "stored events are left to read"  # noqa: S101
        above = {"tenant_id": tenant, "id": decode_bound(place.read_to)}
        rest: Document = {"_id": {"$gt": above, "$lt": {"tenant_id": tenant, "id": MaxKey()}}}
        read_to = None
        if names:  # compare a limited number: the next match may be millions of events away
            sample = {"skip": SAMPLE - 1, "limit": 1, "projection": {"_id": 1}}
            for last in (await self._find(rest, place, sample, deadline))["firstBatch"]:
                rest["_id"]["$lte"] = last["_id"]
                read_to = encode_bound(last["_id"].get("id"))
        found = await self._find({**rest, **names}, place, {"batchSize": count, "limit": count}, deadline)
        changes = [StoredChange(document) for document in found["firstBatch"]]
        if changes and (found["id"] or len(changes) == count):
            read_to = changes[-1].id_bound()
        if found["id"]:  # they did not fit into one reply
            kill = {"killCursors": EVENTS, "cursors": [found["id"]]}
            await retry_without_events(partial(self._database.command, kill), deadline)
        return StoredPage(changes, read_to)

    async def _find(self, matching: Document, place: Place, options: Document, deadline: Deadline) -> Any:
        """The first batch of events that match, oldest first, as they were at a place."""
        at = {"level": "snapshot", "atClusterTime": last_time(place.after)}
        command = {"find": EVENTS, "filter": matching, "sort": {"_id": 1}, "hint": {"_id": 1}, "readConcern": at}
        call = partial(self._database.command, {**command, **options}, codec_options=documents.LAZY)
        reply: Any = await retry_without_events(call, deadline)
        return reply["cursor"]

    async def changes(self, tenant_id: UUID, where: EventFilter, place: Place, until: bytes, count: int) -> ChangePage:
        """See `TailStore`."""
        tenant, matching = Binary.from_uuid(tenant_id), in_full_document(names_in(where))
        matching["fullDocument._id.tenant_id"] = tenant
        if place.read_to is not None:
            matching["fullDocument._id"] = {"$lte": {"tenant_id": tenant, "id": decode_bound(place.read_to)}}
        found, size = [], 0
        async with self._watch(matching, place.after, batch_size=count, max_await_time_ms=WAIT_MS) as listener:
            while (change := await listener.next()) is not None:
                found.append(change)
                size += change.size
                if len(found) == count or size > PAGE_BYTES:
                    break
            position = listener.position
        is_at_end = change is None and ticks(last_time(position)) >= ticks(last_time(until))
        return ChangePage(found, position, is_at_end or position >= until)

    @asynccontextmanager
    async def listen(self, tenants: Sequence[UUID], after: bytes | None) -> AsyncIterator[Listener]:
        """See `TailStore`."""
        start = await self.now(Deadline()) if after is None else after
        matching: Document = {"fullDocument._id.tenant_id": {"$in": [Binary.from_uuid(each) for each in tenants]}}
        async with self._watch(matching, start, max_await_time_ms=WAIT_MS) as listener:
            yield listener

    @asynccontextmanager
    async def _watch(self, matching: Document, after: bytes, **options: Any) -> AsyncIterator[Listener]:
        """The inserts that match, from a position on. MongoDB compares them with its log, before it makes changes.

        It is the stream of the database, which takes 1.4 µs for an event of another tenant. That of the collection
        compares each name with a regular expression, and takes 1.7 µs.

        It begins at the time of the position, and `Listener` leaves out what is not after the position. With a resume
        token, MongoDB would look for the token's own change, and fail if that does not match.
        """
        inserts = {"ns.coll": EVENTS, "operationType": "insert"}
        pipeline = [{"$match": {**inserts, **matching}}, {"$project": {"fullDocument": 1}}]
        with change_stream_errors():
            stream = await self._log.watch(pipeline, start_at_operation_time=cluster_time_of(after), **options)
        try:
            yield Listener(stream, after)
        finally:
            with change_stream_errors():
                await stream.close()

    def start_of(self, since_ms: int) -> bytes:
        """See `TailStore`."""
        return encode_bound(Binary(lowest_id(since_ms), UUID_SUBTYPE))

    def time_of(self, place: Place) -> int:
        """See `TailStore`."""
        missing_from = (int(cluster_time_of(place.after).time) - LATEST_S) * MS_PER_S
        read_to = None if place.read_to is None else decode_bound(place.read_to)
        if isinstance(read_to, Binary) and read_to.subtype == UUID_SUBTYPE:
            return min(missing_from, time_of(read_to))
        return missing_from


@contextmanager
def change_stream_errors() -> Iterator[None]:
    """Turn driver errors inside into HistoryLost and Unavailable."""
    with driver_errors_as_unavailable():
        try:
            yield
        except OperationFailure as error:
            if error.code in HISTORY_LOST:
                raise HistoryLost from None
            raise


def names_in(where: EventFilter) -> dict[str, str]:
    """The fields that a filter names."""
    return {name: value for name, value in where.names().items() if value is not None}


def in_full_document(names: dict[str, str]) -> Document:
    """The condition of a change stream on fields of the event. MongoDB can use it on the log itself."""
    return {f"fullDocument.{name}": value for name, value in names.items()}
