"""How a page is read: found first, then fetched in groups that fit the size of events, within slots and bytes. And how
the types of a tenant are read."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast
from uuid import UUID

import pytest
from msgspec import Raw

from server.core import read_limits
from server.core.deadline import Deadline
from server.core.errors import NotFound, Unavailable
from server.core.events.catalog import CatalogStore, EventType, FetchedTypes
from server.core.events.model import EventFilter, StoredEvent
from server.core.events.store import Fetched, Match, Matches, PageSize, Position
from server.core.read_limits import (
    FETCH_BYTES,
    MAX_TENANT_FETCHES,
    MAX_TENANT_HELD_BYTES,
    RESERVED_BYTES,
    ReadLimits,
)
from server.core.reads import Page, Reads

TENANT, OTHER = UUID(int=1), UUID(int=2)
ALL = EventFilter()
START = Position(0)


class Store:
    """Events of given sizes. Their ids are their indexes."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.fetches: list[int] = []
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

    async def find(
        self, _tenant_id: UUID, _where: EventFilter, start: Position, size: PageSize, _deadline: Deadline
    ) -> Matches:
        async with self.work():
            end = min(start.skip + size.events, len(self.sizes))
            found = [Match(index, self.sizes[index]) for index in range(start.skip, end)]
            return Matches(found, Position(end) if end < len(self.sizes) else None)

    async def fetch(self, matches: Sequence[Match], _deadline: Deadline) -> Fetched:
        async with self.work():
            self.fetches.append(len(matches))
            return Fetched(events([match.id for match in matches]), len(matches), sum(match.size for match in matches))

    async def may_match(self, *_: object) -> bool:
        return True

    async def types(self, _tenant_id: UUID, last: EventType | None, _deadline: Deadline) -> FetchedTypes:
        """One type, whose first time is its index, and which has the size of an event."""
        async with self.work():
            index = 0 if last is None else last.first_seen_ms + 1
            found = [EventType("", "", index, 0)][: len(self.sizes)]
            return FetchedTypes(found, sum(self.sizes[index : index + 1]), index + 1 >= len(self.sizes))

    async def get(self, _tenant_id: UUID, event_id: UUID, _deadline: Deadline) -> Fetched:
        async with self.work():
            if event_id.int >= len(self.sizes):
                raise NotFound("none")
            return Fetched(events([event_id.int]), 1, self.sizes[event_id.int])


def events(indexes: list[int]) -> Iterator[StoredEvent]:
    """Events with these ids."""
    null = Raw(b"null")
    return (StoredEvent(UUID(int=index), TENANT, "", "", "", null, null, null, null) for index in indexes)


def reads_of(store: Store) -> Reads:
    return Reads(store, cast("CatalogStore", store), ReadLimits())


async def read(found: Reads, start: Position = START, limit: int = 1_000, tenant_id: UUID = TENANT) -> list[int]:
    """The ids of a page."""
    async with found.page(tenant_id, ALL, start, PageSize(limit), Deadline()) as page:
        return await ids_of(page)


async def ids_of(page: Page) -> list[int]:
    return [event.id.int async for event in page.events if isinstance(event.id, UUID)]


@pytest.mark.parametrize(
    ("sizes", "fetches"),
    [
        ([], []),
        ([300] * 1_000, [1_000]),
        ([900_000] * 5, [1] * 5),
        ([FETCH_BYTES] * 2, [1, 1]),
        ([FETCH_BYTES * 3, 1], [1, 1]),
        ([100] * 4 + [FETCH_BYTES // 2] * 6 + [100] * 500, [5, 2, 2, 501]),
    ],
)
def test_fetches_follow_the_size_of_events(sizes: list[int], fetches: list[int]) -> None:
    store = Store(sizes)
    assert asyncio.run(read(reads_of(store))) == list(range(len(sizes)))
    assert store.fetches == fetches


def test_a_page_says_where_the_next_one_starts() -> None:
    async def scenario() -> None:
        found = reads_of(Store([300] * 10))
        async with found.page(TENANT, ALL, Position(3), PageSize(4), Deadline()) as page:
            assert await ids_of(page) == [3, 4, 5, 6]
            assert page.rest == Position(7)
        async with found.page(TENANT, ALL, Position(7), PageSize(4), Deadline()) as page:
            assert (await ids_of(page), page.rest) == ([7, 8, 9], None)

    asyncio.run(scenario())


def test_fetches_of_a_tenant_have_slots_and_another_tenant_has_its_own() -> None:
    async def scenario() -> None:
        store = Store([300] * 10)
        found = reads_of(store)
        store.may_go_on.clear()
        pages = [asyncio.create_task(read(found)) for _ in range(20)]
        await asyncio.sleep(0.01)
        assert store.running == MAX_TENANT_FETCHES
        other = asyncio.create_task(read(found, tenant_id=OTHER))
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
        found = reads_of(store)
        store.may_go_on.clear()
        pages = [asyncio.create_task(read(found)) for _ in range(MAX_TENANT_FETCHES)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="as many reads"):
            async with found.page(TENANT, ALL, START, PageSize(1), Deadline(0.01)):
                pass
        for page in pages:
            page.cancel()
        await asyncio.wait(pages)
        assert store.running == 0
        store.may_go_on.set()
        assert await read(found) == [0]

    asyncio.run(scenario())


def test_readers_that_do_not_read_hold_what_their_tenant_may_hold() -> None:
    async def scenario() -> None:
        found = reads_of(Store([FETCH_BYTES] * 100))
        async with AsyncExitStack() as stack:
            slow, rejected = list[Page](), 0
            for _ in range(60):
                try:
                    page = await stack.enter_async_context(
                        found.page(TENANT, ALL, START, PageSize(100), Deadline(0.01))
                    )
                    await anext(page.events)
                    slow.append(page)
                except Unavailable:
                    rejected += 1
            assert len(slow) == 60 - rejected == MAX_TENANT_HELD_BYTES // RESERVED_BYTES
            assert len(await read(found, limit=100, tenant_id=OTHER)) == 100
            assert len(await ids_of(slow[0])) == 99  # it does not wait for bytes that others hold
        assert len(await read(found)) == 100

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [0, 1, 5])
def test_types_are_fetched_at_the_pace_at_which_they_are_taken(count: int) -> None:
    async def scenario() -> None:
        store = Store([300] * count)
        async with reads_of(store).event_types(TENANT, Deadline()) as types:
            assert store.running == 0
            assert [each.first_seen_ms async for each in types] == list(range(count))

    asyncio.run(scenario())


def test_readers_of_types_that_do_not_read_hold_what_their_tenant_may_hold() -> None:
    async def scenario() -> None:
        found = reads_of(Store([FETCH_BYTES] * 20))
        async with AsyncExitStack() as stack:
            slow, rejected = list[AsyncIterator[EventType]](), 0
            for _ in range(60):
                try:
                    types = await stack.enter_async_context(found.event_types(TENANT, Deadline(0.01)))
                    await anext(types)
                    slow.append(types)
                except Unavailable:
                    rejected += 1
            assert len(slow) == 60 - rejected == MAX_TENANT_HELD_BYTES // RESERVED_BYTES
            async with found.event_types(OTHER, Deadline()) as types:
                assert len([each async for each in types]) == 20
            assert len([each async for each in slow[0]]) == 19  # it does not wait for bytes that others hold

    asyncio.run(scenario())


def test_many_small_reads_of_slow_clients_fit() -> None:
    async def scenario() -> None:
        found = reads_of(Store([300] * 4))
        async with AsyncExitStack() as stack:
            for _ in range(500):
                page = await stack.enter_async_context(found.page(TENANT, ALL, START, PageSize(4), Deadline(1)))
                await anext(page.events)

    asyncio.run(scenario())


def test_one_event() -> None:
    async def scenario() -> None:
        found = reads_of(Store([300] * 2))
        async with found.event(TENANT, UUID(int=1), Deadline()) as event:
            assert event.id == UUID(int=1)
        with pytest.raises(NotFound):
            async with found.event(TENANT, UUID(int=2), Deadline()):
                pass

    asyncio.run(scenario())


@pytest.mark.parametrize("step", ["find", "fetch"])
def test_an_unavailable_database_gets_words_for_a_read(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    async def fail(*_: object) -> Fetched:
        raise Unavailable("not_stored")

    store = Store([300])
    monkeypatch.setattr(store, step, fail)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(read(reads_of(store)))
    assert caught.value.detail == read_limits.UNAVAILABLE
    assert "stored" not in caught.value.detail
