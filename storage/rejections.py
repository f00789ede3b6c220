"""Stores rejections in MongoDB: a document for each, and about the last 1,000 of a tenant.

The `_id` is `{tenant_id, time, id}`, so those of a tenant stand together, oldest first. Two things keep them few:

- A worker that has stored TRIM_EVERY rejections of a tenant deletes those beyond the last 1,000. So a tenant has at
  most some hundreds more for each worker.
- MongoDB deletes them after 24 hours, by the TTL index on `expires_at`. It needs no job of ours and no list of
  tenants, and goes on while no Sluice runs. It is up to a minute late, so reads pass over what has expired.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from time import time_ns
from typing import Any
from uuid import UUID

from bson.binary import Binary
from bson.max_key import MaxKey
from bson.min_key import MinKey

from server.core.deadline import Deadline
from server.core.errors import Code, EventError
from server.core.rejections.model import Rejection
from server.core.rejections.store import KEPT_MS, MAX_KEPT
from server.core.times import NS_PER_MS, from_milliseconds, to_milliseconds
from storage.commands import Database, Document, delete_each, insert_each, retry_without_events
from storage.indexes import REJECTIONS

TRIM_EVERY = 100
"""After how many stored rejections of a tenant a worker looks for those that are too many. It takes a millisecond."""

ID_BYTES = 16


class StoredRejections:
    """The collection `rejections`. It implements `RejectionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stored = Counter[UUID]()
        """Rejections that were stored since the tenant was last trimmed."""

    async def insert(self, rejections: Sequence[Rejection], deadline: Deadline) -> None:
        """See `RejectionStore`."""
        documents = [document_of(rejection) for rejection in rejections]
        await retry_without_events(partial(insert_each, self._database, REJECTIONS, documents), deadline)
        self._stored.update(rejection.tenant_id for rejection in rejections)
        for tenant_id in [each for each, count in self._stored.items() if count >= TRIM_EVERY]:
            await retry_without_events(partial(self._trim, tenant_id), deadline)
            del self._stored[tenant_id]

    async def newest(self, tenant_id: UUID, count: int, deadline: Deadline) -> Sequence[Rejection]:
        """See `RejectionStore`."""
        oldest = from_milliseconds(time_ns() // NS_PER_MS - KEPT_MS)
        found = await retry_without_events(partial(self._find, query_of(tenant_id, oldest), 0, count), deadline)
        return [rejection_of(document) for document in found]

    async def _trim(self, tenant_id: UUID) -> None:
        """Delete what a tenant has beyond the last MAX_KEPT."""
        for newest_of_rest in await self._find(query_of(tenant_id), MAX_KEPT, 1):
            own_id = {**newest_of_rest["_id"], "tenant_id": Binary.from_uuid(tenant_id)}
            up_to = {"$gte": query_of(tenant_id)["_id"]["$gte"], "$lte": own_id}
            await delete_each(self._database, REJECTIONS, {"_id": up_to})

    async def _find(self, query: Document, skip: int, count: int) -> list[Document]:
        """Rejections after the first `skip`, newest first. At most 1,000 of 4 KB fit into one reply."""
        command = {
            "find": REJECTIONS,
            "filter": query,
            "sort": {"_id": -1},
            "skip": skip,
            "limit": count,
            "batchSize": count,
            "singleBatch": True,
            "readConcern": {"level": "majority"},
        }
        reply = await self._database.command(command, codec_options=self._database.codec_options)
        found: list[Document] = reply["cursor"]["firstBatch"]
        return found


def query_of(tenant_id: UUID, oldest: Any = MinKey()) -> Document:  # noqa: B008 (a constant)
    """The MongoDB query for the rejections of a tenant, from the time `oldest` on."""
    tenant = Binary.from_uuid(tenant_id)
    return {"_id": {"$gte": {"tenant_id": tenant, "time": oldest}, "$lt": {"tenant_id": tenant, "time": MaxKey()}}}


def document_of(rejection: Rejection) -> Document:
    """The document that holds a rejection."""
    return {
        "_id": {
            "tenant_id": Binary.from_uuid(rejection.tenant_id),
            "time": from_milliseconds(rejection.time_ms),
            "id": Binary(rejection.id.to_bytes(ID_BYTES, "big")),
        },
        "expires_at": from_milliseconds(rejection.time_ms + KEPT_MS),
        "protocol": rejection.protocol,
        "key_id": rejection.key_id,
        "code": rejection.code.value,
        "detail": rejection.detail,
        "errors": [{"index": each.index, "path": each.path, "message": each.message} for each in rejection.errors],
        "size": rejection.size,
    }


def rejection_of(document: Document) -> Rejection:
    """The rejection that a document holds."""
    own_id = document["_id"]
    return Rejection(
        tenant_id=own_id["tenant_id"],
        id=int.from_bytes(own_id["id"], "big"),
        time_ms=to_milliseconds(own_id["time"]),
        protocol=document["protocol"],
        key_id=document["key_id"],
        code=Code(document["code"]),
        detail=document["detail"],
        errors=[EventError(**each) for each in document["errors"]],
        size=document["size"],
    )
