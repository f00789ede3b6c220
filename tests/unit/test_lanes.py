"""Tenants take turns: a slow one delays no other, and none has two turns at a time."""

import asyncio
from contextlib import suppress
from uuid import UUID, uuid4

import pytest

from server.core.alerts.lanes import AT_ONCE, Lane, Lanes

pytestmark = pytest.mark.unit

SLOW = [uuid4() for _ in range(10)]
QUICK = [uuid4() for _ in range(10)]

ROUNDS = 3
"""Turns of each quick tenant."""


class Work:
    """What is done in turns. Slow tenants never finish one in the slow lane."""

    def __init__(self) -> None:
        self.now = set[UUID]()
        self.most = 0
        self.turns: list[UUID] = []
        self.done = asyncio.Event()

    async def take_turn(self, tenant_id: UUID, lane: Lane) -> Lane | None:
        assert tenant_id not in self.now
        self.now.add(tenant_id)
        self.most = max(self.most, len(self.now))
        await asyncio.sleep(0)
        if lane == "slow":
            await asyncio.Event().wait()
        self.now.remove(tenant_id)
        if tenant_id in SLOW:
            return "slow"
        self.turns.append(tenant_id)
        if len(self.turns) == ROUNDS * len(QUICK):
            self.done.set()
        return "quick" if self.turns.count(tenant_id) < ROUNDS else None


def test_who_is_slow_delays_no_other() -> None:
    async def scenario() -> None:
        work = Work()
        lanes = Lanes(work.take_turn)
        running = asyncio.create_task(lanes.run())
        for tenant_id in [*SLOW, *QUICK, *SLOW, *QUICK]:
            lanes.add(tenant_id)
        async with asyncio.timeout(5):
            await work.done.wait()
        assert work.turns == QUICK * ROUNDS, "they take turns"
        assert len(work.now) == AT_ONCE["slow"]
        assert work.most <= sum(AT_ONCE.values())
        lanes.add(QUICK[0])  # it has no turn now, so it gets another
        await asyncio.sleep(0.01)
        assert len(work.turns) == len(QUICK) * ROUNDS + 1
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
