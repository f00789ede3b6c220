"""The pace of rejections: a burst at once, the others one after the other, and no more waiting than memory allows."""

import asyncio

from server.rpc.pacing import BURST_S, MAX_WAIT_S, MAX_WAITING, REJECTIONS_PER_S, Pace

BURST = int(BURST_S * REJECTIONS_PER_S)

LATE = 50
"""Rejections after the burst: half a second."""


def test_a_burst_passes_at_once_and_the_others_are_paced() -> None:
    async def run() -> None:
        pace = Pace()
        begun = asyncio.get_running_loop().time()
        waiting = [asyncio.create_task(pace.wait()) for _ in range(BURST + LATE)]
        await asyncio.sleep(0)
        assert sum(each.done() for each in waiting) >= BURST - 1
        assert not waiting[-1].done()
        await asyncio.gather(*waiting)
        assert asyncio.get_running_loop().time() - begun >= (LATE - 1) / REJECTIONS_PER_S

    asyncio.run(run())


def test_more_than_may_wait_pass_at_once() -> None:
    async def run() -> None:
        pace = Pace()
        waiting = [asyncio.create_task(pace.wait()) for _ in range(BURST + MAX_WAITING + 50)]
        await asyncio.sleep(0)
        assert all(each.done() for each in waiting[-40:])
        await cancel(waiting)

    asyncio.run(run())


def test_calls_that_were_cancelled_delay_no_other_for_long() -> None:
    async def run() -> None:
        pace = Pace()
        for _ in range(10):
            waiting = [asyncio.create_task(pace.wait()) for _ in range(MAX_WAITING)]
            await asyncio.sleep(0)
            await cancel(waiting)
        async with asyncio.timeout(MAX_WAIT_S + 5):
            await pace.wait()

    asyncio.run(run())


async def cancel(waiting: list[asyncio.Task[None]]) -> None:
    """Let calls end whose clients are gone."""
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
