"""The use case of following: REST and gRPC both follow a tenant's events by calling `Tail.follow`.

A tail ends with an error: its key is revoked, the server drains, the database has lost the history, or its client is
too slow. The client has a token for all that it received, and resumes there.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, NamedTuple, Never
from uuid import UUID

from server.core.access.admission import Admission
from server.core.access.keys import Credentials
from server.core.errors import Unavailable
from server.core.events.model import EventFilter
from server.core.fair_limit import FairLimit
from server.core.tail.feed import Feed
from server.core.tail.follower import Follower, Kind, Pages, Step
from server.core.tail.store import Change, TailStore
from server.core.tail.tokens import ResumeTokens

HEARTBEAT_S = 10.0
"""After this time without an event, a heartbeat is sent: the contract says 15 s, and proxies cut after 60 s."""

KEY_CHECK_S = 5.0
"""How often the key of a tail is checked, and so how long a tail goes on with a key that is revoked."""

TAKE_TIMEOUT_S = 15.0
"""How long a client may take for what it is sent at a time: 64 events, or a page of 1 MiB. One that has nothing to
receive is never too slow."""

FIRST_READ_S = 0.8
"""How long the first read may delay the start of the response. If it fails by then, the response is an error."""

MAX_TAILS = 1_000
"""Tails of a worker: each takes some 50 KB, and 1 MiB for a moment if it reads a page."""

MAX_TENANT_TAILS = 250
"""Tails of one tenant in a worker: a quarter, so that no tenant keeps others from following."""

TOO_MANY = (
    "This server has as many tails as it can hold, or this tenant has a quarter of them: "
    "end some, or retry after the time in Retry-After"
)
TOO_SLOW = f"This client took longer than {TAKE_TIMEOUT_S:.0f} s for what it was sent: resume from the last token"
DRAINING = "This server is draining: resume from the last token, on another server or later"


class TailRequest(NamedTuple):
    """What a client wants to follow. With a token, `where.since` is not used."""

    where: EventFilter
    token: str | None


class Item(NamedTuple):
    """What is sent to a client, and the token with which it goes on after it."""

    kind: Kind
    token: str
    change: Change | None = None


class Tail:
    """Lets clients follow."""

    def __init__(self, store: TailStore, admission: Admission, tokens: ResumeTokens, draining: asyncio.Event) -> None:
        self.feed = Feed(store)
        self._store = store
        self._admission = admission
        self._tokens = tokens
        self._draining = draining
        self._pages = Pages()
        self._tails = FairLimit(MAX_TAILS, MAX_TENANT_TAILS)

    def count(self) -> int:
        """How many tails are open."""
        return self._tails.used()

    @asynccontextmanager
    async def follow(
        self, credentials: Credentials, tenant_id: UUID, request: TailRequest
    ) -> AsyncIterator["OpenTail"]:
        """A tail of a tenant's events, for a client whose key was admitted.

        Raises InvalidHeader for a bad token, Gone for one whose history is lost, and Unavailable.
        """
        place = None
        if request.token:
            place = self._tokens.decode(tenant_id, request.where, request.token)
        if self._draining.is_set():
            raise Unavailable(detail=DRAINING)
        if not self._tails.try_acquire(tenant_id, 1):
            raise Unavailable(detail=TOO_MANY)
        follower = Follower(self._store, self.feed, self._pages, tenant_id, request.where, place)
        prefix = self._tokens.prefix(tenant_id, request.where)
        tail = OpenTail(follower, lambda step: Item(step.kind, self._tokens.encode(prefix, step.place), step.change))
        try:
            async with tail.running(
                self._admission.until_rejected(credentials, "events:read", KEY_CHECK_S), self._drain_begins()
            ):
                yield tail
        finally:
            follower.close()
            self._tails.add(tenant_id, -1)

    async def _drain_begins(self) -> Never:
        """Raises Unavailable once the server drains."""
        await self._draining.wait()
        raise Unavailable(detail=DRAINING)


class OpenTail:
    """One tail that is open."""

    def __init__(self, follower: Follower, item_of: Callable[[Step], Item]) -> None:
        self._follower = follower
        self._item_of = item_of
        self._reading: asyncio.Future[Sequence[Step]]
        self._endings: list[asyncio.Future[Never]] = []

    @asynccontextmanager
    async def running(self, *endings: Coroutine[Any, Any, Never]) -> AsyncIterator[None]:
        """Begin to read. `endings` raise the errors that end the tail. Raises what the first read does."""
        self._endings = [asyncio.ensure_future(each) for each in endings]
        self._reading = asyncio.ensure_future(self._follower.read())
        try:
            await asyncio.wait({self._reading}, timeout=FIRST_READ_S)
            if self._reading.done():
                self._reading.result()
            yield
        finally:
            for ending in self._endings:
                ending.cancel()
            self._reading.cancel()
            await asyncio.gather(*self._endings, self._reading, return_exceptions=True)
            del self._endings, self._reading  # or an error of them would hold itself, and what was read

    async def items(self) -> AsyncGenerator[Sequence[Item], None]:
        """What is to be sent next: some events, or a heartbeat. Each is asked for once the one before was sent.

        It ends by raising the reason why.
        """
        sent_at = monotonic()
        while True:
            wait_s = max(0.0, sent_at + HEARTBEAT_S - monotonic())
            waited_for: list[asyncio.Future[Any]] = [self._reading, *self._endings]
            await asyncio.wait(waited_for, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for ending in self._endings:
                if ending.done():
                    ending.result()
            is_read = self._reading.done()
            steps = self._reading.result() if is_read else ()
            if not steps and monotonic() - sent_at >= HEARTBEAT_S:
                place = self._follower.fresh_place()
                steps = () if place is None else [Step("heartbeat", place)]
                sent_at = monotonic()
            if steps:
                yield [self._item_of(step) for step in steps]
                sent_at = monotonic()
            if is_read:
                self._reading = asyncio.ensure_future(self._follower.read())


@asynccontextmanager
async def taken_in_time() -> AsyncIterator[None]:
    """Raises Unavailable if the client does not take what is sent inside within TAKE_TIMEOUT_S."""
    try:
        async with asyncio.timeout(TAKE_TIMEOUT_S):
            yield
    except TimeoutError:
        raise Unavailable(detail=TOO_SLOW) from None
