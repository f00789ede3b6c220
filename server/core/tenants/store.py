"""Tenants, and the ports to where they and their data are kept.

`storage/tenants.py`, `storage/retention.py` and `storage/deletion.py` implement them.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.events.ids import time_of
from server.core.jobs.store import JobLease
from server.core.times import from_milliseconds

MAX_RETENTION_DAYS = 36_500
"""The longest retention: 100 years. Who wants more keeps events for good."""

TIMED_VERSION = 7
"""The version of UUIDs that begin with a time."""


class Tenant(NamedTuple):
    """Who owns events and keys."""

    name: str
    id: UUID
    retention_days: int | None
    """After how many days its events are removed; None if they are kept."""
    is_being_deleted: bool

    @property
    def created_at(self) -> datetime | None:
        """When it was made, as its id says; None for an id that Sluice did not make."""
        return from_milliseconds(time_of(self.id.bytes)) if self.id.version == TIMED_VERSION else None


class RetentionPolicy(NamedTuple):
    """How long the events of a tenant are kept."""

    tenant: str
    tenant_id: UUID
    days: int
    due_before_ms: int
    """Events that were received before this are to be removed: in milliseconds since 1970, by the database's clock."""


class Removal(Protocol):
    """The removal of some documents of a tenant, batch by batch."""

    async def remove_next(self, deadline: Deadline) -> int | None:
        """Remove the next batch. Returns how many documents it had; None if nothing is left. Raises Unavailable."""


class RetentionStore(Protocol):
    """Keeps the retention of tenants. All methods raise Unavailable."""

    async def policies(self, deadline: Deadline) -> Sequence[RetentionPolicy]:
        """The policies of all tenants whose events are not kept for good."""

    def due(self, policy: RetentionPolicy, lease: JobLease) -> Removal:
        """The removal of the events that are due by a policy.

        It ends as soon as the policy is changed, or a later holder of the lease has removed events of this tenant.
        """


class DeletionStore(Protocol):
    """Deletes tenants that are marked as being deleted. All methods raise Unavailable."""

    async def abandoned(self, deadline: Deadline) -> Sequence[Tenant]:
        """The marked tenants on which nobody works."""

    async def revoke_keys(self, tenant: Tenant, deadline: Deadline) -> float | None:
        """Revoke all keys of a tenant. Returns what `proceed` does."""

    async def proceed(self, tenant: Tenant, deadline: Deadline) -> float | None:
        """Say that somebody works on the deletion.

        Returns in how many seconds nothing is written any more for requests with its keys, 0 or less if that is so;
        None if the tenant is deleted.
        """

    def data_of(self, tenant: Tenant) -> Removal:
        """The removal of all that a tenant has, but for the tenant itself."""

    async def finish(self, tenant: Tenant, deadline: Deadline) -> None:
        """Remove the tenant itself. Its name can be used again then."""
