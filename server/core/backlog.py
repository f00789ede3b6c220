"""What a worker has in hand, and how much that may be. Imports the errors.

Past a bound new requests are refused before their bodies are read: a queue that only grows serves nobody, and memory
ends. A request has its place while the server works on it, not while its caller sends: slow callers take no one's.
"""

import asyncio
from types import TracebackType

from server.core.errors import Unavailable

MAX_REQUESTS = 2_000
"""Requests that a worker works on: less than a second's work, where each is a single event."""

MAX_EVENTS = 50_000
"""Events that wait to be stored: less than a second's work, and some 100 MB while they are decoded."""

MAX_BYTES = 64 * 1024 * 1024
"""Bodies that have arrived: six of the largest, thousands of usual ones."""

TOO_MUCH = "This server has as much in hand as it can hold: retry after a moment"


class Backlog:
    """Requests, events and bytes in hand."""

    def __init__(self) -> None:
        self._requests = self._events = self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    def place(self) -> "Place":
        """A place for a request, as a context manager. Entering it raises Unavailable where there is none."""
        return Place(self)

    async def room(self) -> None:
        """Return when there is room; it is there until the caller awaits something else."""
        while not self._has_room.is_set():
            await self._has_room.wait()  # those who waited before may have taken what was free

    def add_request(self) -> None:
        """One more request. Raises Unavailable where any bound is reached."""
        if not self._has_room.is_set():
            raise Unavailable("not_stored", TOO_MUCH)
        self.add(1, 0, 0)

    def add_events(self, events: int) -> None:
        """So many events more. Raises Unavailable where others have reached their bound."""
        if self._events >= MAX_EVENTS:
            raise Unavailable("not_stored", TOO_MUCH)
        self.add(0, events, 0)

    def add(self, requests: int, events: int, size: int) -> None:
        """Count so much more, or less."""
        self._requests += requests
        self._events += events
        self._bytes += size
        if self._requests < MAX_REQUESTS and self._events < MAX_EVENTS and self._bytes < MAX_BYTES:
            self._has_room.set()
        else:
            self._has_room.clear()


class Place:
    """One request's part of the backlog."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._requests = self._events = self._bytes = 0

    def __enter__(self) -> "Place":
        self._backlog.add_request()
        self._requests = 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._backlog.add(-self._requests, -self._events, -self._bytes)

    def leave(self) -> None:
        """Leave the place to others: the caller is yet to send its body."""
        self._backlog.add(-1, 0, 0)
        self._requests = 0

    def take_again(self) -> None:
        """The body is there. Raises Unavailable where all places are taken."""
        self._backlog.add_request()
        self._requests = 1

    def add_bytes(self, size: int) -> None:
        """A body of so many bytes has arrived."""
        self._bytes += size
        self._backlog.add(0, 0, size)

    def add_events(self, events: int) -> None:
        """So many events are to be stored. Raises Unavailable where others have reached their bound meanwhile."""
        self._backlog.add_events(events)
        self._events += events
