"""Lets tenants take turns, so that one whose turns are slow does not delay the others.

A turn has a limit of time. There are two lanes, which differ in it. In a lane, tenants wait in the order in which they
came, and some have their turn at the same time. Each tenant begins in the quick lane. If the limit there does not
suffice, it goes on in the slow lane, and delays nobody but those who are slow too. A tenant has one turn at a time.

Example: tenants A to F wait in the quick lane. A has work of 40 s, and the others of 0.1 s each. A to D begin at once.
E and F follow after 0.1 s, when B and C are done. After 5 s, A gives up its place for one in the slow lane.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, Never, get_args
from uuid import UUID

from server.core.cancellation import end_if_cancelled

Lane = Literal["quick", "slow"]

LIMITS_S: dict[Lane, float] = {"quick": 5.0, "slow": 60.0}
"""How long a turn may take. 100 rules on 2,000,000 events take 30 s."""

AT_ONCE: dict[Lane, int] = {"quick": 4, "slow": 2}
"""Turns at a time. Each keeps up to one core of the database busy."""

TakeTurn = Callable[[UUID, Lane], Awaitable[Lane | None]]
"""Works for a tenant for as long as its lane allows. Returns the lane in which the tenant waits for its next turn; None
if it has none. It raises nothing."""


class Lanes:
    """Tenants that wait for their turns."""

    def __init__(self, take_turn: TakeTurn) -> None:
        self._take_turn = take_turn
        self._waiting: dict[Lane, asyncio.Queue[UUID]] = {lane: asyncio.Queue() for lane in get_args(Lane)}
        self._tenants = set[UUID]()
        """Those that wait or have their turn."""

    def add(self, tenant_id: UUID) -> None:
        """Let a tenant wait in the quick lane, unless it is in one already."""
        if tenant_id not in self._tenants:
            self._tenants.add(tenant_id)
            self._waiting["quick"].put_nowait(tenant_id)

    async def run(self) -> None:
        """Let tenants have their turns, until this is cancelled."""
        async with asyncio.TaskGroup() as group:
            for lane, count in AT_ONCE.items():
                for _ in range(count):
                    group.create_task(self._serve(lane))

    async def _serve(self, lane: Lane) -> Never:
        """Let one tenant after the other have its turn."""
        while True:
            tenant_id = await self._waiting[lane].get()
            following = await self._take_turn(tenant_id, lane)
            end_if_cancelled()
            if following is None:
                self._tenants.remove(tenant_id)
            else:
                self._waiting[following].put_nowait(tenant_id)
