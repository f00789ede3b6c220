"""The collection `tenants`: `{_id: name, tenant_id, retention, deletion}`. The last two are absent as a rule.

`retention.py` and `deletion.py` say what is in them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from bson.binary import Binary
from bson.max_key import MaxKey
from bson.min_key import MinKey

from server.core.deadline import Deadline
from server.core.errors import ConfigurationError, NotFound
from server.core.tenants.store import Tenant
from storage.commands import Database, Document, attempt, driver_errors_as_unavailable, time_limit
from storage.indexes import EVENTS, KEYS, TENANTS

COUNT_MS = 2_000
"""How long events may be counted: 4,000,000 in memory take as long."""

NO_TENANT = "No tenant has this name: `sluice tenants list` shows all"


class TenantBeingDeleted(ConfigurationError):
    """A tenant cannot be used, since it is being deleted."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"tenant {name} is being deleted: its name can be used again when `sluice tenants list` no longer shows it"
        )


class Activity(NamedTuple):
    """What a tenant has."""

    keys: int
    """Those that are not revoked."""
    last_event_at: datetime | None
    """When the newest event was received."""


class Tenants:
    """The collection `tenants`, for commands. Methods have the time of a request, and raise Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tenants = database[TENANTS]

    async def find_all(self) -> list[Tenant]:
        """All tenants, by name."""
        with driver_errors_as_unavailable(), time_limit(Deadline()):
            return [tenant_of(document) for document in await self._tenants.find(sort=[("_id", 1)]).to_list(None)]

    async def find(self, name: str) -> Tenant:
        """The tenant of this name. Raises NotFound."""
        with driver_errors_as_unavailable(), time_limit(Deadline()):
            document = await self._tenants.find_one({"_id": name})
        if document is None:
            raise NotFound(NO_TENANT)
        return tenant_of(document)

    async def activities(self, tenants: Sequence[Tenant]) -> list[Activity]:
        """What each of the tenants has."""
        with driver_errors_as_unavailable(), time_limit(Deadline()):
            active = await self._database[KEYS].find({"revoked_at": None}, {"tenant_id": 1}).to_list(None)
        keys = Counter(key["tenant_id"] for key in active)
        return [Activity(keys[tenant.id], await self._last_event_at(tenant.id)) for tenant in tenants]

    async def count_events(self, tenant_id: UUID) -> int | None:
        """How many events a tenant has; None if to count them takes too long."""
        command = {"count": EVENTS, "query": events_of(tenant_id), "hint": {"_id": 1}}
        reply = await attempt(self._database, command, COUNT_MS, self._database.codec_options, Deadline())
        return None if reply is None else int(reply["n"])

    async def set_retention(self, name: str, days: int | None) -> Tenant:
        """Remove a tenant's events that are older than `days`; keep them if that is None.

        Raises NotFound, and TenantBeingDeleted.
        """
        change: Document = {"$unset": {"retention": ""}} if days is None else {"$set": {"retention.days": days}}
        with driver_errors_as_unavailable("unknown"), time_limit(Deadline()):
            await self._tenants.update_one({"_id": name, "deletion": None}, change)
        tenant = await self.find(name)
        if tenant.is_being_deleted:
            raise TenantBeingDeleted(name)
        return tenant

    async def _last_event_at(self, tenant_id: UUID) -> datetime | None:
        with driver_errors_as_unavailable(), time_limit(Deadline()):
            newest = await self._database[EVENTS].find_one(
                events_of(tenant_id), {"received_at": 1}, sort=[("_id", -1)], hint=[("_id", 1)]
            )
        return None if newest is None else newest.get("received_at")


def events_of(tenant_id: UUID) -> Document:
    """The query for all events of a tenant."""
    tenant = Binary.from_uuid(tenant_id)
    return {"_id": {"$gte": {"tenant_id": tenant, "id": MinKey()}, "$lt": {"tenant_id": tenant, "id": MaxKey()}}}


def tenant_of(document: Mapping[str, Any]) -> Tenant:
    """The tenant that a document holds."""
    retention = document.get("retention", {})
    return Tenant(document["_id"], document["tenant_id"], retention.get("days"), "deletion" in document)
