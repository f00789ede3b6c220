"""Admits requests with raw bodies, and stores each body when it is its turn.

Only the piece that is being stored counts as in flight. So bodies have limits of their own, which tenants share fairly.
"""

from collections.abc import Awaitable, Callable

from server.core.access.keys import Credentials
from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.fair_limit import FairLimit
from server.core.in_flight import InFlight
from server.core.ingest.body_ingest import PROGRESS_TIMEOUT_S, BodyIngest
from server.core.ingest.ingest import AdmittedRequest, Ingest, Ingested
from server.core.ingest.raw_body import RawBody, RawReceipt
from server.core.ingest.store import ProgressStore
from server.core.request import Request

MAX_BYTES, MAX_TENANT_BYTES = 60 * 1024 * 1024, 40 * 1024 * 1024
"""Bodies that are worked on at a time, in all and of one tenant: enough of them that the database is always busy."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Bodies that wait for their turn: as much as may arrive at a time."""

NO_CAPACITY = "This server holds as many raw bodies as it can: retry after the time in Retry-After"


class RawIngest:
    """Stores raw bodies by `ingest`, within the limits of `in_flight`. Their progress is saved in `store`."""

    def __init__(self, ingest: Ingest, in_flight: InFlight, store: ProgressStore) -> None:
        self._ingest = ingest
        self._in_flight = in_flight
        self._progress = store
        self._bodies = FairLimit(MAX_BYTES, MAX_TENANT_BYTES)
        self._waiting_bytes = 0

    async def __call__(
        self, origin: Request, credentials: Credentials, read: Callable[[AdmittedRequest], Awaitable[RawBody]]
    ) -> Ingested[RawReceipt]:
        """Admit a request, `read` its body and store it.

        Raises what `Ingest.handle`, `read` and `Ingest.store` do. Unavailable says how many events are stored.
        """
        try:
            return await self._ingest.handle(origin, credentials, read, self._store)
        except Unavailable as error:
            error.events_received = error.events_received or 0
            raise

    async def _store(self, request: AdmittedRequest, body: RawBody) -> RawReceipt:
        """Store a body when it is its turn. The limits on what is in flight count only a piece that is being stored."""
        request.slot.release()
        await self._wait_for_turn(request, body)
        try:
            return await BodyIngest(self._ingest, self._in_flight, self._progress, request, body).run()
        finally:
            self._bodies.add(request.tenant_id, -body.size)

    async def _wait_for_turn(self, request: AdmittedRequest, body: RawBody) -> None:
        """Return when the body may be worked on. Raises Unavailable."""
        if self._bodies.try_acquire(request.tenant_id, body.size):
            return
        if self._waiting_bytes + body.size > MAX_WAITING_BYTES:
            raise Unavailable("not_stored", NO_CAPACITY)
        self._waiting_bytes += body.size
        try:
            acquired = self._bodies.acquire(request.tenant_id, body.size, Deadline(PROGRESS_TIMEOUT_S))
            await body.unless_gone(acquired)
        except TimeoutError:
            raise Unavailable("not_stored", NO_CAPACITY) from None
        finally:
            self._waiting_bytes -= body.size
