"""Bodies that are still arriving, and who gives way when they hold too much. Imports the core's errors.

They count apart from what the server works on, so that slow callers hold up none but each other; and where they hold
all the room, those who have been sending for long lose theirs to those who come.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.core.errors import RequestTimeout, Unavailable

MAX_ARRIVING_BYTES = 64 * 1024 * 1024
"""What all bodies that are still arriving may hold: six of the largest, hundreds of usual large ones."""

STALL_TIMEOUT_S = 30
"""A body that does not go on for this long is given up."""

SLOW_S = 5
"""A body that has been arriving for this long gives way where there is no room: the largest takes 17 Mbit/s for it."""

STALLED = f"The body stopped arriving for {STALL_TIMEOUT_S} s"
TOO_SLOW = f"The body took over {SLOW_S} s to arrive, and the server is short of room: send faster, or fewer events"
NO_ROOM = "This server is taking in as much as it can hold: retry after a moment"


class Arrivals:
    """The bodies that are arriving at this worker."""

    def __init__(self) -> None:
        self._bytes = 0
        self._by_age: dict[Arrival, None] = {}

    @asynccontextmanager
    async def arrival(self) -> "AsyncIterator[Arrival]":
        """A body arrives while the block runs. Raises RequestTimeout when it stalls, Unavailable when it must give way."""
        try:
            async with asyncio.timeout(STALL_TIMEOUT_S) as limit:
                arrival = Arrival(self, limit)
                self._by_age[arrival] = None
                try:
                    yield arrival
                finally:
                    self.leave(arrival)
        except TimeoutError:
            raise arrival.late from None

    def make_room(self, size: int) -> None:
        """Let slow bodies give way, the oldest first. Raises Unavailable where that makes no room for `size` bytes."""
        now = asyncio.get_running_loop().time()
        for arrival in list(self._by_age):
            if self._bytes + size <= MAX_ARRIVING_BYTES or arrival.begun > now - SLOW_S:
                break
            arrival.give_way()
        if self._bytes + size > MAX_ARRIVING_BYTES:
            raise Unavailable("not_stored", NO_ROOM)

    def add(self, size: int) -> None:
        """So many bytes more. Raises Unavailable where there is no room for them."""
        if self._bytes + size > MAX_ARRIVING_BYTES:
            self.make_room(size)
        self._bytes += size

    def leave(self, arrival: "Arrival") -> None:
        """A body has arrived, or is given up."""
        if arrival in self._by_age:
            del self._by_age[arrival]
            self._bytes -= arrival.size


class Arrival:
    """One body."""

    def __init__(self, arrivals: Arrivals, limit: asyncio.Timeout) -> None:
        self._arrivals = arrivals
        self._limit = limit
        self.begun = asyncio.get_running_loop().time()
        self.size = 0
        self.late: RequestTimeout | Unavailable = RequestTimeout(STALLED)

    def add(self, size: int) -> None:
        """So many bytes have arrived. Raises Unavailable where there is no room for them."""
        self._arrivals.add(size)
        self.size += size
        self._limit.reschedule(asyncio.get_running_loop().time() + STALL_TIMEOUT_S)

    def give_way(self) -> None:
        """End this body."""
        self._arrivals.leave(self)
        self.late = Unavailable("not_stored", TOO_SLOW)
        self._limit.reschedule(0)
