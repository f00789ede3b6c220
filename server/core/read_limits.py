"""Limits what reads may use: slots for fetches, and bytes. Both are shared fairly between tenants (`fair_limit.py`).

Whatever clients do, reads must delay neither writes nor the reads of other tenants, and hold a fixed amount of memory:

1. Slots: a read holds one while the database works on a fetch. It holds none while its client receives events.
2. Bytes: a read reserves RESERVED_BYTES before its first fetch. It keeps them until its last fetch, since the later
   fetches must not wait for bytes that slow clients hold: a list that has begun would break off.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from server.core.deadline import Deadline
from server.core.errors import Unavailable
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

UNAVAILABLE = "The events could not be read in time: retry after the time in Retry-After"
BUSY = "This server has as many reads as it can hold: retry after the time in Retry-After"


class ReadLimits:
    """What all reads of this worker use."""

    def __init__(self) -> None:
        self._slots = FairLimit(MAX_FETCHES, MAX_TENANT_FETCHES)
        self._bytes = FairLimit(MAX_HELD_BYTES, MAX_TENANT_HELD_BYTES)

    @asynccontextmanager
    async def slot(self, tenant_id: UUID, deadline: Deadline, *, has_begun: bool = False) -> AsyncIterator[None]:
        """A slot for a fetch inside. A page that has begun goes first: without its next fetch, it would break
        off.

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
    async def reservation(self, tenant_id: UUID, deadline: Deadline) -> AsyncIterator["Reservation"]:
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
