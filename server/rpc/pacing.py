"""Slows down the rejections of calls that have no good key, so that a flood of them leaves the event loop to others.

Otherwise a client that makes such calls as fast as they are rejected would use a whole core.
"""

import asyncio

REJECTIONS_PER_S = 100
"""Each takes some 0.4 ms, so all take 4 % of a core. A client with a bad key waits for MAX_WAIT_S at most."""

BURST_S = 0.25
"""After a pause of this length, 25 rejections are made at once."""

MAX_WAIT_S = 2.0
"""How long a rejection waits at most, also after thousands of calls that were cancelled while they waited."""

MAX_WAITING = 1_000
"""Calls that wait to be rejected. Each takes some 30 KB, so more are rejected at once."""


class Pace:
    """When the next rejection may be made."""

    def __init__(self) -> None:
        self._next = 0.0
        self._waiting = 0

    async def wait(self) -> None:
        """Return when this rejection may be made."""
        now = asyncio.get_running_loop().time()
        if self._waiting >= MAX_WAITING:
            return
        self._next = min(max(self._next, now - BURST_S) + 1 / REJECTIONS_PER_S, now + MAX_WAIT_S)
        if self._next <= now:
            return
        self._waiting += 1
        try:
            await asyncio.sleep(self._next - now)
        finally:
            self._waiting -= 1
