"""Limits how many events are sent in a second."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic


class Pace:
    """Lets `per_s` events pass in a second; all if it is None.

    Example: at 1,000/s, a request of 500 events is sent at once, and the next one 0.5 s later.
    """

    def __init__(self, per_s: int | None, clock: Callable[[], float] = monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._free_at = clock()

    async def wait(self, events: int, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Return when this number of events may be sent."""
        if self._per_s is None:
            return
        now = self._clock()
        if self._free_at > now:
            await sleep(self._free_at - now)
        self._free_at = max(self._free_at, now) + events / self._per_s
