"""One follower: it first reads what is stored, then what was stored meanwhile, and then what is stored as it comes.

Events get their id when they are received, and are stored later: up to some seconds, or days if a client retries a
batch under its idempotency key. So the order of ids is not the order of storing, and there is no id below which nothing
can come any more. Instead of waiting until that is likely, a follower reads the collection as it was at one position in
the log of changes. Whatever was stored later stands in the log after that position. A `Place` is exact at every event.

A follower does one of three things at a time:

1. Stored: read a page of stored events, as they were at the position `after`, above the id `read_to`. As such a view
   of the past cannot be kept for long, every ADVANCE_S the position moves to now. What was stored in between with an id
   up to `read_to` would be missed, so it is read from the log: these are the late ones.
2. Missed: read the log from `after` on, until it meets the feed.
3. Live: take what the feed hands over. If that is too much, continue with 2.

Example: a client follows with `since` 09:00, at 12:00. The log is at position 500. The events of 09:00 to 12:00 are
read as they were at 500. After 5 s the follower has come to the id of 10:30, and the log to 900. A retry has stored an
event with an id of 09:10 at 700: it is read from the log, 500 to 900, up to the id of 10:30. An event with an id of
11:00 that was stored at 701 is not, for it comes with the next pages, which are read as of 900. They come to the end.
Then follows what the log has after 900: the feed is at 950, so up to there, and the rest comes live.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Literal, NamedTuple, TypeVar
from uuid import UUID

from server.core.deadline import Deadline
from server.core.errors import Gone, Unavailable
from server.core.events.model import EventFilter
from server.core.fair_limit import FairLimit
from server.core.tail.feed import Feed, Subscription
from server.core.tail.store import Change, ChangePage, HistoryLost, Place, StoredPage, TailStore
from server.core.times import format_time, from_milliseconds

ADVANCE_S = 5.0
"""How long stored events are read as of one position. MongoDB keeps such a view for 5 minutes."""

RETRY_S = 0.5
"""The pause after the database could not be read. A follower goes on when it is back."""

FIRST_PAGE = 16
"""Events in the first page. Each may have 1 MiB."""

MAX_PAGE = 1_000
"""Events in a page, if they are small."""

PAGE_BYTES = 1024 * 1024
"""How large a page should be, by the sizes of the page before."""

MAX_READS = 8
"""Pages that are read at a time in a worker."""

MAX_TENANT_READS = 2
"""Pages that are read at a time for one tenant."""

COPIES = 3
"""An event is held as BSON, as JSON, and as what is being sent."""

MAX_HELD_BYTES = 96 * 1024 * 1024
"""What the pages of all followers hold until their clients have them."""

MAX_TENANT_HELD_BYTES = 24 * 1024 * 1024
"""What the pages of one tenant's followers hold: 8 pages."""

Kind = Literal["event", "caught_up", "heartbeat"]

Page = TypeVar("Page", StoredPage, ChangePage)


class Step(NamedTuple):
    """What a follower receives, and the place at which it is then."""

    kind: Kind
    place: Place
    change: Change | None = None


class Pages:
    """Limits on the pages of all followers in this worker."""

    def __init__(self) -> None:
        self.reads = FairLimit(MAX_READS, MAX_TENANT_READS)
        self.held = FairLimit(MAX_HELD_BYTES, MAX_TENANT_HELD_BYTES)


class Follower:
    """Reads what one client follows. `place` is where it goes on, or None for now or `since`."""

    def __init__(
        self,
        store: TailStore,
        feed: Feed,
        pages: Pages,
        tenant_id: UUID,
        where: EventFilter,
        place: Place | None,
    ) -> None:
        self._store = store
        self._feed = feed
        self._pages = pages
        self._tenant_id = tenant_id
        self._where = where
        self._place = place
        self._subscription: Subscription | None = None
        self._is_live = False
        self._was_caught_up = False
        self._came_at: bytes | None = None
        self._target: bytes | None = None
        self._advance_at = 0.0
        self._count = FIRST_PAGE
        self._held = 0

    async def read(self) -> Sequence[Step]:
        """The next steps. There may be none for now. The steps of the call before must have been sent.

        Raises Gone.
        """
        self._hold(0)
        try:
            return await self._read()
        except HistoryLost:
            if self._place is None:  # it has received nothing that something could be missing after
                self._unsubscribe()
                return ()
            raise Gone(format_time(from_milliseconds(self._store.time_of(self._place)))) from None
        except (Unavailable, TimeoutError):  # the database is away, or too many pages are being read
            self._advance_at, self._target = 0.0, None
            await asyncio.sleep(RETRY_S)
            return ()

    def fresh_place(self) -> Place | None:
        """Where it is now; None before it has begun. It moves on also if nothing that it follows is stored."""
        position = self._subscription.position() if self._is_live and self._subscription else None
        if position is not None and self._place is not None and position > self._place.after:
            self._place = Place(position)
        return self._place

    def close(self) -> None:
        """Release what it holds."""
        self._hold(0)
        self._unsubscribe()

    async def _read(self) -> Sequence[Step]:
        if self._is_live:
            return await self._read_live()
        if self._place is None and self._where.since is not None:
            self._place = Place(await self._store.now(Deadline()), self._store.start_of(self._where.since))
            self._advance_at = monotonic() + ADVANCE_S
        if self._place is None or self._place.read_to is None:
            return await self._read_missed()
        if monotonic() >= self._advance_at:
            return await self._advance(self._place)
        return await self._read_stored(self._place)

    async def _read_stored(self, place: Place) -> Sequence[Step]:
        """A page of stored events."""
        page = await self._page(
            lambda: self._store.stored(self._tenant_id, self._where, place, self._count, Deadline())
        )
        self._place = Place(place.after, page.read_to)
        return [Step("event", Place(place.after, change.id_bound()), change) for change in page.changes]

    async def _advance(self, place: Place) -> Sequence[Step]:
        """Late events. After the last page of them, the position is the target."""
        target = self._target = self._target or await self._store.now(Deadline())
        page = await self._changes(place, target)
        late = [change for change in page.changes if change.position <= target]
        self._place = Place(target if page.has_reached else page.position, place.read_to)
        if page.has_reached:
            self._target, self._advance_at = None, monotonic() + ADVANCE_S
        return [Step("event", Place(change.position, place.read_to), change) for change in late]

    async def _read_missed(self) -> Sequence[Step]:
        """A page of what was stored before the feed was joined."""
        if self._subscription is None or self._subscription.is_full:
            before, self._subscription = self._subscription, self._feed.subscribe(self._tenant_id, self._where)
            if before is not None:  # only now, so that the tenant is followed all the time
                before.close()
        # The feed may be some time behind. What was stored before the client came is not new to it.
        self._came_at = self._came_at or await self._store.now(Deadline())
        until = max(await self._subscription.started(), self._came_at)
        place = self._place = self._place or Place(until)
        steps = []
        if place.after < until:
            page = await self._changes(place, until)
            self._place = Place(max(page.position, place.after))
            steps = [Step("event", Place(change.position), change) for change in page.changes]
            if not page.has_reached:
                return steps
        self._is_live = not self._subscription.is_full
        if self._is_live and not self._was_caught_up:
            self._was_caught_up = True
            steps.append(Step("caught_up", self._place))
        return steps

    async def _read_live(self) -> Sequence[Step]:
        """What the feed has handed over."""
        assert self._subscription is not None, "it is live"  # noqa: S101
        assert self._place is not None, "it is live"  # noqa: S101
        after = self._place.after
        changes = [change for change in await self._subscription.take() if change.position > after]
        self._is_live = not self._subscription.is_full
        if changes:
            self._place = Place(changes[-1].position)
        return [Step("event", Place(change.position), change) for change in changes]

    async def _changes(self, place: Place, until: bytes) -> ChangePage:
        return await self._page(lambda: self._store.changes(self._tenant_id, self._where, place, until, self._count))

    async def _page(self, read: Callable[[], Awaitable[Page]]) -> Page:
        """A page, within the limits. Raises TimeoutError if none may be read for now."""
        await self._pages.held.acquire(self._tenant_id, COPIES * PAGE_BYTES, Deadline())
        self._held = COPIES * PAGE_BYTES
        await self._pages.reads.acquire(self._tenant_id, 1, Deadline())
        try:
            page = await read()
        finally:
            self._pages.reads.add(self._tenant_id, -1)
        size = sum(change.size for change in page.changes)
        self._hold(COPIES * size)
        if size:
            self._count = max(1, min(MAX_PAGE, PAGE_BYTES * len(page.changes) // size))
        return page

    def _hold(self, size: int) -> None:
        """Count `size` bytes as held."""
        self._pages.held.add(self._tenant_id, size - self._held)
        self._held = size

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription, self._is_live = None, False
