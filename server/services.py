"""What REST and gRPC need from outside, handed to them by the composition root. Imports the core only."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from server.core.admission import Admission
from server.core.backlog import Backlog
from server.core.deadline import Deadline
from server.core.events import EventFilter, StoredEvent
from server.core.ingest import Ingest


class EventReader(Protocol):
    """Where stored events are read."""

    def page(self, tenant_id: UUID, where: EventFilter, skip: int, limit: int) -> AsyncIterator[StoredEvent]:
        """Up to `limit` events of a tenant that match, newest first, after the first `skip`. Raises Unavailable."""

    async def get(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> StoredEvent:
        """One event of a tenant. Raises NotFound, for another tenant's too."""


@dataclass(frozen=True)
class Services:
    """One worker's services."""

    backlog: Backlog
    ingest: Ingest
    admission: Admission
    events: EventReader
    check_ready: Callable[[], Awaitable[None]]
    """Returns when the worker can take events. Raises Unavailable, saying why not."""
