"""Which rejections a worker keeps, and what they hold: floods, outages, keys in the wrong place."""

import asyncio
from collections.abc import Sequence
from typing import cast
from uuid import UUID

import pytest
from hypothesis import given, strategies

from server.core.deadline import Deadline
from server.core.errors import Code, EventError, InvalidBatch, InvalidParameter, MalformedJson, Unavailable
from server.core.rejections import recent
from server.core.rejections.model import MAX_ERRORS, MAX_TEXT_CHARS, Rejection, presentable
from server.core.rejections.recent import BURST, MAX_PENDING, MAX_SAVED, RATE_PER_S, Allowance, RecentRejections
from server.core.rejections.store import RejectionStore

A, B = UUID(int=1), UUID(int=2)
ERROR = MalformedJson("JSON is malformed: it ends too early (byte 7)")


class Store:
    """Notes what is inserted."""

    def __init__(self) -> None:
        self.calls: list[list[Rejection]] = []
        self.is_away = False
        self.is_called = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def insert(self, rejections: Sequence[Rejection], _deadline: Deadline) -> None:
        self.is_called.set()
        await self.may_go_on.wait()
        if self.is_away:
            raise Unavailable
        self.calls.append(list(rejections))

    def ids(self) -> list[int]:
        return [rejection.id for call in self.calls for rejection in call]


class Worker:
    """Its rejections, and the store behind them."""

    def __init__(self) -> None:
        self.store = Store()
        self.recent = RecentRejections(cast("RejectionStore", self.store))

    def reject(self, count: int = 1, tenant_id: UUID = A) -> None:
        for _ in range(count):
            self.recent.add(tenant_id, "key", "rest", ERROR, 7)

    async def save_all(self) -> None:
        before = -1
        while len(self.store.calls) != before:
            before = len(self.store.calls)
            await self.recent.save()


def test_a_flood_is_kept_as_a_burst_and_its_neighbour_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "monotonic", lambda: 0.0)  # each second of a slow machine would let some more pass

    async def scenario() -> None:
        worker = Worker()
        worker.reject(10_000)
        worker.reject(5, B)
        await worker.save_all()
        kept = [rejection.tenant_id for call in worker.store.calls for rejection in call]
        assert kept.count(A) == BURST
        assert kept.count(B) == 5
        assert max(map(len, worker.store.calls)) == MAX_SAVED
        assert worker.store.ids() == sorted(worker.store.ids())

    asyncio.run(scenario())


@given(strategies.lists(strategies.tuples(strategies.floats(0, 1_000), strategies.integers(1, 3_000))))
def test_an_allowance_is_a_burst_and_a_rate(steps: list[tuple[float, int]]) -> None:
    now, used = 0.0, 0
    allowance = Allowance(now)
    for pause, uses in steps:
        now += pause
        used += sum(allowance.use(now) for _ in range(uses))
        assert used <= BURST + now * RATE_PER_S + 1e-6
    assert allowance.is_full(now + BURST / RATE_PER_S + 1)


def test_what_is_not_saved_waits_and_the_oldest_go_first() -> None:
    async def scenario() -> None:
        worker = Worker()
        worker.store.is_away = True
        worker.reject(3)
        with pytest.raises(Unavailable):
            await worker.recent.save()
        for number in range(3, MAX_PENDING + 100):
            worker.reject(1, UUID(int=number))
        with pytest.raises(Unavailable):
            await worker.recent.save()
        worker.store.is_away = False
        await worker.save_all()
        ids = worker.store.ids()
        assert len(ids) == len(set(ids)) == MAX_PENDING
        assert ids == sorted(ids)
        assert worker.store.calls[-1][-1].tenant_id == UUID(int=MAX_PENDING + 99)

    asyncio.run(scenario())


def test_the_first_is_saved_at_once_and_a_cancelled_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "PAUSE_S", 0.0)

    async def scenario() -> None:
        worker = Worker()
        saving = asyncio.create_task(worker.recent.save_next())
        await asyncio.sleep(0)
        assert not saving.done()
        worker.reject()
        await saving
        assert len(worker.store.ids()) == 1
        worker.reject()
        worker.store.is_called.clear()
        worker.store.may_go_on.clear()
        saving = asyncio.create_task(worker.recent.save_next())
        await worker.store.is_called.wait()
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        assert len(worker.store.ids()) == 1
        worker.store.may_go_on.set()
        await worker.recent.save()
        assert len(worker.store.ids()) == 2

    asyncio.run(scenario())


def test_a_rejection_says_what_and_where() -> None:
    async def scenario() -> Rejection:
        worker = Worker()
        errors = [EventError(n, f"events[{n}].{'d' * 900}", "Too long" * 100) for n in range(9)]
        worker.recent.add(A, "key", "grpc", InvalidBatch("events[0]: wrong", errors), None)
        await worker.recent.save()
        return worker.store.calls[0][0]

    rejection = asyncio.run(scenario())
    assert (rejection.code, rejection.detail, rejection.size) == (Code.INVALID_BATCH, "events[0]: wrong", None)
    assert [each.index for each in rejection.errors] == list(range(MAX_ERRORS))
    assert all(len(each.path) == len(each.message) == MAX_TEXT_CHARS for each in rejection.errors)


def test_a_key_that_stands_for_a_name_is_masked() -> None:
    secret = "slc_" + "aB3-_" * 9
    error = InvalidParameter(f"{secret}: no such parameter; there are none")
    assert presentable(error.detail) == "slc_…: no such parameter; there are none"
    assert presentable(f'data["{secret}"].a') == 'data["slc_…"].a'
