"""Keeps how far the deletion of a tenant is, in the tenant's document in `tenants`:

    deletion: {
        keys_revoked_at: when all keys were revoked; absent until then,
        worked_at: when somebody last said to work on it,
    }

All times are the database's. The document goes last, so a deletion that was interrupted is never forgotten.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pymongo import ReturnDocument

from server.core.access.key_check import MAX_AGE_S
from server.core.deadline import REQUEST_TIMEOUT_S, Deadline
from server.core.errors import NotFound
from server.core.ingest.settle import UNDO_TIMEOUT_S
from server.core.tenants.store import Tenant
from storage.commands import Database, Document, retry_without_events
from storage.indexes import KEYS, TENANTS
from storage.keys import revocation
from storage.removal import PartsRemoval
from storage.tenant_data import parts_of
from storage.tenants import NO_TENANT, tenant_of
from storage.views import drop_view

SAVED_AFTER_S = 10.0
"""How long after a request a worker may save what it noted of it."""

SETTLED_AFTER_S = MAX_AGE_S + REQUEST_TIMEOUT_S + UNDO_TIMEOUT_S + SAVED_AFTER_S + 3.0
"""When no worker writes anything of the tenant any more: the age of the check of the key of its last request, the
deadline of that, the undoing of its batch, what is saved of it later, and a margin."""

ABANDONED_AFTER_S = 20.0
"""When nobody works on a deletion any more: ten times as long as whoever does takes to say so."""


class StoredDeletion:
    """See `DeletionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tenants = database[TENANTS]

    async def begin(self, name: str, deadline: Deadline) -> Tenant:
        """Mark a tenant as being deleted, unless it is. Raises NotFound, and Unavailable."""
        marked = await retry_without_events(partial(self._update, {"_id": name}, {"worked_at": "$$NOW"}), deadline)
        if marked is None:
            raise NotFound(NO_TENANT)
        return tenant_of(marked)

    async def abandoned(self, deadline: Deadline) -> Sequence[Tenant]:
        """See `DeletionStore`."""
        limit = {"$subtract": ["$$NOW", round(ABANDONED_AFTER_S * 1_000)]}
        query = {"deletion": {"$exists": True}, "$expr": {"$lt": ["$deletion.worked_at", limit]}}
        found = await retry_without_events(lambda: self._tenants.find(query).to_list(None), deadline)
        return [tenant_of(document) for document in found]

    async def revoke_keys(self, tenant: Tenant, deadline: Deadline) -> float | None:
        """See `DeletionStore`."""
        query: Document = {"tenant_id": tenant.id, "revoked_at": None}
        await retry_without_events(lambda: self._database[KEYS].update_many(query, [{"$set": revocation()}]), deadline)
        first = {"keys_revoked_at": {"$ifNull": ["$deletion.keys_revoked_at", "$$NOW"]}}
        return await self._proceed(tenant, first, deadline)

    async def proceed(self, tenant: Tenant, deadline: Deadline) -> float | None:
        """See `DeletionStore`."""
        return await self._proceed(tenant, {}, deadline)

    def data_of(self, tenant: Tenant) -> PartsRemoval:
        """See `DeletionStore`."""
        return PartsRemoval(self._database, parts_of(tenant.id))

    async def finish(self, tenant: Tenant, deadline: Deadline) -> None:
        """See `DeletionStore`. The view goes first: with the tenant gone, a new one of its name may have it."""
        await retry_without_events(lambda: drop_view(self._database, tenant.name, tenant.id), deadline)
        query = {"_id": tenant.name, "tenant_id": tenant.id, "deletion": {"$exists": True}}
        await retry_without_events(lambda: self._tenants.delete_one(query), deadline)

    async def _proceed(self, tenant: Tenant, change: Document, deadline: Deadline) -> float | None:
        query = {"_id": tenant.name, "tenant_id": tenant.id, "deletion": {"$exists": True}}
        call = partial(self._update, query, {**change, "worked_at": "$$NOW"})
        found = await retry_without_events(call, deadline)
        if found is None:
            return None
        passed = found["deletion"]["worked_at"] - found["deletion"]["keys_revoked_at"]
        return SETTLED_AFTER_S - float(passed.total_seconds())

    async def _update(self, query: Document, fields: Document) -> Any:
        """Set fields of a deletion to expressions. Returns the tenant's document as it became; None if none matches."""
        change = {f"deletion.{field}": value for field, value in fields.items()}
        return await self._tenants.find_one_and_update(query, [{"$set": change}], return_document=ReturnDocument.AFTER)
