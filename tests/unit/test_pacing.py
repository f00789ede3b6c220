"""The pace of rejections: a burst at once, the others one after the other, and no more waiting than memory allows."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from server.rpc.pacing import BURST_S, MAX_WAIT_S, MAX_WAITING, REJECTIONS_PER_S, Pace
from tests.support.timing import StillLoop

BURST = int(BURST_S * REJECTIONS_PER_S)

LATE = 50
"""Rejections after the burst: half a second."""


def test_a_burst_passes_at_once_and_the_others_are_paced() -> None:
    async def scenario(clock: StillLoop) -> None:
        pace = Pace()
        waiting = [asyncio.create_task(pace.wait()) for _ in range(BURST + LATE)]
        await clock.go_on(0)
        assert sum(each.done() for each in waiting) >= BURST - 1
        await clock.go_on((LATE - 1) / REJECTIONS_PER_S)
        assert not waiting[-1].done()
        await clock.go_on(2 / REJECTIONS_PER_S)
        assert all(each.done() for each in waiting)

    run(scenario)


def test_more_than_may_wait_pass_at_once() -> None:
    async def scenario(clock: StillLoop) -> None:
        pace = Pace()
        waiting = [asyncio.create_task(pace.wait()) for _ in range(BURST + MAX_WAITING + 50)]
        await clock.go_on(0)
        assert all(each.done() for each in waiting[-40:])
        await cancel(waiting)

    run(scenario)


def test_calls_that_were_cancelled_delay_no_other_for_long() -> None:
    async def scenario(clock: StillLoop) -> None:
        pace = Pace()
        for _ in range(10):
            waiting = [asyncio.create_task(pace.wait()) for _ in range(MAX_WAITING)]
            await clock.go_on(0)
            await cancel(waiting)
        another = asyncio.create_task(pace.wait())
        await clock.go_on(0)
        await clock.go_on(MAX_WAIT_S)
        assert another.done()

    run(scenario)


def run(scenario: Callable[[StillLoop], Coroutine[Any, Any, None]]) -> None:
    """Run a test."""
    loop = StillLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(scenario(loop))


async def cancel(waiting: list[asyncio.Task[None]]) -> None:
    """Let calls end whose clients are gone."""
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
