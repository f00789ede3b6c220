"""The leases of deployment jobs in MongoDB: one document for each job, never removed, changed by atomic updates.

A document is `{_id: job, holder, fence, expires_at}`. It is never removed, since the next fencing number follows from
it. All times are the database's (`$$NOW`), so the clocks of the hosts do not matter.
"""

from functools import partial
from typing import Any

from bson.int64 import Int64
from pymongo import ReturnDocument

from server.core.deadline import Deadline
from server.core.jobs.store import JobLease
from storage.commands import Database, Document, retry_without_events
from storage.indexes import LEASES

FIRST_FENCE = Int64(1)

CLOCK_MARGIN = 2
"""A lease that ends later than this many times its duration was acquired before the database's clock was set back."""


class Leases:
    """The collection `leases`. It implements `LeaseStore`."""

    def __init__(self, database: Database) -> None:
        self._collection = database[LEASES]

    async def acquire(self, job: str, holder: str, duration_s: float, deadline: Deadline) -> JobLease | None:
        """See `LeaseStore`."""
        # A new document has no `expires_at`, and a missing field sorts before every date.
        latest_s = CLOCK_MARGIN * duration_s
        is_own = {"$eq": ["$holder", {"$literal": holder}]}
        is_free = {"$or": [{"$lte": ["$expires_at", "$$NOW"]}, {"$gt": ["$expires_at", end_after(latest_s)]}]}
        change = {
            "holder": {"$cond": [is_free, {"$literal": holder}, "$holder"]},
            "fence": {"$cond": [is_free, {"$ifNull": [{"$add": ["$fence", 1]}, FIRST_FENCE]}, "$fence"]},
            "expires_at": {"$cond": [{"$or": [is_free, is_own]}, end_after(duration_s), "$expires_at"]},
        }
        found = await retry_without_events(partial(self._update, {"_id": job}, change, upsert=True), deadline)
        assert found is not None, "an upsert finds or makes it"  # noqa: S101
        return JobLease(job, holder, found["fence"]) if found["holder"] == holder else None

    async def renew(self, lease: JobLease, duration_s: float, deadline: Deadline) -> bool:
        """See `LeaseStore`. A lease that has ended is renewed too, if no other worker acquired it meanwhile."""
        query = {"_id": lease.job, "holder": lease.holder, "fence": lease.fence}
        change = {"expires_at": end_after(duration_s)}
        return await retry_without_events(partial(self._update, query, change), deadline) is not None

    async def release(self, job: str, holder: str, deadline: Deadline) -> None:
        """See `LeaseStore`."""
        query = {"_id": job, "holder": holder}
        await retry_without_events(partial(self._update, query, {"expires_at": "$$NOW"}), deadline)

    async def _update(self, query: Document, change: Document, upsert: bool = False) -> Document | None:
        """Set fields to expressions, on a majority of nodes. Returns the document as it became, if one matched."""
        return await self._collection.find_one_and_update(
            query, [{"$set": change}], upsert=upsert, return_document=ReturnDocument.AFTER
        )


def end_after(duration_s: float) -> dict[str, Any]:
    """An expression: the moment `duration_s` from now."""
    return {"$add": ["$$NOW", round(duration_s * 1_000)]}
