"""Finds and removes the events of tenants that are older than their tenant keeps them.

The retention of a tenant is in its document in `tenants`:

    retention: {
        days: after how many days its events are removed,
        removed: how many were removed since there is one,
        fence: the highest fencing number of those who removed some,
    }

Each batch writes `removed` in the same transaction. So it conflicts with a change of the days: one of the two comes
first, and if the change does, the batch finds other days and removes nothing.

The time by which an event is due is that of the database. Only ids that are UUIDs count, and the event's `received_at`
must be as old: an operator may have inserted an event with a random id, which begins with any time.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from bson.binary import UUID_SUBTYPE, Binary

from server.core.deadline import Deadline
from server.core.events.ids import lowest_id
from server.core.jobs.store import JobLease
from server.core.tenants.store import MAX_RETENTION_DAYS, RetentionPolicy
from server.core.times import from_milliseconds, to_milliseconds
from storage.commands import Database, Document, retry_without_events
from storage.indexes import EVENTS, TENANTS
from storage.removal import Part, PartsRemoval

MS_PER_DAY = 24 * 60 * 60 * 1_000

DUE_BEFORE: Document = {"$subtract": ["$$NOW", {"$multiply": ["$retention.days", MS_PER_DAY]}]}


class StoredRetention:
    """See `RetentionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tenants = database[TENANTS]

    async def policies(self, deadline: Deadline) -> Sequence[RetentionPolicy]:
        """See `RetentionStore`."""
        return await retry_without_events(self._find, deadline)

    def due(self, policy: RetentionPolicy, lease: JobLease) -> PartsRemoval:
        """See `RetentionStore`."""
        tenant = Binary.from_uuid(policy.tenant_id)
        lowest, end = (Binary(lowest_id(time), UUID_SUBTYPE) for time in (0, policy.due_before_ms))
        within = {"$gte": {"tenant_id": tenant, "id": lowest}, "$lt": {"tenant_id": tenant, "id": end}}
        received = {"received_at": {"$lt": from_milliseconds(policy.due_before_ms)}}
        return PartsRemoval(self._database, [Part(EVENTS, within, received)], partial(self._note, policy, lease))

    async def _find(self) -> list[RetentionPolicy]:
        days = {"$type": "number", "$gte": 1, "$lte": MAX_RETENTION_DAYS}  # else an operator's text would fail for all
        query: Document = {"retention.days": days, "deletion": None}
        fields = {"tenant_id": 1, "days": "$retention.days", "due_before": DUE_BEFORE}
        return [
            RetentionPolicy(each["_id"], each["tenant_id"], each["days"], to_milliseconds(each["due_before"]))
            for each in await self._tenants.find(query, fields).to_list(None)
        ]

    async def _note(self, policy: RetentionPolicy, lease: JobLease, session: Any, removed: int) -> bool:
        """Note that events were removed by a policy. Returns False if that is no longer to be done by this worker."""
        query: Document = {
            "_id": policy.tenant,
            "tenant_id": policy.tenant_id,
            "deletion": None,
            "retention.days": policy.days,
            "$or": [{"retention.fence": None}, {"retention.fence": {"$lte": lease.fence}}],
        }
        change = {"$inc": {"retention.removed": removed}, "$set": {"retention.fence": lease.fence}}
        return (await self._tenants.update_one(query, change, session=session)).matched_count == 1
