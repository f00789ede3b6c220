"""Collects the rejections of a worker, and saves them together.

Rejections must not become a way to make the database busy, or to fill the memory of a worker:

1. A tenant has an allowance: BURST rejections at once, and then RATE_PER_S. What goes beyond it is not kept, only
   counted as usage. So a flood leaves a sample of itself.
2. A worker holds at most MAX_PENDING rejections. If the database is away, the oldest go first.
3. A worker saves at most MAX_SAVED a second, in one call. The first after a quiet second is saved at once.

Example: a client sends 10,000 bad batches a second to one worker, for a minute. The first 1,000 are kept, and then 10
a second. The database gets at most 500 small documents a second at the start, and 10 a second after that.

A worker that is killed loses what it has not saved: usually the last second.
"""

import asyncio
import secrets
from collections import deque
from itertools import count, islice
from time import monotonic, time_ns
from uuid import UUID

from server.core.deadline import Deadline
from server.core.errors import SluiceError
from server.core.rejections.model import Rejection, first_errors, presentable
from server.core.rejections.store import MAX_KEPT, RejectionStore
from server.core.request import Api
from server.core.times import NS_PER_MS

BURST = MAX_KEPT
"""Rejections of a tenant that are kept at once, after a quiet time: as many as are shown."""

RATE_PER_S = 10
"""Rejections of a tenant that a worker keeps a second, once its burst is used up. They cost the database 0.1 % of a
core."""

MAX_PENDING = 2_000
"""Rejections that wait to be saved: at most 8 MB, and usually 1 MB."""

MAX_SAVED = 500
"""Rejections in one call, which takes a worker some 5 ms."""

PAUSE_S = 1.0
"""The pause between two calls."""

SAVE_TIMEOUT_S = 5.0
"""How long a call may take. A drain waits for it."""


class Allowance:
    """How many more rejections of a tenant are kept. It starts full, and is filled up by RATE_PER_S."""

    __slots__ = ("_left", "_updated_at")

    def __init__(self, now: float) -> None:
        self._left = float(BURST)
        self._updated_at = now

    def use(self, now: float) -> bool:
        """Use one, if there is one. `now` is in seconds."""
        self._fill_up(now)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def is_full(self, now: float) -> bool:
        """Whether it is as it was at its start."""
        self._fill_up(now)
        return self._left >= BURST

    def _fill_up(self, now: float) -> None:
        self._left = min(self._left + (now - self._updated_at) * RATE_PER_S, BURST)
        self._updated_at = now


class RecentRejections:
    """The rejections of this worker that are not saved in `store` yet."""

    def __init__(self, store: RejectionStore) -> None:
        self._store = store
        self._pending = deque[Rejection](maxlen=MAX_PENDING)
        self._has_pending = asyncio.Event()
        self._allowances = dict[UUID, Allowance]()
        self._ids = count(secrets.randbits(127))

    def add(self, tenant_id: UUID, key_id: str, protocol: Api, error: SluiceError, size: int | None) -> None:
        """Keep that a batch was rejected with `error`, in whole or in part. `size` is in bytes, if it is known."""
        now = monotonic()
        allowance = self._allowances.get(tenant_id) or self._allowances.setdefault(tenant_id, Allowance(now))
        if not allowance.use(now):
            return
        rejection = Rejection(
            tenant_id=tenant_id,
            id=next(self._ids),
            time_ms=time_ns() // NS_PER_MS,
            protocol=protocol,
            key_id=key_id,
            code=error.code,
            detail=presentable(error.detail),
            errors=first_errors(error),
            size=size,
        )
        self._pending.append(rejection)
        self._has_pending.set()

    async def save_next(self) -> None:
        """Save rejections as soon as there are any, and then pause. Raises Unavailable."""
        await self._has_pending.wait()
        await self.save()
        await asyncio.sleep(PAUSE_S)

    async def save_all(self) -> None:
        """Save all rejections that wait. Raises Unavailable."""
        while self._pending:
            await self.save()

    async def save(self) -> None:
        """Save the oldest rejections that wait, if there are any. Raises Unavailable; then they go on waiting."""
        now = monotonic()
        self._allowances = {tenant: each for tenant, each in self._allowances.items() if not each.is_full(now)}
        saving = [self._pending.popleft() for _ in range(min(MAX_SAVED, len(self._pending)))]
        try:
            if saving:
                await self._store.insert(saving, Deadline(SAVE_TIMEOUT_S))
        except BaseException:  # a cancellation too: a drain saves what is left
            self._put_back(saving)
            raise
        if not self._pending:
            self._has_pending.clear()

    def _put_back(self, saving: list[Rejection]) -> None:
        """Let rejections wait again, as far as there is room for them: the oldest go first."""
        room = MAX_PENDING - len(self._pending)
        self._pending.extendleft(islice(reversed(saving), room))
