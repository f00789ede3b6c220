"""Limits the messages that are arriving for calls that need no key, and pauses connections whose messages are slow.

The library takes what arrives of a message while it is read. A client that sends messages without their ends would use
a core with that. So a message gets a short time, and its connection brings no other for a pause.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.core.deadline import Deadline
from server.core.fair_limit import FairLimit

MAX_READS = 4
"""Messages that are arriving for `Check`, and as many for the other methods that need no key. One connection may have
half of each. They have some 50 bytes, and arrive with their calls. One that does not end brings what the network can
carry."""

PAUSE_S = 1.0
"""How long a connection waits after a slow message. So what it brings without an end is some 5 MB a second. A proxy
that has calls of good and of bad clients on one connection still brings a few good messages between two slow ones."""


class OpenReads:
    """The messages that are arriving for one kind of calls."""

    def __init__(self) -> None:
        self._slots = FairLimit(MAX_READS, MAX_READS // 2)
        self._pauses: dict[str, asyncio.Event] = {}
        self._paused = 0

    @asynccontextmanager
    async def slot(self, connection: str) -> AsyncIterator[None]:
        """The right to read one message of a connection. Raises TimeoutError if there is none in time."""
        await self._acquire(connection, Deadline())
        try:
            yield
        finally:
            self._slots.add(connection, -1)

    async def _acquire(self, connection: str, deadline: Deadline) -> None:
        while True:
            await self._slots.acquire(connection, 1, deadline)
            pause = self._pauses.get(connection)
            if pause is None:
                return
            self._slots.add(connection, -1)
            self._paused += 1
            try:
                async with asyncio.timeout(deadline.remaining()):
                    await pause.wait()
            finally:
                self._paused -= 1

    def others_wait(self) -> bool:
        """Whether other calls wait for their messages to be read."""
        return bool(self._paused or self._slots.waiting())

    def pause(self, connection: str) -> None:
        """Read no message of this connection for PAUSE_S."""
        if connection not in self._pauses:
            self._pauses[connection] = asyncio.Event()
            asyncio.get_running_loop().call_later(PAUSE_S, self._resume, connection)

    def _resume(self, connection: str) -> None:
        self._pauses.pop(connection).set()
