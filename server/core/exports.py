"""Exports: every event of a tenant that matches, as lines of JSON, in constant memory and at the client's pace.

An export may last for hours. So it holds no cursor and no snapshot in the database: it walks through the tenant's range
of ids, fetch by fetch. Each fetch goes on behind the last event of the one before. So every event that was there at the
start comes once, whatever is stored meanwhile.

While the client takes the lines of one fetch, the next is under way: at most two are held.

If events that match are rare, there may be none to send for minutes, and proxies cut connections that are silent for so
long. So an empty line is sent then, as CouchDB does in its feeds.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from time import monotonic
from uuid import UUID

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.events.catalog import CatalogStore
from server.core.events.model import EventFilter
from server.core.events.store import Course, EventScanner, Scan, Scanned
from server.core.fair_limit import FairLimit
from server.core.read_limits import BUSY, ReadLimits, Reservation

MAX_EXPORTS = 16
"""Exports at a time in a worker. They hold their bytes for hours, so they leave most of MAX_HELD_BYTES to lists."""

KEEP_ALIVE = b"\n"
"""An empty line, which is sent after KEEP_ALIVE_S without an event."""

KEEP_ALIVE_S = 15.0
"""Half of the shortest time after which usual proxies cut a silent connection."""

MAX_TENANT_EXPORTS = 4
"""Exports at a time of one tenant in a worker, so that its lists have bytes too."""


class Exports:
    """Exports the events in `store` for all requests to this worker."""

    def __init__(self, store: EventScanner, catalog: CatalogStore, limits: ReadLimits) -> None:
        self._store = store
        self._catalog = catalog
        self._limits = limits
        self._open = FairLimit(MAX_EXPORTS, MAX_TENANT_EXPORTS)
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def export(
        self, tenant_id: UUID, where: EventFilter, course: Course, deadline: Deadline
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a tenant's events that match, some at a time. There may be none in the first bytes.

        `deadline` is for the first fetch. Each later one has its own. Raises Unavailable.
        """
        async with self._slot(tenant_id, deadline):
            if await self._catalog.may_match(tenant_id, where, deadline):
                scan = self._store.scan(tenant_id, where, course)
                async with aclosing(self._lines(tenant_id, scan, deadline)) as lines:
                    yield lines
            else:
                yield no_lines()

    async def _lines(self, tenant_id: UUID, scan: Scan, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        """The lines of a scan, encoded in short steps. All exports share a turn, and other requests run in between."""
        async with self._limits.reservation(tenant_id, deadline) as reservation:
            first = self._fetch(tenant_id, scan, reservation, 0, deadline)
            fetching: asyncio.Task[Scanned] | None = asyncio.create_task(first)
            sent_at = monotonic()
            try:
                while fetching is not None:
                    fetched = await fetching
                    fetching = None
                    if not fetched.is_last:
                        following = self._fetch(tenant_id, scan, reservation, fetched.size, Deadline())
                        fetching = asyncio.create_task(following)
                    yield b""
                    for lines in fetched.parts:
                        yield lines
                        sent_at = monotonic()
                        async with self._turn:
                            await asyncio.sleep(0)
                    if fetching is not None and monotonic() - sent_at >= KEEP_ALIVE_S:
                        yield KEEP_ALIVE
                        sent_at = monotonic()
            finally:
                if fetching is not None:
                    fetching.cancel()
                    await asyncio.gather(fetching, return_exceptions=True)
                    fetching = None  # or an error of it would hold itself, and what was fetched

    async def _fetch(
        self, tenant_id: UUID, scan: Scan, reservation: Reservation, held_bytes: int, deadline: Deadline
    ) -> Scanned:
        """The next events of a scan, while `held_bytes` of the events before are held.

        It waits behind other fetches of its tenant, or a list of that tenant would never begin.
        """
        async with self._limits.slot(tenant_id, deadline):
            fetched = await scan.fetch(deadline)
        reservation.hold(held_bytes + fetched.size, is_last=fetched.is_last)
        return fetched

    @asynccontextmanager
    async def _slot(self, tenant_id: UUID, deadline: Deadline) -> AsyncIterator[None]:
        """The right to export inside."""
        try:
            await self._open.acquire(tenant_id, 1, deadline)
        except TimeoutError:
            raise Unavailable(None, BUSY) from None
        try:
            yield
        finally:
            self._open.add(tenant_id, -1)


async def no_lines() -> AsyncIterator[bytes]:
    """What an export of no events has."""
    yield b""
