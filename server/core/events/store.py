"""The port to where stored events are read. `storage/events.py` implements it."""

from collections.abc import AsyncIterator
from typing import Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.events.model import EventFilter, StoredEvent


class EventReader(Protocol):
    """Where stored events are read."""

    def page(self, tenant_id: UUID, where: EventFilter, skip: int, limit: int) -> AsyncIterator[StoredEvent]:
        """Up to `limit` events of a tenant that match, newest first, after the first `skip`. Raises Unavailable."""

    async def get(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> StoredEvent:
        """One event of a tenant. Raises NotFound, for another tenant's too."""
