"""Stores when the database took writes: a document `{from, until}` for each period, of all workers together.

A note extends a period that goes on, or begins a new one. So there are as many documents as there were outages, and a
few more: workers that note at the same moment after one may each begin a period. MongoDB deletes periods after
KEPT_DAYS, by the TTL index on `until`. Times are the database's (`$$NOW`).
"""

from collections.abc import Sequence
from functools import partial

from server.core.deadline import Deadline
from server.core.rules.model import Window
from server.core.rules.presence import MAX_SILENCE_MS
from server.core.times import to_milliseconds
from storage.commands import MAJORITY, Database, Document, retry_without_events, update_each
from storage.indexes import PRESENCE

GOES_ON: Document = {"$expr": {"$gte": ["$until", {"$subtract": ["$$NOW", MAX_SILENCE_MS]}]}}


class StoredPresence:
    """The collection `presence`. It implements `PresenceStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, deadline: Deadline) -> None:
        """See `PresenceStore`."""
        change = [{"$set": {"from": {"$ifNull": ["$from", "$$NOW"]}, "until": "$$NOW"}}]
        statements = [{"q": GOES_ON, "u": change, "upsert": True}]
        await retry_without_events(partial(update_each, self._database, PRESENCE, statements, MAJORITY), deadline)

    async def periods(self, deadline: Deadline) -> Sequence[Window]:
        """See `PresenceStore`."""
        found = await retry_without_events(self._find, deadline)
        return [Window(to_milliseconds(each["from"]), to_milliseconds(each["until"])) for each in found]

    async def _find(self) -> list[Document]:
        return await self._database[PRESENCE].find().to_list(None)
