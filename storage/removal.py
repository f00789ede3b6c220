"""Removes documents batch by batch, each batch in one transaction.

MongoDB deletes nothing at once: documents leave the pages on disk later. Until then, each search passes over them. And
6.0 begins to read a range at the document before it. So a batch ends before a document that stays until the next one:
the next range begins at that document, and nothing is passed over. With ranges that begin where the last one ended,
each batch of 1,000 took longer than the one before: 19 µs of MongoDB's CPU for an event instead of 7, on average over
300,000 (6.0.5, 27 November 2026).

Outside a transaction, each document that is deleted is an entry of the oplog. In one, all are one entry. That takes
4.4 µs for an event instead of 6.7. A change stream, which wants inserts only, passes over each in about 0.5 µs.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pymongo.errors import BulkWriteError

from server.core.deadline import Deadline
from storage.client import in_transaction
from storage.commands import Database, Document, retry_without_events

BATCH = 1_000
"""Documents in a batch, at most: they take 5 to 20 ms."""

Guard = Callable[[Any, int], Awaitable[bool]]
"""Called in the session of a batch's transaction, with the number of documents. If it returns False, all stay."""


class Part(NamedTuple):
    """Documents of a collection that are to be removed. All `_id`s of the collection have one type."""

    collection: str
    within: Document
    """The range of their `_id`, as MongoDB's operators; empty for the whole collection."""
    also: Document
    """What else they match."""

    @property
    def range(self) -> Document:
        """The query for the range."""
        return {"_id": self.within} if self.within else {}

    def before(self, end: Any) -> "Part":
        """Those before an `_id`."""
        within = {operator: bound for operator, bound in self.within.items() if operator == "$gte"}
        return self._replace(within={**within, "$lt": end})

    def since(self, start: Any) -> "Part":
        """Those from an `_id` on."""
        return self._replace(within={**self.within, "$gte": start})


class PartsRemoval:
    """The removal of parts, one after the other. See `Removal`."""

    def __init__(self, database: Database, parts: Sequence[Part], guard: Guard | None = None) -> None:
        self._database = database
        self._left = list(parts)
        self._guard = guard

    async def remove_next(self, deadline: Deadline) -> int | None:
        """See `Removal`."""
        while self._left:
            part = self._left[0]
            end = await retry_without_events(partial(self._end_of_batch, part), deadline)
            batch = part if end is None else part.before(end)
            removed = await retry_without_events(partial(self._remove, batch), deadline)
            if removed is None:  # the guard wants no more
                self._left.clear()
                return None
            self._left[:1] = [] if end is None else [part.since(end)]
            if removed or end is not None:
                return removed
        return None

    async def _end_of_batch(self, part: Part) -> Any:
        """The `_id` before which a batch ends; None if it is the last one."""
        documents = self._database[part.collection]
        found = documents.find(part.range, {"_id": 1}, sort=[("_id", 1)], hint=[("_id", 1)], skip=BATCH, limit=1)
        last = await found.to_list(1)
        return last[0]["_id"] if last else None

    async def _remove(self, batch: Part) -> int | None:
        """Remove a batch. Returns how many documents it had; None if the guard kept them."""
        query = {**batch.range, **batch.also}
        if await self._database[batch.collection].find_one(query, {"_id": 1}, hint=[("_id", 1)]) is None:
            return 0
        return await in_transaction(self._database, partial(self._remove_in, query, batch.collection))

    async def _remove_in(self, query: Document, collection: str, session: Any) -> int | None:
        deletes = [{"q": query, "limit": 0, "hint": {"_id": 1}}]
        command, codec_options = {"delete": collection, "deletes": deletes}, self._database.codec_options
        reply: Any = await self._database.command(command, codec_options=codec_options, session=session)
        if reply.get("writeErrors"):
            raise BulkWriteError(reply)
        removed = int(reply["n"])
        if self._guard is not None and not await self._guard(session, removed):
            await session.abort_transaction()
            return None
        return removed
