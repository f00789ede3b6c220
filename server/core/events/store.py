"""The port to where stored events are read. `storage/reads.py` implements it."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.events.model import EventFilter, StoredEvent


class Position(NamedTuple):
    """Where in a list of events a fetch starts: after the event with the id `after`, then after `skip` more."""

    skip: int
    after: Any = None


class Fetched(NamedTuple):
    """Events that were fetched. Iterating decodes one event at a time."""

    events: Iterator[StoredEvent]
    length: int
    """The number of events."""
    size: int
    """Bytes that are held until the events were decoded."""
    rest: Position | None
    """Where the next fetch starts; None if there are no more events."""


class EventReader(Protocol):
    """Where stored events are read."""

    async def fetch(
        self, tenant_id: UUID, where: EventFilter, start: Position, count: int, max_bytes: int, deadline: Deadline
    ) -> Fetched:
        """The next events of a tenant that match, newest first: at most `count`, and `max_bytes` unless one is larger.

        Raises Unavailable.
        """

    async def get(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> Fetched:
        """One event of a tenant. Raises NotFound, for another tenant's too, and Unavailable."""
