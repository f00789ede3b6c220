"""The catalog: the sources and types that each tenant has sent, and when the first and the last event of each came.

It lets a list be answered at once if its filter names what the tenant never sent. So no event may be stored whose
source and type are not in the catalog: they are added, on a majority, before the event is stored.

A worker remembers what it has added or found there, so nearly all batches need no call. When the last event of a type
came is noted in memory, and saved by a job.

Example: the first event of type `refund` arrives. The worker does not know the type, adds it to the catalog, and then
stores the event. From now on, it only notes the time. If it is killed, the catalog keeps an older `last_seen`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.events.model import BatchInfo, EventFilter

MAX_KNOWN = 50_000
"""Types that a worker remembers, of all tenants: some MiB. It then forgets all, and asks the catalog again."""

Sender = tuple[UUID, str]
"""A tenant, and a source."""


class EventType(NamedTuple):
    """A type that a source of a tenant has sent. Times are in milliseconds since 1970."""

    source: str
    event_type: str
    first_seen_ms: int
    last_seen_ms: int


class FetchedTypes(NamedTuple):
    """Types that were fetched together."""

    types: Sequence[EventType]
    size: int
    """In bytes, as they are stored."""
    is_last: bool
    """Whether the tenant has no types after these."""


class CatalogStore(Protocol):
    """Where the catalog is kept. All methods raise Unavailable."""

    async def add(self, sender: Sender, event_types: Sequence[str], seen_at_ms: int, deadline: Deadline) -> None:
        """Return when the types of a source are in the catalog on a majority.

        A tenant's part may be full. Then it is marked as incomplete instead.
        """

    async def save_last_seen(self, times_ms: Mapping[Sender, Mapping[str, int]], deadline: Deadline) -> None:
        """Save when the last event of each type came, as far as they are in the catalog."""

    async def types(self, tenant_id: UUID, last: EventType | None, deadline: Deadline) -> FetchedTypes:
        """Some of a tenant's types, by source and type: those after `last`, or the first ones."""

    async def may_match(self, tenant_id: UUID, where: EventFilter, deadline: Deadline) -> bool:
        """Whether a tenant may have events of the filter's source and type."""


class Catalog:
    """What a worker knows of the catalog in `store`."""

    def __init__(self, store: CatalogStore) -> None:
        self._store = store
        self._known: dict[Sender, set[str]] = {}
        self._known_count = 0
        self._last_seen_ms: dict[Sender, dict[str, int]] = {}

    async def note(self, info: BatchInfo, event_types: Sequence[str], deadline: Deadline) -> None:
        """Return when the catalog has the types of a batch. Raises Unavailable."""
        sender, distinct = (info.tenant_id, info.source), set(event_types)
        known = self._known.get(sender)
        if known is None or not distinct <= known:
            await self._add(sender, distinct, info.received_at_ms, deadline)
        self._last_seen_ms.setdefault(sender, {}).update(dict.fromkeys(distinct, info.received_at_ms))

    async def _add(self, sender: Sender, event_types: set[str], seen_at_ms: int, deadline: Deadline) -> None:
        new = event_types - self._known.get(sender, set())
        await self._store.add(sender, sorted(new), seen_at_ms, deadline)
        if self._known_count + len(new) > MAX_KNOWN:
            self._known.clear()
            self._known_count = 0
        self._known.setdefault(sender, set()).update(new)
        self._known_count += len(new)

    async def save(self, deadline: Deadline) -> None:
        """Save what was noted since the last call. Raises Unavailable; what was noted is lost then."""
        noted, self._last_seen_ms = self._last_seen_ms, {}
        if noted:
            await self._store.save_last_seen(noted, deadline)
