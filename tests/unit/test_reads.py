"""How a list is read: in fetches that fit the size of events, within slots and bytes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple
from uuid import UUID

import pytest
from msgspec import Raw

from server.core import reads
from server.core.deadline import Deadline
from server.core.errors import NotFound, Unavailable
from server.core.events.model import EventFilter, StoredEvent
from server.core.events.store import Fetched, Position
from server.core.reads import FETCH_BYTES, MAX_TENANT_FETCHES, MAX_TENANT_HELD_BYTES, RESERVED_BYTES, Reads

TENANT, OTHER = UUID(int=1), UUID(int=2)
ALL = EventFilter()


class Fetch(NamedTuple):
    """What was asked for."""

    skip: int
    after: int | None
    length: int


class Store:
    """Events of given sizes. Their ids are their indexes."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.fetches: list[Fetch] = []
        self.running = self.most_running = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    @asynccontextmanager
    async def work(self) -> AsyncIterator[None]:
        """The time that the database takes."""
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.may_go_on.wait()
            yield
        finally:
            self.running -= 1

    async def fetch(
        self, _tenant_id: UUID, _where: EventFilter, start: Position, count: int, max_bytes: int, _deadline: Deadline
    ) -> Fetched:
        async with self.work():
            self.fetches.append(Fetch(start.skip, start.after, count))
            first = start.skip + (0 if start.after is None else start.after + 1)
            sizes = self.sizes[first : first + count]
            while len(sizes) > 1 and sum(sizes) > max_bytes:
                sizes.pop()
            end = first + len(sizes)
            rest = None if end >= len(self.sizes) else Position(0, end - 1)
            return Fetched(events(range(first, end)), len(sizes), sum(sizes), rest)

    async def get(self, _tenant_id: UUID, event_id: UUID, _deadline: Deadline) -> Fetched:
        async with self.work():
            if event_id.int >= len(self.sizes):
                raise NotFound("none")
            return Fetched(events([event_id.int]), 1, self.sizes[event_id.int], None)


def events(indexes: range | list[int]) -> Iterator[StoredEvent]:
    """Events with these ids."""
    null = Raw(b"null")
    return (StoredEvent(UUID(int=index), TENANT, "", "", "", null, null, null, null) for index in indexes)


async def read(found: Reads, skip: int = 0, limit: int = 1_000) -> list[int]:
    """The ids of a page."""
    return [
        event.id.int async for event in found.page(TENANT, ALL, skip, limit, Deadline()) if isinstance(event.id, UUID)
    ]


def test_small_events_take_two_fetches() -> None:
    store = Store([300] * 2_000)
    assert asyncio.run(read(Reads(store))) == list(range(1_000))
    assert store.fetches == [Fetch(0, None, 4), Fetch(0, 3, 996)]


def test_large_events_are_fetched_one_by_one() -> None:
    store = Store([900_000] * 10)
    assert asyncio.run(read(Reads(store), limit=5)) == list(range(5))
    assert store.fetches == [Fetch(0, None, 4), *(Fetch(0, index, 1) for index in range(4))]


def test_fetches_follow_the_size_of_events() -> None:
    store = Store([100] * 4 + [FETCH_BYTES // 2] * 20 + [100] * 500)
    assert asyncio.run(read(Reads(store))) == list(range(524))
    assert [fetch.length for fetch in store.fetches[:4]] == [4, 996, 2, 2]
    assert store.fetches[-1].length > 400


@pytest.mark.parametrize(("skip", "limit"), [(0, 1), (0, 4), (0, 5), (3, 4), (8, 100), (10, 100), (11, 1)])
def test_skip_and_limit(skip: int, limit: int) -> None:
    store = Store([300] * 10)
    assert asyncio.run(read(Reads(store), skip, limit)) == list(range(10))[skip : skip + limit]
    assert [fetch.skip for fetch in store.fetches[1:]] == [0] * (len(store.fetches) - 1)


def test_fetches_of_a_tenant_have_slots_and_another_tenant_has_its_own() -> None:
    async def scenario() -> None:
        store = Store([300] * 10)
        found = Reads(store)
        store.may_go_on.clear()
        pages = [asyncio.create_task(read(found)) for _ in range(20)]
        await asyncio.sleep(0.01)
        assert store.running == MAX_TENANT_FETCHES
        other = asyncio.create_task(anext(found.page(OTHER, ALL, 0, 1, Deadline())))
        await asyncio.sleep(0.01)
        assert store.running == MAX_TENANT_FETCHES + 1
        store.may_go_on.set()
        assert await asyncio.gather(*pages) == [list(range(10))] * 20
        await other
        assert store.most_running == MAX_TENANT_FETCHES + 1

    asyncio.run(scenario())


def test_a_read_that_gets_no_slot_in_time_is_rejected_and_one_whose_client_left_frees_its_slot() -> None:
    async def scenario() -> None:
        store = Store([300])
        found = Reads(store)
        store.may_go_on.clear()
        pages = [asyncio.create_task(read(found)) for _ in range(MAX_TENANT_FETCHES)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="as many reads"):
            await anext(found.page(TENANT, ALL, 0, 1, Deadline(0.01)))
        for page in pages:
            page.cancel()
        await asyncio.wait(pages)
        assert store.running == 0
        store.may_go_on.set()
        assert await read(found) == [0]

    asyncio.run(scenario())


def test_readers_that_do_not_read_hold_what_their_tenant_may_hold() -> None:
    async def scenario() -> None:
        found = Reads(Store([FETCH_BYTES] * 100))
        slow = [found.page(TENANT, ALL, 0, 100, Deadline(0.05)) for _ in range(60)]
        firsts = await asyncio.gather(*map(anext, slow), return_exceptions=True)
        rejected = [first for first in firsts if isinstance(first, Unavailable)]
        assert len(firsts) - len(rejected) == MAX_TENANT_HELD_BYTES // RESERVED_BYTES
        async with aclosing(found.page(OTHER, ALL, 0, 100, Deadline(0.05))) as quick:
            assert len([event async for event in quick]) == 100
        (reading,) = [page for page, first in zip(slow, firsts, strict=True) if not isinstance(first, Unavailable)][:1]
        assert len([event async for event in reading]) == 99  # it does not wait for bytes that others hold
        for page in slow:
            await page.aclose()
        assert len(await read(found)) == 100

    asyncio.run(scenario())


def test_many_small_reads_of_slow_clients_fit() -> None:
    async def scenario() -> None:
        found = Reads(Store([300] * 4))
        slow = [found.page(TENANT, ALL, 0, 4, Deadline(1)) for _ in range(500)]
        await asyncio.gather(*map(anext, slow))
        for page in slow:
            await page.aclose()

    asyncio.run(scenario())


def test_one_event() -> None:
    async def scenario() -> None:
        found = Reads(Store([300] * 2))
        async with found.event(TENANT, UUID(int=1), Deadline()) as event:
            assert event.id == UUID(int=1)
        with pytest.raises(NotFound):
            async with found.event(TENANT, UUID(int=2), Deadline()):
                pass

    asyncio.run(scenario())


def test_an_unavailable_database_gets_words_for_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> Fetched:
        raise Unavailable("not_stored")

    store = Store([300])
    monkeypatch.setattr(store, "fetch", fail)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(read(Reads(store)))
    assert caught.value.detail == reads.UNAVAILABLE
    assert "stored" not in caught.value.detail
