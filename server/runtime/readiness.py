"""Says whether this worker can take events: whether the database takes writes.

Load balancers ask often, and each check is a write. So checks that are wanted at the same time are one, and a result
serves all who ask within CHECK_INTERVAL_S. While events are being stored, no check is needed.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic

from server.core.errors import Unavailable

CHECK_INTERVAL_S = 1.0
"""The time between the starts of two checks. A load balancer asks every few seconds."""

READY_TIMEOUT_S = 2
"""How long the database may take to respond before the worker counts as not ready."""

FIRST_CHECK_TIMEOUT_S = 10.0
"""How long a worker that starts waits for its first successful check. Then it starts, and says that it is not ready."""


class Readiness:
    """Whether the database takes writes, by `probe`, which raises Unavailable if not.

    `confirmed_at` tells when it took the last one without a check, by the monotonic clock.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        confirmed_at: Callable[[], float] = lambda: -inf,
        interval_s: float = CHECK_INTERVAL_S,
    ) -> None:
        self._probe = probe
        self._confirmed_at = confirmed_at
        self._interval_s = interval_s
        self._started_at = 0.0
        self._check: asyncio.Task[Unavailable | None] | None = None

    async def __call__(self) -> None:
        """Return if the database takes writes. Raises Unavailable if it does not."""
        if monotonic() - self._confirmed_at() < self._interval_s:
            return
        if self._check is None or (self._check.done() and monotonic() - self._started_at >= self._interval_s):
            self._started_at = monotonic()
            self._check = asyncio.create_task(self._run())
        problem = await asyncio.shield(self._check)  # others wait for it too
        if problem is not None:
            raise Unavailable(problem.outcome, problem.detail)

    async def _run(self) -> Unavailable | None:
        try:
            await self._probe()
        except Unavailable as error:
            return error
        return None

    async def wait(self, stop: asyncio.Event) -> bool:
        """Wait for the first success, up to FIRST_CHECK_TIMEOUT_S or until `stop` is set. Returns whether it came."""
        waiting, stopped = asyncio.create_task(self._succeed()), asyncio.create_task(stop.wait())
        done, pending = await asyncio.wait(
            {waiting, stopped}, timeout=FIRST_CHECK_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        return waiting in done

    async def _succeed(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                return await self()
            await asyncio.sleep(self._interval_s)
