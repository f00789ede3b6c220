"""Whatever is stored when, and wherever a tail is cut: the follower gets every event once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from typing import Any, NamedTuple, Never
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.deadline import Deadline
from server.core.errors import Gone
from server.core.events.model import EventFilter, StoredEvent
from server.core.tail import follower as module
from server.core.tail.feed import Feed
from server.core.tail.follower import Follower, Pages
from server.core.tail.store import ChangePage, HistoryLost, Place, StoredPage

pytestmark = pytest.mark.unit

TENANT = UUID(int=1)
EVERYTHING, ALL_STORED = EventFilter(), EventFilter(since=0)
STEP_EVENTS = 5
EVENTS = 120
CUT = 0.2


class Stored(NamedTuple):
    """An event of the database in memory: its id, and its number in the log."""

    id: int
    number: int
    tenant_id: UUID = TENANT
    size: int = 10

    @property
    def position(self) -> bytes:
        return as_bytes(self.number)

    def id_bound(self) -> bytes:
        return as_bytes(self.id)

    def matches(self, _where: EventFilter) -> bool:
        return True

    def shown(self, show: Callable[[StoredEvent], Any]) -> Any:
        raise NotImplementedError


def as_bytes(number: int) -> bytes:
    return number.to_bytes(4, "big")


class Memory:
    """A database in memory, which stores more events while it is read."""

    def __init__(self, ids: Sequence[int], stored_first: int, rng: Random) -> None:
        self._to_come = list(ids)
        self.log: list[Stored] = []
        self._rng = rng
        self.oldest = 0
        self.store(stored_first)

    def store(self, count: int) -> None:
        for event_id in self._to_come[:count]:
            self.log.append(Stored(event_id, len(self.log) + 1))
        del self._to_come[:count]

    def go_on(self) -> None:
        self.store(self._rng.randrange(STEP_EVENTS))

    async def now(self, _deadline: Deadline) -> bytes:
        self.go_on()
        return self.end()

    def end(self) -> bytes:
        """The position after all that is stored, and before what comes."""
        return as_bytes(len(self.log)) + b"\xff"

    def since(self, after: bytes) -> list[Stored]:
        if after < as_bytes(self.oldest):
            raise HistoryLost
        return [event for event in self.log if event.position > after]

    async def stored(
        self, _tenant: UUID, _where: EventFilter, place: Place, count: int, _deadline: Deadline
    ) -> StoredPage:
        assert place.read_to is not None
        seen = [event for event in self.log if event.position <= place.after]
        found = sorted(event for event in seen if event.id_bound() > place.read_to)[:count]
        self.go_on()
        return StoredPage(found, found[-1].id_bound() if len(found) == count else None)

    async def changes(self, _tenant: UUID, _where: EventFilter, place: Place, until: bytes, count: int) -> ChangePage:
        rest = [
            event for event in self.since(place.after) if place.read_to is None or event.id_bound() <= place.read_to
        ]
        found = rest[:count]
        position = found[-1].position if len(found) == count else self.end()
        self.go_on()
        return ChangePage(found, position, position >= until)

    @asynccontextmanager
    async def listen(self, _tenants: Sequence[UUID], after: bytes | None) -> AsyncIterator["MemoryStream"]:
        yield MemoryStream(self, self.end() if after is None else after)

    def start_of(self, since_ms: int) -> bytes:
        return as_bytes(since_ms)

    def time_of(self, place: Place) -> int:
        return int.from_bytes(place.after[:4], "big")


class MemoryStream:
    def __init__(self, memory: Memory, position: bytes) -> None:
        self._memory = memory
        self.position = position

    async def next(self) -> Stored | None:
        await asyncio.sleep(0)
        self._memory.go_on()
        rest = self._memory.since(self.position)
        if rest:
            self.position = rest[0].position
        return rest[0] if rest else None


class Client:
    """A client whose tail is cut again and again, and which resumes with its last token."""

    def __init__(self, memory: Memory, rng: Random) -> None:
        self._memory = memory
        self._rng = rng
        self._feed = Feed(memory)
        self._token: Place | None = None
        self.received: list[int] = []

    async def receive(self, expected: int) -> None:
        """Follow until as many events came."""
        feeding = asyncio.create_task(self._run_feed())
        while len(self.received) < expected:
            follower = Follower(self._memory, self._feed, Pages(), TENANT, ALL_STORED, self._token)
            for _ in range(self._rng.randrange(1, 30)):
                if len(self.received) >= expected or await self._read(follower):
                    break
            follower.close()
            await asyncio.sleep(0)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)

    async def _run_feed(self) -> Never:
        while True:
            await self._feed.run_once()

    async def _read(self, follower: Follower) -> bool:
        """Whether the tail was cut after some of the next steps."""
        steps = await asyncio.wait_for(follower.read(), 5)
        kept = steps[: self._rng.randrange(len(steps) + 1)] if self._rng.random() < CUT else steps
        for step in kept:
            self._token = step.place
            if isinstance(step.change, Stored):
                self.received.append(step.change.id)
        return len(kept) < len(steps)


@settings(max_examples=100, deadline=None)
@given(st.integers(), st.integers(0, EVENTS), st.integers(2, 10))
def test_every_event_once(seed: int, stored_first: int, advance_s: int) -> None:
    rng, ids = Random(seed), list(range(1, EVENTS + 1))
    rng.shuffle(ids)
    client = Client(Memory(ids, stored_first, rng), rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "monotonic", count().__next__)  # each look at the clock takes a second
        patch.setattr(module, "ADVANCE_S", advance_s)
        patch.setattr(module, "FIRST_PAGE", 4)
        patch.setattr(module, "MAX_PAGE", 7)
        asyncio.run(client.receive(EVENTS))
    assert sorted(client.received) == sorted(ids)


def test_a_lost_history_is_gone() -> None:
    async def resume() -> None:
        memory = Memory(range(1, 50), 40, Random(0))
        memory.oldest = 30
        feed = Feed(memory)
        feeding = asyncio.create_task(feed.run_once())
        follower = Follower(memory, feed, Pages(), TENANT, EVERYTHING, Place(as_bytes(20)))
        try:
            await follower.read()
        finally:
            follower.close()
            feeding.cancel()

    with pytest.raises(Gone):
        asyncio.run(resume())
