"""What a worker remembers of the catalog: which batches need a call, and how much memory it takes."""

import asyncio
import tracemalloc
from collections.abc import Sequence
from typing import cast
from uuid import UUID

import pytest

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.events.catalog import CHECKED_MS, MAX_BYTES, Catalog, CatalogStore, TenantSource
from server.core.events.model import BatchInfo

A, B = UUID(int=1), UUID(int=2)
NOW = 1_780_000_000_000
LONGEST = 255


class Store:
    """Notes what is added."""

    def __init__(self) -> None:
        self.added: list[tuple[TenantSource, list[str], int]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.is_away = False

    async def add(
        self, tenant_source: TenantSource, event_types: Sequence[str], seen_at_ms: int, _deadline: Deadline
    ) -> None:
        await asyncio.sleep(0)
        await self.may_go_on.wait()
        if self.is_away:
            raise Unavailable
        self.added.append((tenant_source, list(event_types), seen_at_ms))


class Worker:
    """A catalog, and the store behind it."""

    def __init__(self) -> None:
        self.store = Store()
        self.catalog = Catalog(cast("CatalogStore", self.store))

    async def note(self, *event_types: str, at: int = NOW, tenant_id: UUID = A, source: str = "web") -> None:
        await self.catalog.note(BatchInfo(tenant_id, source, None, at), event_types, Deadline())

    async def calls(self, *event_types: str, at: int = NOW, tenant_id: UUID = A, source: str = "web") -> int:
        """How many calls a batch needs."""
        before = len(self.store.added)
        await self.note(*event_types, at=at, tenant_id=tenant_id, source=source)
        return len(self.store.added) - before


def test_a_type_is_added_once_in_a_while_for_each_source_and_tenant() -> None:
    async def scenario() -> None:
        worker = Worker()
        assert await worker.calls("view", "click", "view") == 1
        assert await worker.calls("view", at=NOW + CHECKED_MS) == 0
        assert await worker.calls("view", source="app") == 1
        assert await worker.calls("view", tenant_id=B) == 1
        assert await worker.calls("view", "order", at=NOW + 5) == 1
        assert worker.store.added[-1] == ((A, "web"), ["order"], NOW + 5)
        assert await worker.calls("view", "order", at=NOW + CHECKED_MS + 1) == 1
        assert worker.store.added[-1] == ((A, "web"), ["order", "view"], NOW + CHECKED_MS + 1)
        assert await worker.calls("click", at=NOW + CHECKED_MS + 2) == 1

    asyncio.run(scenario())


def test_a_replay_of_an_old_batch_does_not_make_a_type_count_as_added_now() -> None:
    async def scenario() -> None:
        worker = Worker()
        await worker.note("view")
        await worker.note("view", "order", at=NOW - 1_000_000)
        assert await worker.calls("view", at=NOW + 1) == 0
        assert await worker.calls("order", at=NOW + 1) == 1
        assert worker.store.added[-1][2] == NOW + 1

    asyncio.run(scenario())


def test_batches_that_wait_for_the_same_types_need_one_call() -> None:
    async def scenario() -> None:
        worker = Worker()
        worker.store.may_go_on.clear()
        async with asyncio.TaskGroup() as tasks:
            for index in range(50):
                tasks.create_task(worker.note("view", "click", at=NOW + index))
            await asyncio.sleep(0)
            worker.store.may_go_on.set()
        assert len(worker.store.added) == 1

    asyncio.run(scenario())


def test_a_tenant_does_not_wait_for_the_types_of_another() -> None:
    async def scenario() -> None:
        worker = Worker()
        await worker.note("view", tenant_id=B)
        worker.store.may_go_on.clear()
        waiting = [asyncio.create_task(worker.note(f"type {index}")) for index in range(50)]
        await asyncio.sleep(0)
        await worker.note("view", tenant_id=B)
        other = asyncio.create_task(worker.note("new", tenant_id=B))
        worker.store.may_go_on.set()
        await other
        assert [tenant_source for tenant_source, _, _ in worker.store.added].index((B, "web")) < 5
        await asyncio.gather(*waiting)

    asyncio.run(scenario())


def test_what_could_not_be_added_is_not_remembered() -> None:
    async def scenario() -> None:
        worker = Worker()
        worker.store.is_away = True
        with pytest.raises(Unavailable):
            await worker.note("view")
        worker.store.is_away = False
        assert await worker.calls("view") == 1

    asyncio.run(scenario())


def test_a_batch_waits_for_its_turn_until_its_deadline() -> None:
    async def scenario() -> None:
        worker = Worker()
        worker.store.may_go_on.clear()
        first = asyncio.create_task(worker.note("view"))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await worker.catalog.note(BatchInfo(A, "web", None, NOW), ["click"], Deadline(0.01))
        worker.store.may_go_on.set()
        await first
        assert await worker.calls("click") == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["types", "sources", "tenants"])
def test_memory_is_bounded_and_a_tenant_that_takes_little_keeps_it(kind: str) -> None:
    async def scenario() -> None:
        worker = Worker()
        await worker.note("view", tenant_id=B)
        tracemalloc.start()
        try:
            for number in range(80):  # twice what may be kept
                tenant_id = UUID(int=10 + number if kind == "tenants" else 1)
                names = [f"{number}/{index}".ljust(LONGEST, "é") for index in range(1_000)]
                if kind == "sources":
                    for name in names:
                        await worker.note("view", source=name)
                else:
                    await worker.note(*names, tenant_id=tenant_id)
                worker.store.added.clear()
            names.clear()
            taken, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken < MAX_BYTES
        assert most < MAX_BYTES * 1.5
        assert await worker.calls("view", tenant_id=B) == 0

    asyncio.run(scenario())
