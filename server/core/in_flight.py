"""What a worker has in flight, and the limits on it.

Past a limit, new requests are rejected before their bodies are read. Otherwise the queue would grow until memory ends,
and every client would wait. A request holds a slot while the server works on it, not while its body arrives: a slow
client takes no slot from others.
"""

import asyncio
from types import TracebackType

from msgspec import Struct

from server.core.deadline import Deadline
from server.core.errors import Unavailable

MAX_REQUESTS_IN_FLIGHT = 2_000
"""Requests that a worker works on: less than a second's work if each is a single event."""

MAX_EVENTS_IN_FLIGHT = 50_000
"""Events that wait to be stored: less than a second's work, and some 100 MB of memory while they are decoded."""

MAX_BYTES_IN_FLIGHT = 64 * 1024 * 1024
"""Bodies that have arrived: 6 of the largest size, or thousands of usual ones."""

LIMITS = (MAX_REQUESTS_IN_FLIGHT, MAX_EVENTS_IN_FLIGHT, MAX_BYTES_IN_FLIGHT)

NO_CAPACITY = "This server is at the limit of what it can hold: retry after the time in Retry-After"


class Arrived(Struct, frozen=True):
    """How much of a request has arrived before it gets its slot."""

    bytes: int = 0
    events: int = 0


class InFlight:
    """Counts the requests, events and bytes in flight."""

    def __init__(self) -> None:
        self._requests = self._events = self._bytes = 0
        self._has_capacity = asyncio.Event()
        self._has_capacity.set()

    def slot(self, arrived: Arrived) -> "Slot":
        """A slot for one request, as a context manager. Entering it raises Unavailable if a limit is reached."""
        return Slot(self, arrived)

    def used(self) -> tuple[int, int, int]:
        """The requests, events and bytes in flight, in the order of LIMITS."""
        return self._requests, self._events, self._bytes

    def is_full(self) -> bool:
        """Whether a limit is reached."""
        return not self._has_capacity.is_set()

    async def wait_for_capacity(self) -> None:
        """Return as soon as no limit is reached. That stays true until the current task awaits something else."""
        while not self._has_capacity.is_set():
            await self._has_capacity.wait()  # others that waited may already have used it

    def add_request(self) -> None:
        """Count one more request. Raises Unavailable if any limit is reached."""
        if not self._has_capacity.is_set():
            raise Unavailable("not_stored", NO_CAPACITY)
        self.add(1, 0, 0)

    def add_events(self, events: int) -> None:
        """Count this number of events. Raises Unavailable if other requests have reached the limit on events."""
        if self._events >= MAX_EVENTS_IN_FLIGHT:
            raise Unavailable("not_stored", NO_CAPACITY)
        self.add(0, events, 0)

    def add(self, requests: int, events: int, size: int) -> None:
        """Change the counts by these amounts, which may be negative. `size` is in bytes."""
        self._requests += requests
        self._events += events
        self._bytes += size
        if (
            self._requests < MAX_REQUESTS_IN_FLIGHT
            and self._events < MAX_EVENTS_IN_FLIGHT
            and self._bytes < MAX_BYTES_IN_FLIGHT
        ):
            self._has_capacity.set()
        else:
            self._has_capacity.clear()


class Slot:
    """What one request has in flight."""

    def __init__(self, in_flight: InFlight, arrived: Arrived) -> None:
        self._in_flight = in_flight
        self._requests = 0
        self._bytes, self._events = arrived.bytes, arrived.events

    def __enter__(self) -> "Slot":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Count the request and what has arrived of it. Raises Unavailable if a limit is reached."""
        self._in_flight.add_request()
        self._requests = 1
        if self._bytes or self._events:
            self._in_flight.add(0, self._events, self._bytes)

    def release(self) -> None:
        """Count nothing of it. It is the same if it was not acquired."""
        if self._requests:
            self._requests = 0
            self._in_flight.add(-1, -self._events, -self._bytes)

    def released(self, paused: Deadline | None = None) -> "ReleasedSlot":
        """A context manager for the time in which the client sends its body, or in which it waits for others.

        Meanwhile all that the slot counts is free for others, and the deadline `paused` does not count down. Leaving
        it raises Unavailable if a limit is reached then.
        """
        return ReleasedSlot(self, paused)

    def add_bytes(self, size: int) -> None:
        """Count a body of this size in bytes, which has arrived."""
        self._bytes += size
        self._in_flight.add(0, 0, size)

    def add_events(self, events: int) -> None:
        """Count events that are to be stored. Raises Unavailable if other requests have reached the limit meanwhile."""
        self._in_flight.add_events(events)
        self._events += events


class ReleasedSlot:
    """What `Slot.released` returns."""

    def __init__(self, slot: Slot, paused: Deadline | None) -> None:
        self._slot = slot
        self._paused = paused
        self._remaining = paused.remaining() if paused else 0.0

    def __enter__(self) -> None:
        self._slot.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            if self._paused:
                self._paused.reset(self._remaining)
            self._slot.acquire()
