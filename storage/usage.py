"""Stores usage in MongoDB: a document for what one worker counted of a tenant in one minute or hour.

The `_id` is `{tenant_id, step, start, part}`, so the minutes of a tenant stand together, and so do its hours. MongoDB
deletes documents when they expire, by the TTL index on `expires_at`: `rejections.py` says why.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from bson.binary import Binary
from bson.max_key import MaxKey

from server.core.deadline import Deadline
from server.core.times import from_milliseconds, to_milliseconds
from server.core.usage.model import KEPT_MS, OUTCOMES, Counts, Span, Step, UsageCell
from storage.commands import MAJORITY, Database, Document, retry_without_events, update_each
from storage.indexes import USAGE

MAX_STEPS = 500
"""Steps in one call: its reply takes a worker some 10 ms. All minutes of 2 days at once would hold up other requests
for 60 ms."""

SUMS: Document = {
    f"{counted}:{outcome}": {"$sum": f"${counted}.{outcome}"}
    for counted in ("requests", "events")
    for outcome in OUTCOMES
}
"""What MongoDB adds up over the documents of a step."""


class StoredUsage:
    """The collection `usage`. It implements `UsageStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, cells: Sequence[UsageCell], deadline: Deadline) -> None:
        """See `UsageStore`."""
        statements = [{"q": {"_id": id_of(cell)}, "u": {"$set": fields_of(cell)}, "upsert": True} for cell in cells]
        await retry_without_events(partial(update_each, self._database, USAGE, statements, MAJORITY), deadline)

    async def find(self, tenant_id: UUID, span: Span, deadline: Deadline) -> Mapping[int, Counts]:
        """See `UsageStore`."""
        counts: dict[int, Counts] = {}
        starts = list(span.starts())
        for at in range(0, len(starts), MAX_STEPS):
            counts |= await self._find(tenant_id, span.step, starts[at : at + MAX_STEPS], deadline)
        return counts

    async def _find(self, tenant_id: UUID, step: Step, starts: Sequence[int], deadline: Deadline) -> dict[int, Counts]:
        """What all workers counted of a tenant in the steps that start then, one after the other."""
        tenant, first, last = Binary.from_uuid(tenant_id), *map(from_milliseconds, (starts[0], starts[-1]))
        ids = {
            "$gte": {"tenant_id": tenant, "step": step, "start": first},
            "$lte": {"tenant_id": tenant, "step": step, "start": last, "part": MaxKey()},
        }
        command = {
            "aggregate": USAGE,
            "pipeline": [{"$match": {"_id": ids}}, {"$group": {"_id": "$_id.start", **SUMS}}],
            "cursor": {"batchSize": MAX_STEPS + 1},  # with one less, MongoDB would keep the cursor
            "readConcern": {"level": "majority"},
        }
        call = partial(self._database.command, command, codec_options=self._database.codec_options)
        reply = await retry_without_events(call, deadline)
        return {to_milliseconds(found["_id"]): counts_of(found) for found in reply["cursor"]["firstBatch"]}


def id_of(cell: UsageCell) -> Document:
    """The `_id` of a cell."""
    return {
        "tenant_id": Binary.from_uuid(cell.tenant_id),
        "step": cell.step,
        "start": from_milliseconds(cell.start_ms),
        "part": Binary.from_uuid(cell.part),
    }


def fields_of(cell: UsageCell) -> Document:
    """The fields of a cell."""
    return {
        "requests": dict(cell.counts.requests),
        "events": dict(cell.counts.events),
        "expires_at": from_milliseconds(cell.end_ms() + KEPT_MS[cell.step]),
    }


def counts_of(sums: Mapping[str, Any]) -> Counts:
    """The counts that MongoDB has added up."""
    counts = Counts(Counter(), Counter())
    for outcome in OUTCOMES:
        counts.requests[outcome] = sums[f"requests:{outcome}"]
        counts.events[outcome] = sums[f"events:{outcome}"]
    return counts
