"""A limit that is fair between tenants: who waits, who is next, and what a request that gives up leaves behind."""

import asyncio
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import pytest

from server.core.deadline import Deadline
from server.core.fair_limit import FairLimit

A, B, C = (UUID(int=number) for number in range(3))


class Requests:
    """Requests to a limit, and the names of those that were granted, in order."""

    def __init__(self, total: int, per_tenant: int) -> None:
        self.limit = FairLimit(total, per_tenant)
        self.granted: list[str] = []

    def start(
        self, name: str, tenant_id: UUID, amount: int = 1, seconds: float = 5, is_urgent: bool = False
    ) -> asyncio.Task[None]:
        """Start a request."""

        async def acquire() -> None:
            await self.limit.acquire(tenant_id, amount, Deadline(seconds), is_urgent=is_urgent)
            self.granted.append(name)

        return asyncio.create_task(acquire())


async def settle() -> None:
    """Let all tasks run as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a test."""
    asyncio.run(scenario)


def test_a_tenant_gets_its_part_and_others_theirs() -> None:
    async def scenario() -> None:
        requests = Requests(3, 2)
        tasks = [requests.start(f"a{number}", A) for number in range(4)] + [requests.start("b", B)]
        await settle()
        assert requests.granted == ["a0", "a1", "b"]
        requests.limit.add(A, -1)
        await settle()
        assert requests.granted == ["a0", "a1", "b", "a2"]
        requests.limit.add(A, -2)
        await asyncio.gather(*tasks)

    run(scenario())


def test_tenants_take_turns() -> None:
    async def scenario() -> None:
        requests = Requests(1, 1)
        tasks = [
            requests.start(f"{name}{number}", tenant) for tenant, name in ((A, "a"), (B, "b")) for number in (1, 2)
        ]
        tasks.append(requests.start("c1", C))
        for tenant in (A, A, B, C, B):
            await settle()
            requests.limit.add(tenant, -1)
        await asyncio.gather(*tasks)
        assert requests.granted == ["a1", "a2", "b1", "c1", "b2"]

    run(scenario())


def test_an_urgent_request_is_the_next_of_its_tenant() -> None:
    async def scenario() -> None:
        requests = Requests(1, 1)
        names = {"a1": A, "a2": A, "b1": B}
        tasks = [requests.start(name, tenant) for name, tenant in names.items()]
        await settle()
        tasks.append(requests.start("urgent", A, is_urgent=True))
        for tenant in (A, A, B):
            await settle()
            requests.limit.add(tenant, -1)
        await asyncio.gather(*tasks)
        assert requests.granted == ["a1", "urgent", "b1", "a2"]

    run(scenario())


def test_a_request_that_is_not_granted_in_time_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        requests = Requests(4, 4)
        await requests.limit.acquire(A, 3, Deadline())
        late = requests.start("late", A, amount=4, seconds=0.01)
        behind = requests.start("behind", A)
        with pytest.raises(TimeoutError):
            await late
        await behind  # it fits, and waited only for its turn
        requests.limit.add(A, -4)
        await requests.limit.acquire(B, 4, Deadline())

    run(scenario())


def test_no_time_left_is_too_late() -> None:
    async def scenario() -> None:
        requests = Requests(1, 1)
        await requests.limit.acquire(A, 1, Deadline())
        with pytest.raises(TimeoutError):
            await requests.limit.acquire(A, 1, Deadline(-1))

    run(scenario())


@pytest.mark.parametrize("granted_first", [False, True])
def test_a_cancelled_request_leaves_nothing_behind(granted_first: bool) -> None:
    async def scenario() -> None:
        requests = Requests(1, 1)
        await requests.limit.acquire(A, 1, Deadline())
        cancelled, next_one = requests.start("cancelled", A), requests.start("next", A)
        await settle()
        if granted_first:
            requests.limit.add(A, -1)  # granted, but its task has not run since
            cancelled.cancel()
        else:
            cancelled.cancel()
            requests.limit.add(A, -1)
        await next_one
        assert requests.granted == ["next"]
        assert cancelled.cancelled()
        requests.limit.add(A, -1)
        await requests.limit.acquire(B, 1, Deadline())

    run(scenario())


def test_what_is_added_at_once_may_be_over_the_limit() -> None:
    async def scenario() -> None:
        requests = Requests(10, 5)
        await requests.limit.acquire(A, 5, Deadline())
        requests.limit.add(A, 20)
        waiting = requests.start("b", B)
        await settle()
        assert requests.granted == []
        requests.limit.add(A, -25)
        await waiting

    run(scenario())
