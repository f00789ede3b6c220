"""Reads stored events, and limits what reads may use.

Whatever clients do, reads must delay neither writes nor the reads of other tenants, and hold a fixed amount of memory.
So there are two limits, both fair between tenants (`fair_limit.py`):

1. Slots: a read holds one while the database works on a fetch. It holds none while its client receives events.
2. Bytes: a read reserves RESERVED_BYTES before its first fetch. It keeps them until its last fetch, since the later
   fetches must not wait for bytes that slow clients hold: a list that has begun would break off.

A page is found first: the ids and sizes of its events, and where the next page starts. Then the events are fetched, as
the client takes them, FETCH_BYTES at a time: 1,000 events of 300 bytes at once, or one event of 900 kB.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple
from uuid import UUID

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.events.catalog import CatalogStore, EventType
from server.core.events.model import EventFilter, StoredEvent
from server.core.events.store import EventReader, Match, Matches, Position
from server.core.fair_limit import FairLimit

MAX_FETCHES = 8
"""Fetches at a time in a worker: more than the database has cores for. Each may bring 16 MiB, MongoDB's limit."""

MAX_TENANT_FETCHES = 2
"""Fetches at a time of one tenant: a slow one delays no quick one."""

FETCH_BYTES = 1024 * 1024
"""How much is fetched at a time, unless an event is larger: enough to make the cost of a fetch small, little enough to
be held for a slow client."""

COPIES = 3
"""An event is held as BSON, as JSON, and as what is being sent."""

RESERVED_BYTES = COPIES * FETCH_BYTES

MAX_HELD_BYTES = 128 * 1024 * 1024
"""What all reads of a worker hold: 42 whose clients are slow, or hundreds of small ones."""

MAX_TENANT_HELD_BYTES = 32 * 1024 * 1024
"""What the reads of one tenant hold: a quarter, so that slow clients of one tenant delay only each other."""

NONE = Matches((), None)

UNAVAILABLE = "The events could not be read in time: retry after the time in Retry-After"
BUSY = "This server has as many reads as it can hold: retry after the time in Retry-After"


class Page(NamedTuple):
    """A page of events, and where the next one starts; None if there is none."""

    events: AsyncIterator[StoredEvent]
    rest: Position | None


class Reads:
    """Reads the events in `store` for all requests to this worker."""

    def __init__(self, store: EventReader, catalog: CatalogStore) -> None:
        self._store = store
        self._catalog = catalog
        self._slots = FairLimit(MAX_FETCHES, MAX_TENANT_FETCHES)
        self._bytes = FairLimit(MAX_HELD_BYTES, MAX_TENANT_HELD_BYTES)

    @asynccontextmanager
    async def page(
        self, tenant_id: UUID, where: EventFilter, start: Position, limit: int, deadline: Deadline
    ) -> AsyncIterator[Page]:
        """A page of a tenant's events that match, newest first, from `start` on: at most `limit`.

        `deadline` is for finding them and for the first fetch. Each later fetch has its own: the client decides how
        long a page takes. Raises Unavailable, and InvalidParameter for a position that is no position.
        """
        async with self._reservation(tenant_id, deadline) as reservation:
            async with self._slot(tenant_id, deadline):
                matches = NONE
                if await self._catalog.may_match(tenant_id, where, deadline):
                    matches = await self._store.find(tenant_id, where, start, limit, deadline)
            async with aclosing(self._events(tenant_id, matches.found, reservation, deadline)) as events:
                yield Page(events, matches.rest)

    async def _events(
        self, tenant_id: UUID, matches: Sequence[Match], reservation: "Reservation", deadline: Deadline
    ) -> AsyncGenerator[StoredEvent, None]:
        """The events that were found, fetched at the pace at which they are taken."""
        groups = list(in_groups(matches))
        for index, group in enumerate(groups):
            async with self._slot(tenant_id, deadline, has_begun=index > 0):
                fetched = await self._store.fetch(group, deadline)
            reservation.hold(fetched.size, is_last=index == len(groups) - 1)
            for event in fetched.events:
                yield event
            deadline = Deadline()

    @asynccontextmanager
    async def event(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> AsyncIterator[StoredEvent]:
        """One event of a tenant, which counts as held inside.

        Raises NotFound, for another tenant's too, and Unavailable.
        """
        async with self._reservation(tenant_id, deadline) as reservation:
            async with self._slot(tenant_id, deadline):
                fetched = await self._store.get(tenant_id, event_id, deadline)
            reservation.hold(fetched.size, is_last=True)
            yield next(fetched.events)

    @asynccontextmanager
    async def event_types(self, tenant_id: UUID, deadline: Deadline) -> AsyncIterator[AsyncIterator[EventType]]:
        """The sources and types that a tenant has sent, by source and type.

        `deadline` is for the first fetch. Each later fetch has its own. Raises Unavailable.
        """
        async with (
            self._reservation(tenant_id, deadline) as reservation,
            aclosing(self._types(tenant_id, reservation, deadline)) as types,
        ):
            yield types

    async def _types(
        self, tenant_id: UUID, reservation: "Reservation", deadline: Deadline
    ) -> AsyncGenerator[EventType, None]:
        """A tenant's types, fetched at the pace at which they are taken."""
        last, is_last = None, False
        while not is_last:
            async with self._slot(tenant_id, deadline, has_begun=last is not None):
                types, size, is_last = await self._catalog.types(tenant_id, last, deadline)
            reservation.hold(size, is_last=is_last)
            for last in types:
                yield last
            deadline = Deadline()

    @asynccontextmanager
    async def _slot(self, tenant_id: UUID, deadline: Deadline, *, has_begun: bool = False) -> AsyncIterator[None]:
        """A slot for a fetch inside. A page that has begun goes first: without its next fetch, it would break off.

        Errors of the fetch get words for a read.
        """
        try:
            await self._slots.acquire(tenant_id, 1, deadline, is_urgent=has_begun)
        except TimeoutError:
            raise Unavailable(None, BUSY) from None
        try:
            yield
        except Unavailable:
            raise Unavailable(None, UNAVAILABLE) from None
        finally:
            self._slots.add(tenant_id, -1)

    @asynccontextmanager
    async def _reservation(self, tenant_id: UUID, deadline: Deadline) -> AsyncIterator["Reservation"]:
        """The bytes that a read holds inside."""
        try:
            await self._bytes.acquire(tenant_id, RESERVED_BYTES, deadline)
        except TimeoutError:
            raise Unavailable(None, BUSY) from None
        reservation = Reservation(self._bytes, tenant_id)
        try:
            yield reservation
        finally:
            reservation.resize(0)


def in_groups(matches: Sequence[Match]) -> Iterator[Sequence[Match]]:
    """The matches in groups of at most FETCH_BYTES, and of one match at least."""
    start = size = 0
    for end, match in enumerate(matches):
        size += match.size
        if size > FETCH_BYTES and end > start:
            yield matches[start:end]
            start, size = end, match.size
    if matches:
        yield matches[start:]


class Reservation:
    """The bytes that one read holds."""

    def __init__(self, held: FairLimit, tenant_id: UUID) -> None:
        self._held = held
        self._tenant_id = tenant_id
        self._bytes = RESERVED_BYTES

    def hold(self, fetched_bytes: int, *, is_last: bool) -> None:
        """Count what was fetched. After the last fetch, that is all that the read needs."""
        self.resize(COPIES * fetched_bytes if is_last else max(RESERVED_BYTES, COPIES * fetched_bytes))

    def resize(self, size: int) -> None:
        """Reserve `size` bytes, at once."""
        self._held.add(self._tenant_id, size - self._bytes)
        self._bytes = size
