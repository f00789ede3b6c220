"""Limits what all tenants use together, and what one tenant uses of it.

Without the second limit, one tenant could use everything, and the requests of all others would wait behind its own.
Requests past a limit wait: those of one tenant in their order, and the tenants in turn.

Example: a limit of 3 in total and 2 a tenant. A sends four requests and B one. A gets 2, and B gets 1 although it came
last. If A releases one, its third request is next.
"""

import asyncio
from collections import deque
from typing import NamedTuple
from uuid import UUID

from server.core.deadline import Deadline


class Waiter(NamedTuple):
    """A request that waits for `amount`."""

    amount: int
    granted: asyncio.Future[None]


class FairLimit:
    """At most `total` is in use, and at most `per_tenant` by each tenant."""

    def __init__(self, total: int, per_tenant: int) -> None:
        self._total = total
        self._per_tenant = per_tenant
        self._used = 0
        self._used_by: dict[UUID, int] = {}
        self._waiting: dict[UUID, deque[Waiter]] = {}  # the tenant whose turn it is comes first

    async def acquire(self, tenant_id: UUID, amount: int, deadline: Deadline, *, is_urgent: bool = False) -> None:
        """Return once `amount` is granted. Raises TimeoutError if it is not granted by `deadline`.

        An urgent request is the next of its tenant.
        """
        if tenant_id not in self._waiting and self._fits(tenant_id, amount):
            self.add(tenant_id, amount)
            return
        waiter = Waiter(amount, asyncio.get_running_loop().create_future())
        queue = self._waiting.setdefault(tenant_id, deque())
        if is_urgent:
            queue.appendleft(waiter)
        else:
            queue.append(waiter)
        try:
            async with asyncio.timeout(deadline.remaining()):
                await waiter.granted
        except BaseException:
            if waiter.granted.done() and not waiter.granted.cancelled():
                self.add(tenant_id, -amount)
            else:
                self._remove(tenant_id, waiter)
                self._grant()
            raise

    def add(self, tenant_id: UUID, amount: int) -> None:
        """Change what a tenant uses, at once. A negative `amount` is given to requests that wait."""
        self._used += amount
        used = self._used_by.get(tenant_id, 0) + amount
        if used:
            self._used_by[tenant_id] = used
        else:
            self._used_by.pop(tenant_id, None)
        if amount < 0:
            self._grant()

    def _fits(self, tenant_id: UUID, amount: int) -> bool:
        used = self._used_by.get(tenant_id, 0)
        return self._used + amount <= self._total and used + amount <= self._per_tenant

    def _grant(self) -> None:
        """Grant what fits, to the first request of each tenant in turn."""
        progress = True
        while progress:
            progress = False
            for tenant_id in list(self._waiting):
                waiter = self._waiting[tenant_id][0]
                if waiter.granted.done():  # its deadline has just passed, or its client is gone
                    continue
                if self._fits(tenant_id, waiter.amount):
                    self.add(tenant_id, waiter.amount)
                    waiter.granted.set_result(None)
                    self._remove(tenant_id, waiter)
                    progress = True

    def _remove(self, tenant_id: UUID, waiter: Waiter) -> None:
        """Take a request out of its queue, and put the tenant last."""
        queue = self._waiting.pop(tenant_id)
        queue.remove(waiter)
        if queue:
            self._waiting[tenant_id] = queue
