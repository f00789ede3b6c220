"""The coalescer with a fake `run`: which calls form a group, its limits, deadlines, errors and cancelled calls."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

import pytest

from server.core.coalesce import BUSY_GROUP, DEADLINE_STEP_S, Coalescer
from server.core.deadline import REQUEST_TIMEOUT_S, Deadline
from server.core.errors import Outcome, Unavailable


class Fake:
    """A `run` that records its groups, and ends each only when `finish` is called. A result is ten times its item."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.deadlines: list[Deadline] = []
        self.error: Exception | None = None
        self._turns: list[asyncio.Event] = []

    async def __call__(self, items: Sequence[int], deadline: Deadline) -> list[int]:
        self.groups.append(list(items))
        self.deadlines.append(deadline)
        turn = asyncio.Event()
        self._turns.append(turn)
        await turn.wait()
        if self.error is not None:
            raise self.error
        return [10 * item for item in items]

    async def finish(self, count: int = 1) -> None:
        """End the groups that began first, and let what follows from it happen."""
        for turn in self._turns[:count]:
            turn.set()
        del self._turns[:count]
        await settle()


async def settle() -> None:
    """Let all tasks run until each waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def start(coalescer: Coalescer[int, int], *items: int, deadline_s: float = 10) -> list[asyncio.Task[int]]:
    """Make calls, all in the same turn of the event loop."""

    async def call(item: int) -> int:
        return await coalescer(item, Deadline(deadline_s))

    return [asyncio.create_task(call(item)) for item in items]


Scenario = Callable[[Fake], Awaitable[None]]


def run(scenario: Scenario) -> None:
    """Run a scenario on an event loop of its own."""

    async def main() -> None:
        await scenario(Fake())

    asyncio.run(main())


def test_a_lone_call_starts_at_once() -> None:
    async def scenario(fake: Fake) -> None:
        (call,) = start(Coalescer(fake), 1)
        await settle()
        assert fake.groups == [[1]]
        await fake.finish()
        assert await call == 10

    run(scenario)


def test_calls_that_arrive_meanwhile_are_the_next_group() -> None:
    async def scenario(fake: Fake) -> None:
        coalescer = Coalescer(fake)
        calls = start(coalescer, 1)
        await settle()
        calls += start(coalescer, 2)
        await settle()
        calls += start(coalescer, 3)
        await settle()
        assert fake.groups == [[1]]
        await fake.finish()
        assert fake.groups == [[1], [2, 3]]
        await fake.finish()
        assert await asyncio.gather(*calls) == [10, 20, 30]

    run(scenario)


def test_at_most_at_once_groups_are_in_flight() -> None:
    async def scenario(fake: Fake) -> None:
        coalescer = Coalescer(fake, at_once=2)
        calls = []
        for item in range(5):
            calls += start(coalescer, item)
            await settle()
        assert fake.groups == [[0], [1]]
        await fake.finish()
        assert fake.groups == [[0], [1], [2, 3, 4]]
        await fake.finish(2)
        assert await asyncio.gather(*calls) == [0, 10, 20, 30, 40]

    run(scenario)


def test_an_idle_coalescer_starts_again() -> None:
    async def scenario(fake: Fake) -> None:
        coalescer = Coalescer(fake)
        for item in range(3):
            (call,) = start(coalescer, item)
            await settle()
            await fake.finish()
            assert await call == 10 * item
        assert fake.groups == [[0], [1], [2]]

    run(scenario)


def test_a_group_weighs_at_most_the_limit_unless_one_item_alone_does() -> None:
    async def scenario(fake: Fake) -> None:
        coalescer = Coalescer(fake, weight=lambda item: item, limit=10)
        calls = start(coalescer, 1)
        await settle()
        calls += start(coalescer, 4, 6, 1, 25, 10, 3)
        await settle()
        for _ in range(6):
            await fake.finish()
        assert fake.groups == [[1], [4, 6], [1], [25], [10], [3]]
        await asyncio.gather(*calls)

    run(scenario)


def test_an_error_is_raised_in_every_call_of_its_group_only() -> None:
    async def scenario(fake: Fake) -> None:
        coalescer = Coalescer(fake)
        calls = start(coalescer, 1)
        await settle()
        calls += start(coalescer, 2, 3)
        await settle()
        await fake.finish()
        fake.error = ZeroDivisionError()
        calls += start(coalescer, 4)
        await fake.finish()
        fake.error = None
        await fake.finish()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [int, ZeroDivisionError, ZeroDivisionError, int]

    run(scenario)


def test_cancelled_calls_are_left_out() -> None:
    async def scenario(fake: Fake) -> None:
        coalescer = Coalescer(fake)
        (first,) = start(coalescer, 1)
        await settle()
        gone, stays = start(coalescer, 2, 3)
        await settle()
        gone.cancel()
        first.cancel()  # in flight: its group goes on
        await settle()
        await fake.finish()
        assert fake.groups == [[1], [3]]
        await fake.finish()
        assert await stays == 30

    run(scenario)


@pytest.mark.parametrize("outcome", ["unknown", "not_stored"])
def test_what_a_passed_deadline_left_behind(outcome: Outcome) -> None:
    async def scenario(fake: Fake) -> None:
        coalescer = Coalescer(fake, outcome=outcome)
        (in_flight,) = start(coalescer, 1, deadline_s=0.01)
        await settle()
        (waiting,) = start(coalescer, 2, deadline_s=0.01)
        (kept,) = start(coalescer, 4)
        await asyncio.sleep(2 * DEADLINE_STEP_S)
        outcomes = []
        for call in (in_flight, waiting):
            with pytest.raises(Unavailable) as caught:
                await call
            outcomes.append(caught.value.outcome)
        assert outcomes == [outcome, None]
        await fake.finish()
        assert fake.groups == [[1], [4]]
        await fake.finish()
        assert await kept == 40

    run(scenario)


def test_a_group_has_a_full_deadline_of_its_own() -> None:
    async def scenario(fake: Fake) -> None:
        began = monotonic()
        start(Coalescer(fake), 1, deadline_s=0.05)
        await settle()
        left_s = fake.deadlines[0].remaining()
        assert left_s <= REQUEST_TIMEOUT_S <= left_s + monotonic() - began

    run(scenario)


@pytest.mark.parametrize(("before", "joins"), [(BUSY_GROUP, True), (BUSY_GROUP - 1, False)])
def test_a_busy_coalescer_waits_for_calls_that_are_arriving(before: int, joins: bool) -> None:
    async def scenario(fake: Fake) -> None:
        coalescer = Coalescer(fake)

        async def arrive() -> None:
            """Make one call after the other, in following turns of the event loop."""
            for item in range(3):
                calls.extend(start(coalescer, item))
                await asyncio.sleep(0)

        calls = start(coalescer, *range(before))
        await settle()
        assert len(fake.groups[0]) == before
        await fake.finish()
        arriving = asyncio.create_task(arrive())
        await settle()
        assert fake.groups[1] == ([0, 1, 2] if joins else [0])
        for _ in range(3):
            await fake.finish()
        await asyncio.gather(arriving, *calls)

    run(scenario)
