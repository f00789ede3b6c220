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

from server.core.deadline import Deadline
from server.core.times import from_milliseconds, to_milliseconds
from server.core.usage.model import KEPT_MS, OUTCOMES, Counts, Span, UsageCell
from storage.commands import MAJORITY, Database, Document, retry_without_events, update_each
from storage.indexes import USAGE

MAX_STEPS = 3_000
"""More than the steps of a span: the minutes of 2 days."""

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
        tenant, since, until = Binary.from_uuid(tenant_id), *map(from_milliseconds, (span.since_ms, span.until_ms))
        ids = {
            "$gte": {"tenant_id": tenant, "step": span.step, "start": since},
            "$lt": {"tenant_id": tenant, "step": span.step, "start": until},
        }
        command = {
            "aggregate": USAGE,
            "pipeline": [{"$match": {"_id": ids}}, {"$group": {"_id": "$_id.start", **SUMS}}],
            "cursor": {"batchSize": MAX_STEPS},
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
