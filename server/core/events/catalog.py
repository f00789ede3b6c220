"""The catalog: the sources and types that each tenant has sent, and when the first and the last event of each came.

It lets a list be answered at once if its filter names what the tenant never sent. So no event may be stored whose
source and type are not in the catalog: they are added, on a majority, before the event is stored.

A worker remembers for CHECKED_MS what it has added, so nearly all batches need no call. After that, it adds a type
again when its next event comes, which saves the time of that event. So `last_seen` lags by CHECKED_MS at most, even if
the worker is killed. What an operator has removed from the catalog comes back in the same way.

Example: the first event of type `refund` arrives at 12:00:00. The worker adds the type, and then stores the event.
Until 12:00:30, it stores events of that type without a call. The next one arrives at 12:07:00. The worker saves this
time, and then stores the event.

What is remembered is limited in bytes, for each tenant and in total, since clients choose how many types they send.
"""

import asyncio
from collections.abc import Sequence, Set
from operator import attrgetter
from sys import getsizeof
from typing import NamedTuple, Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.events.model import BatchInfo, EventFilter

CHECKED_MS = 30_000
"""How long a type counts as added. `last_seen` may lag by a minute. A call for each source in 30 s costs nothing that
can be measured."""

MAX_TENANT_BYTES = 4 * 1024 * 1024
"""What is remembered of one tenant: 10,000 types with names of 250 characters. Past it, all of that is forgotten."""

MAX_BYTES = 16 * 1024 * 1024
"""What is remembered of all tenants: 10,000 tenants with 5 types each. Past it, the one that has most is forgotten."""

TYPE_BYTES = 110
"""What a type takes beside its name: up to 7 of the 16 bytes of a set's slot, since a set grows to 4 times its size."""

SOURCE_BYTES = 700
"""What a source takes beside its name: an empty set, an object, and slots of a dictionary."""

TenantSource = tuple[UUID, str]
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

    async def add(
        self, tenant_source: TenantSource, event_types: Sequence[str], seen_at_ms: int, deadline: Deadline
    ) -> None:
        """Return when a majority has the types of a source in the catalog, with a `last_seen` of that time or later.

        A tenant's part may be full. Then it is marked as incomplete instead.
        """

    async def types(self, tenant_id: UUID, last: EventType | None, deadline: Deadline) -> FetchedTypes:
        """Some of a tenant's types, by source and type: those after `last`, or the first ones."""

    async def may_match(self, tenant_id: UUID, where: EventFilter, deadline: Deadline) -> bool:
        """Whether a tenant may have events of the filter's source and type."""


class Catalog:
    """What a worker knows of the catalog in `store`."""

    def __init__(self, store: CatalogStore) -> None:
        self._store = store
        self._tenants: dict[UUID, KnownTenant] = {}
        self._size = 0

    async def note(self, info: BatchInfo, event_types: Sequence[str], deadline: Deadline) -> None:
        """Return when the catalog has the types of a batch, and their times but for CHECKED_MS. Raises Unavailable."""
        distinct = set(event_types)
        tenant = self._tenants.get(info.tenant_id)
        if tenant is None:
            tenant = self._tenants[info.tenant_id] = KnownTenant()
        if tenant.lacks(info, distinct):
            await self._add(tenant, info, distinct, deadline)

    async def _add(self, tenant: "KnownTenant", info: BatchInfo, event_types: Set[str], deadline: Deadline) -> None:
        """Add what a tenant lacks. Its batches take turns: most of those that waited then lack nothing."""
        try:
            async with asyncio.timeout(deadline.remaining()):
                await tenant.turn.acquire()
        except TimeoutError:
            raise Unavailable from None
        try:
            if missing := tenant.lacks(info, event_types):
                tenant_source = info.tenant_id, info.source
                await self._store.add(tenant_source, sorted(missing), info.received_at_ms, deadline)
                self._remember(tenant, info, missing)
        finally:
            tenant.turn.release()

    def _remember(self, tenant: "KnownTenant", info: BatchInfo, added: Set[str]) -> None:
        """Remember what was added, within the limits."""
        self._size += tenant.remember(info, added)
        if tenant.size > MAX_TENANT_BYTES:
            self._size -= tenant.forget()
        while self._size > MAX_BYTES:
            self._size -= max(self._tenants.values(), key=attrgetter("size")).forget()


class KnownTenant:
    """What a worker remembers of a tenant."""

    __slots__ = ("_sources", "size", "turn")

    def __init__(self) -> None:
        self._sources: dict[str, KnownSource] = {}
        self.size = 0
        """In bytes."""
        self.turn = asyncio.Lock()

    def lacks(self, info: BatchInfo, event_types: Set[str]) -> Set[str]:
        """Which types of a batch are to be added, so that their last event is not more than CHECKED_MS before it."""
        known = self._sources.get(info.source)
        if known is None or info.received_at_ms > known.since_ms + CHECKED_MS:
            return event_types
        return event_types - known.event_types

    def remember(self, info: BatchInfo, added: Set[str]) -> int:
        """Remember what was added with a batch. Returns by how many bytes the size changed."""
        known, before = self._sources.get(info.source), self.size
        if known is None or info.received_at_ms > known.since_ms + CHECKED_MS:
            self.size -= 0 if known is None else known.size
            known = self._sources[info.source] = KnownSource(info)
            self.size += known.size
        if info.received_at_ms >= known.since_ms:  # a replay of an old batch has added an old time
            self.size += known.remember(added)
        return self.size - before

    def forget(self) -> int:
        """Forget all. Returns its size in bytes."""
        size, self.size = self.size, 0
        self._sources.clear()
        return size


class KnownSource:
    """The types of a source that were added with events of `since_ms` or later."""

    __slots__ = ("event_types", "since_ms", "size")

    def __init__(self, info: BatchInfo) -> None:
        self.since_ms = info.received_at_ms
        self.event_types: set[str] = set()
        self.size = SOURCE_BYTES + getsizeof(info.source)

    def remember(self, added: Set[str]) -> int:
        """Remember types that were added. Returns by how many bytes the size changed."""
        size = sum(TYPE_BYTES + getsizeof(event_type) for event_type in added)
        self.event_types |= added
        self.size += size
        return size
