"""Reads stored events, and limits what reads may use.

Whatever clients do, reads must delay neither writes nor the reads of other tenants, and hold a fixed amount of memory.
So there are two limits, both fair between tenants (`fair_limit.py`):

1. Slots: a read holds one while the database works on a fetch. It holds none while its client receives events.
2. Bytes: a read reserves RESERVED_BYTES before its first fetch. It keeps them until its last fetch, since the later
   fetches must not wait for bytes that slow clients hold: a list that has begun would break off.

A list is read in fetches. The first is of 4 events, and shows how large the events are. The others aim at FETCH_BYTES:
with events of 300 bytes, a page of 1,000 takes two fetches; with events of 900 kB, the later fetches are of one event.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.events.model import EventFilter, StoredEvent
from server.core.events.store import EventReader, Position
from server.core.fair_limit import FairLimit

MAX_FETCHES = 8
"""Fetches at a time in a worker: more than the database has cores for. Each may bring 16 MiB, MongoDB's limit."""

MAX_TENANT_FETCHES = 2
"""Fetches at a time of one tenant: a slow one delays no quick one."""

FIRST_FETCH_EVENTS = 4
"""Few, as each may have 1 MiB."""

FETCH_BYTES = 1024 * 1024
"""What is kept of a fetch, unless its first event is larger: enough to make the cost of a fetch small, little enough to
be held for a slow client."""

COPIES = 3
"""An event is held as BSON, as JSON, and as what is being sent."""

RESERVED_BYTES = COPIES * FETCH_BYTES

MAX_HELD_BYTES = 128 * 1024 * 1024
"""What all reads of a worker hold: 42 whose clients are slow, or hundreds of small ones."""

MAX_TENANT_HELD_BYTES = 32 * 1024 * 1024
"""What the reads of one tenant hold: a quarter, so that slow clients of one tenant delay only each other."""

UNAVAILABLE = "The events could not be read in time: retry after the time in Retry-After"
BUSY = "This server has as many reads as it can hold: retry after the time in Retry-After"


class Reads:
    """Reads the events in `store` for all requests to this worker."""

    def __init__(self, store: EventReader) -> None:
        self._store = store
        self._slots = FairLimit(MAX_FETCHES, MAX_TENANT_FETCHES)
        self._bytes = FairLimit(MAX_HELD_BYTES, MAX_TENANT_HELD_BYTES)

    async def page(
        self, tenant_id: UUID, where: EventFilter, skip: int, limit: int, deadline: Deadline
    ) -> AsyncGenerator[StoredEvent, None]:
        """Up to `limit` events of a tenant that match, newest first, after the first `skip`. Raises Unavailable.

        `deadline` is that of the first event. Each later fetch has its own: the client decides how long a page takes.
        """
        async with self._reservation(tenant_id, deadline) as reservation:
            start: Position | None = Position(skip)
            count = FIRST_FETCH_EVENTS
            while start is not None and limit > 0:
                async with self._slot(tenant_id, deadline, has_begun=start.after is not None):
                    fetched = await self._store.fetch(tenant_id, where, start, min(count, limit), FETCH_BYTES, deadline)
                limit -= fetched.length
                start = fetched.rest
                reservation.hold(fetched.size, is_last=start is None or limit <= 0)
                for event in fetched.events:
                    yield event
                count = max(1, FETCH_BYTES * fetched.length // max(1, fetched.size))
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
