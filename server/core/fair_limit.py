"""Limits what all holders use together, and what one holder uses of it. A holder is a tenant, or a connection.

Without the second limit, one holder could use everything, and the requests of all others would wait behind its own.
Requests past a limit wait: those of one holder in their order, and the holders in turn.

Example: a limit of 3 in total and 2 a tenant. A sends four requests and B one. A gets 2, and B gets 1 although it came
last. If A releases one, its third request is next.
"""

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

from server.core.deadline import Deadline


class Waiter(NamedTuple):
    """A request that waits for `amount`."""

    amount: int
    granted: asyncio.Future[None]


class FairLimit:
    """At most `total` is in use, and at most `per_holder` by each holder."""

    def __init__(self, total: int, per_holder: int) -> None:
        self._total = total
        self._per_holder = per_holder
        self._used = 0
        self._used_by: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[Waiter]] = {}  # the holder whose turn it is comes first

    def try_acquire(self, holder: Hashable, amount: int) -> bool:
        """Whether `amount` was granted. It is if it fits now, and no request of the holder waits."""
        fits = holder not in self._waiting and self._fits(holder, amount)
        if fits:
            self.add(holder, amount)
        return fits

    async def acquire(self, holder: Hashable, amount: int, deadline: Deadline, *, is_urgent: bool = False) -> None:
        """Return once `amount` is granted. Raises TimeoutError if it is not granted by `deadline`.

        An urgent request is the next of its holder.
        """
        if self.try_acquire(holder, amount):
            return
        waiter = Waiter(amount, asyncio.get_running_loop().create_future())
        queue = self._waiting.setdefault(holder, deque())
        if is_urgent:
            queue.appendleft(waiter)
        else:
            queue.append(waiter)
        try:
            async with asyncio.timeout(deadline.remaining()):
                await waiter.granted
        except BaseException:
            if waiter.granted.done() and not waiter.granted.cancelled():
                self.add(holder, -amount)
            else:
                self._remove(holder, waiter)
                self._grant()
            raise

    def used(self) -> int:
        """How much is in use."""
        return self._used

    def waiting(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._waiting.values()))

    def waiting_of(self, holder: Hashable) -> int:
        """How many requests of a holder wait."""
        return len(self._waiting.get(holder, ()))

    def add(self, holder: Hashable, amount: int) -> None:
        """Change what a holder uses, at once. A negative `amount` is given to requests that wait."""
        self._used += amount
        used = self._used_by.get(holder, 0) + amount
        if used:
            self._used_by[holder] = used
        else:
            self._used_by.pop(holder, None)
        if amount < 0:
            self._grant()

    def _fits(self, holder: Hashable, amount: int) -> bool:
        used = self._used_by.get(holder, 0)
        return self._used + amount <= self._total and used + amount <= self._per_holder

    def _grant(self) -> None:
        """Grant what fits, to the first request of each holder in turn."""
        progress = True
        while progress:
            progress = False
            for holder in list(self._waiting):
                waiter = self._waiting[holder][0]
                if waiter.granted.done():  # its deadline has just passed, or its client is gone
                    continue
                if self._fits(holder, waiter.amount):
                    self.add(holder, waiter.amount)
                    waiter.granted.set_result(None)
                    self._remove(holder, waiter)
                    progress = True

    def _remove(self, holder: Hashable, waiter: Waiter) -> None:
        """Take a request out of its queue, and put the holder last."""
        queue = self._waiting.pop(holder)
        queue.remove(waiter)
        if queue:
            self._waiting[holder] = queue
