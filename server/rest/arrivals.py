"""Bodies that are still arriving: how long that may take, and who gives way when they hold too much.

They count apart from what the server works on, so that slow callers hold up none but each other; and where they hold
all the room, those who have been sending for long lose theirs to those who come. Imports the core's errors.
"""

import asyncio
from time import monotonic
from types import TracebackType

from server.core.errors import RequestTimeout, Unavailable

MAX_ARRIVING_BYTES = 64 * 1024 * 1024
"""What all bodies that are still arriving may hold: six of the largest, hundreds of usual large ones."""

STALL_TIMEOUT_S = 30
"""A body that does not go on for this long is given up."""

MIN_BYTES_PER_S = 1_000
"""So is one that is so much behind this pace, slower than any line: a byte now and then would last for years."""

SLOW_S = 5
"""A body that has been arriving for this long gives way where there is no room: the largest takes 17 Mbit/s for it."""

LOOK_S = 0.1
"""How often to look for stalled bodies: one timer for all, where one for each would be a twentieth of a request; and
often enough that few of thousands come due at one look, which holds up all others."""

NO_ROOM = "This server is taking in as much as it can hold: retry after a moment"
STALLED = f"The body stopped arriving for {STALL_TIMEOUT_S} s, or came slower than {MIN_BYTES_PER_S:,} bytes a second"
TOO_SLOW = f"The body took over {SLOW_S} s to arrive, and the server is short of room: send faster, or fewer events"


class Arrivals:
    """The bodies that are arriving at this worker."""

    def __init__(self) -> None:
        self._bytes = 0
        self._by_age: dict[Arrival, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def arrival(self) -> "Arrival":
        """A body arrives, as a context manager. Leaving it raises what made it end early."""
        return Arrival(self)

    def begin(self, arrival: "Arrival") -> None:
        """A body begins to arrive."""
        self._by_age[arrival] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._end_stalled)

    def add(self, size: int) -> None:
        """So many bytes more. Raises Unavailable where there is no room for them."""
        if self._bytes + size > MAX_ARRIVING_BYTES:
            self._make_room(size)
        self._bytes += size

    def leave(self, arrival: "Arrival") -> None:
        """A body has arrived, or is given up."""
        if arrival in self._by_age:
            del self._by_age[arrival]
            self._bytes -= arrival.size

    def _make_room(self, size: int) -> None:
        """Let slow bodies give way, the oldest first. Raises Unavailable where that makes no room for `size` bytes."""
        slow = monotonic() - SLOW_S
        for arrival in list(self._by_age):
            if self._bytes + size <= MAX_ARRIVING_BYTES or arrival.began > slow:
                break
            arrival.give_up(Unavailable("not_stored", TOO_SLOW))
        if self._bytes + size > MAX_ARRIVING_BYTES:
            raise Unavailable("not_stored", NO_ROOM)

    def _end_stalled(self) -> None:
        """Give up the bodies that do not go on."""
        stalled = monotonic() - STALL_TIMEOUT_S
        for arrival in list(self._by_age):
            if min(arrival.went_on, arrival.began + arrival.size / MIN_BYTES_PER_S) < stalled:
                arrival.give_up(RequestTimeout(STALLED))
        again = bool(self._by_age)
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._end_stalled) if again else None


class Arrival:
    """One body."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._task = asyncio.current_task()
        self._given_up: RequestTimeout | Unavailable | None = None
        self.began = self.went_on = monotonic()
        self.size = 0
        """Bytes that have arrived."""

    def __enter__(self) -> "Arrival":
        self._arrivals.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._arrivals.leave(self)
        if self._given_up and self._task and not self._task.uncancel():  # it was us who cancelled it, and nobody else
            raise self._given_up from None

    def add(self, size: int) -> None:
        """So many bytes have arrived. Raises Unavailable where there is no room for them."""
        self._arrivals.add(size)
        self.size += size
        self.went_on = monotonic()

    def give_up(self, why: RequestTimeout | Unavailable) -> None:
        """Take this body's room, and tell its caller why."""
        self._arrivals.leave(self)
        self._given_up = why
        if self._task:
            self._task.cancel()  # it waits for more of the body, so that is where it learns of this
