"""Bodies that are still arriving: the limits on how long that takes and how much they hold.

They have a limit of their own, apart from what the server works on. So slow clients delay only each other. When it is
reached, bodies that have been arriving for more than 5 s are cancelled, oldest first. A body is the body of a REST
request, which is counted as it arrives, or a gRPC message, which is counted by the most that it may become.
"""

import asyncio
from collections.abc import Callable
from itertools import takewhile
from time import monotonic
from types import TracebackType

from server.core.errors import SluiceError, Unavailable

STALL_TIMEOUT_S = 30
"""A body that brings nothing for this long is cancelled. The contract fixes it."""

MIN_BYTES_PER_S = 1_000
"""A body that is STALL_TIMEOUT_S behind this pace is cancelled too. Otherwise a byte now and then would last years."""

SLOW_S = 5
"""Bodies that have been arriving for this long are cancelled if capacity is short. At 17 Mbit/s none takes longer."""

CHECK_INTERVAL_S = 0.1
"""How often to look for stalled and slow bodies. One timer serves all: one for each would be a twentieth of a request's
CPU. It is short, so that few of thousands are cancelled at one time, which would hold up all other requests."""

NO_CAPACITY = "This server is receiving as much as it can hold: retry after the time in Retry-After"
STALLED = f"The body stopped arriving for {STALL_TIMEOUT_S} s, or came slower than {MIN_BYTES_PER_S:,} bytes a second"
TOO_SLOW = f"The body took over {SLOW_S} s to arrive, and the server is short of memory: send faster, or fewer events"


class Arrivals:
    """The bodies that are arriving at this worker over one protocol.

    `max_bytes` is what all of them may hold. `stalled` makes the error for a body that brings nothing. `waiting` tells
    how many bodies wait until one of these has arrived.
    """

    def __init__(
        self, max_bytes: int, stalled: Callable[[], SluiceError], waiting: Callable[[], int] = lambda: 0
    ) -> None:
        self._max_bytes = max_bytes
        self._stalled = stalled
        self._waiting = waiting
        self._bytes = 0
        self._by_age: dict[Arrival, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def arrival(self) -> "Arrival":
        """The arrival of one body, as a context manager. Leaving it raises the error that cancelled the body."""
        return Arrival(self)

    def cancel_all(self, why: str) -> None:
        """Cancel all bodies, because the server drains. `why` is the detail of their error."""
        for arrival in list(self._by_age):
            arrival.cancel(Unavailable("not_stored", why))

    def begin(self, arrival: "Arrival") -> None:
        """Add a body that begins to arrive."""
        self._by_age[arrival] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self._cancel_stalled)

    def add(self, size: int) -> None:
        """Count this number of bytes. Raises Unavailable if there is no capacity for them."""
        if self._bytes + size > self._max_bytes:
            self._cancel_slow(size)
        self._bytes += size

    def remove(self, arrival: "Arrival") -> None:
        """Remove a body that has arrived or is cancelled."""
        if arrival in self._by_age:
            del self._by_age[arrival]
            self._bytes -= arrival.size

    def _slow(self) -> "list[Arrival]":
        """The bodies that have been arriving for more than SLOW_S, oldest first."""
        since = monotonic() - SLOW_S
        return list(takewhile(lambda arrival: arrival.began <= since, self._by_age))

    def _cancel_slow(self, size: int) -> None:
        """Cancel slow bodies, oldest first, until `size` bytes fit. Raises Unavailable if they still do not fit."""
        for arrival in self._slow():
            if self._bytes + size <= self._max_bytes:
                break
            arrival.cancel(Unavailable("not_stored", TOO_SLOW))
        if self._bytes + size > self._max_bytes:
            raise Unavailable("not_stored", NO_CAPACITY)

    def _cancel_stalled(self) -> None:
        """Cancel the bodies that bring nothing, and slow ones if others wait for them."""
        stalled = monotonic() - STALL_TIMEOUT_S
        for arrival in list(self._by_age):
            if min(arrival.continued, arrival.began + arrival.size / MIN_BYTES_PER_S) < stalled:
                arrival.cancel(self._stalled())
        if self._waiting():
            for arrival in self._slow():
                arrival.cancel(Unavailable("not_stored", TOO_SLOW))
        again = bool(self._by_age)
        self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self._cancel_stalled) if again else None


class Arrival:
    """One body."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._task = asyncio.current_task()
        self._cancelled_by: SluiceError | None = None
        self.began = self.continued = monotonic()
        """When the body began to arrive, and when its last bytes did."""
        self.size = 0
        """Bytes that have arrived."""

    def __enter__(self) -> "Arrival":
        self._arrivals.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._arrivals.remove(self)
        if self._cancelled_by and self._task and not self._task.uncancel():  # nobody else cancelled the task too
            raise self._cancelled_by from None

    def add(self, size: int) -> None:
        """Count bytes that have arrived. Raises Unavailable if there is no capacity for them."""
        self._arrivals.add(size)
        self.size += size
        self.continued = monotonic()

    def cancel(self, error: SluiceError) -> None:
        """Stop reading this body, and let its request end with `error`."""
        self._arrivals.remove(self)
        self._cancelled_by = error
        if self._task:
            self._task.cancel()  # it is waiting for more of the body; leaving the context turns this into `error`
