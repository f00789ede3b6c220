"""The feed: one change stream of this process, handed to all that follow live.

It is open only while somebody follows, and has the changes of the followed tenants only. The feed never waits for a
follower. Each has a buffer of at most MAX_BUFFERED changes. One whose buffer is full is dropped from the feed, and
reads what it missed by itself (`follower.py`).

Example: A follows tenant 1, and the stream is open. B follows tenant 2: the stream is opened again from where it was,
for both tenants. B starts there. 1,000 events of tenant 1 arrive. The feed hands over 32 at a time and lets A run in
between. If A takes them as fast, it stays. If not, its buffer is full after 64, and A reads them from the log at its
own pace. B has noticed nothing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from uuid import UUID

from server.core.events.model import EventFilter
from server.core.fair_limit import FairLimit
from server.core.tail.store import Change, HistoryLost, TailStore

MAX_BUFFERED = 64
"""Changes in a follower's buffer."""

MAX_BUFFERED_BYTES = 1024 * 1024
"""Bytes in a follower's buffer."""

MAX_ALL_BUFFERED_BYTES = 64 * 1024 * 1024
"""Bytes in all buffers of this process. Followers of one tenant share the changes, so it is less in truth."""

MAX_TENANT_BUFFERED_BYTES = 16 * 1024 * 1024
"""Bytes in the buffers of one tenant."""

POLL_INTERVAL_S = 0.1
"""How often the log is read if nothing has come. If the database waited instead, each insert of any tenant would wake
it to look at the log."""

BURST = 32
"""Changes that are handed over before followers get a turn: half a buffer."""

log = logging.getLogger("sluice")


class Subscription:
    """What one follower gets from the feed."""

    def __init__(self, feed: "Feed", tenant_id: UUID, where: EventFilter) -> None:
        self._feed = feed
        self.tenant_id = tenant_id
        self._where = where
        self._buffer = deque[Change]()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._started: bytes | None = None
        self._is_lost = False
        self.is_full = False
        """Whether it was dropped from the feed, since its buffer was full."""

    async def started(self) -> bytes:
        """The position after which it gets all changes. Raises HistoryLost."""
        while self._started is None:
            await self._wait()
        return self._started

    async def take(self) -> Sequence[Change]:
        """All changes that have come since the last call, once there are some; none if it `is_full`.

        Raises HistoryLost.
        """
        while not self._buffer and not self.is_full:
            await self._wait()
        taken = list(self._buffer)
        self._clear()
        return taken

    def position(self) -> bytes | None:
        """The position up to which it has all changes; None if some wait in its buffer."""
        return None if self._buffer or self.is_full or self._started is None else self._feed.position

    def start(self, position: bytes) -> None:
        """Say that all changes after a position will come."""
        self._started = position
        self._wake.set()

    def offer(self, change: Change) -> None:
        """Put a change into the buffer, if it matches and there is room for it."""
        if self.is_full or not change.matches(self._where):
            return
        fits = len(self._buffer) < MAX_BUFFERED and self._bytes + change.size <= MAX_BUFFERED_BYTES
        if fits and self._feed.room.try_acquire(self.tenant_id, change.size):
            self._buffer.append(change)
            self._bytes += change.size
        else:
            self.is_full = True
            self._clear()
        self._wake.set()

    def lose(self) -> None:
        """Say that the changes that came next cannot be had any more."""
        self._is_lost = True
        self._wake.set()

    def close(self) -> None:
        """Get no more changes."""
        self._clear()
        self._feed.remove(self)

    def _clear(self) -> None:
        self._buffer.clear()
        self._feed.room.add(self.tenant_id, -self._bytes)
        self._bytes = 0

    async def _wait(self) -> None:
        """Wait for a change or a notice. Raises HistoryLost."""
        if self._is_lost and not self._buffer:
            raise HistoryLost
        self._wake.clear()
        await self._wake.wait()


class Feed:
    """The change stream of this process."""

    def __init__(self, store: TailStore) -> None:
        self._store = store
        self._followers: dict[UUID, set[Subscription]] = {}
        self._starting: list[Subscription] = []
        self._wanted = asyncio.Event()
        self.position: bytes | None = None
        """Up to where the log was handed over; None if nobody follows."""
        self.room = FairLimit(MAX_ALL_BUFFERED_BYTES, MAX_TENANT_BUFFERED_BYTES)

    def subscribe(self, tenant_id: UUID, where: EventFilter) -> Subscription:
        """A subscription to what a tenant stores. It must be closed."""
        subscription = Subscription(self, tenant_id, where)
        self._followers.setdefault(tenant_id, set()).add(subscription)
        self._starting.append(subscription)
        self._wanted.set()
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """End a subscription. If it was the last, the change stream ends."""
        of_tenant = self._followers.get(subscription.tenant_id, set())
        of_tenant.discard(subscription)
        if not of_tenant:
            self._followers.pop(subscription.tenant_id, None)

    async def run_once(self) -> None:
        """Hand over changes until the followed tenants change, or nobody follows. Wait until somebody does.

        If it raises, call it again: it goes on where it was. Raises Unavailable.
        """
        if not self._followers:
            self.position = None
            self._wanted.clear()
            await self._wanted.wait()
            if not self._followers:  # it has left already
                return
        try:
            await self._listen(sorted(self._followers))
        except HistoryLost:
            log.warning("the database no longer has the changes that come next: clients that follow must read again")
            self.position = None
            for subscription in [each for of_tenant in self._followers.values() for each in of_tenant]:
                subscription.lose()

    async def _listen(self, tenants: Sequence[UUID]) -> None:
        """Hand over the changes of these tenants for as long as they are those that are followed."""
        followed = set(tenants)
        async with self._store.listen(tenants, self.position) as stream:
            self.position, count = stream.position, 0
            while self._followers.keys() == followed:
                while self._starting:
                    self._starting.pop().start(self.position)
                change = await stream.next()
                if change is not None:
                    self._hand_over(change)
                    count += 1
                self.position = stream.position
                if change is None:
                    await asyncio.sleep(POLL_INTERVAL_S)
                if count % BURST == 0:
                    await asyncio.sleep(0)

    def _hand_over(self, change: Change) -> None:
        """Offer a change to the followers of its tenant."""
        for subscription in self._followers.get(change.tenant_id, ()):
            subscription.offer(change)
