"""Stores when the database took writes: a document `{from, until}` for each period, of all workers together.

A note extends a period that goes on, or begins a new one. So there are as many documents as there were outages, and a
few more: workers that note at the same moment after one may each begin a period. MongoDB deletes periods after
KEPT_DAYS, by the TTL index on `until`. Times are the database's (`$$NOW`).
"""

from collections.abc import Sequence

from bson.objectid import ObjectId

from server.core.deadline import Deadline
from server.core.rules.model import Window
from server.core.rules.presence import MAX_SILENCE_MS
from server.core.times import to_milliseconds
from storage.commands import Database, Document, retry_without_events
from storage.decoding import decoded
from storage.indexes import PRESENCE

GOES_ON: Document = {"$expr": {"$gte": ["$until", {"$subtract": ["$$NOW", MAX_SILENCE_MS]}]}}


class StoredPresence:
    """The collection `presence`. It implements `PresenceStore`."""

    def __init__(self, database: Database) -> None:
        self._periods = database[PRESENCE]

    async def note(self, deadline: Deadline) -> None:
        """See `PresenceStore`."""
        await retry_without_events(self._note, deadline)

    async def periods(self, deadline: Deadline) -> Sequence[Window]:
        """See `PresenceStore`."""
        found = await retry_without_events(self._find, deadline)
        return decoded(PRESENCE, found, period_of)

    async def _note(self) -> None:
        """Extend a period, or begin one: MongoDB compares with its clock in an update, but not in an upsert."""
        extended = await self._periods.update_one(GOES_ON, [{"$set": {"until": "$$NOW"}}])
        if not extended.matched_count:
            begun = [{"$set": {"from": "$$NOW", "until": "$$NOW"}}]
            await self._periods.update_one({"_id": ObjectId()}, begun, upsert=True)

    async def _find(self) -> list[Document]:
        return await self._periods.find().to_list(None)


def period_of(document: Document) -> Window:
    """The period that a document holds."""
    return Window(to_milliseconds(document["from"]), to_milliseconds(document["until"]))
