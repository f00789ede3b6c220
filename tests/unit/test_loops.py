"""Loops that survive any exception end when they are cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from server.runtime.background import PeriodicJob
from server.runtime.loops import forever, in_background

pytestmark = pytest.mark.unit


Attempt = Callable[[], Awaitable[None]]

LOOPS: dict[str, Callable[[Attempt], Coroutine[Any, Any, None]]] = {
    "forever": lambda attempt: forever("attempt", attempt, 0),
    "a periodic job": lambda attempt: PeriodicJob("attempt", attempt, 0).run(),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_ends_though_what_it_calls_lost_the_cancellation(loop: str) -> None:
    attempts = 0

    async def run() -> None:
        started = asyncio.Event()

        async def attempt() -> None:
            nonlocal attempts
            attempts += 1
            started.set()
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                raise ConnectionError from None

        async with asyncio.timeout(10), in_background(LOOPS[loop](attempt)):
            await started.wait()

    asyncio.run(run())
    assert attempts == 1
