"""Loops that survive any exception: they log it, wait, and go on.

What they do is never done: a worker that died is replaced, a database is restarted, a job runs again. A loop that ended
with the first unforeseen error would leave the server half dead, with nothing in its log.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Never, TypeVar

from server.core.cancellation import end_if_cancelled
from server.core.errors import ConfigurationError, Unavailable
from server.runtime.errors import StartError, WorkerKilled
from server.runtime.logs import place_of

Result = TypeVar("Result")

REPEATED_EVERY = 10
"""Of attempts that fail for the same reason one after the other, the first and every tenth are logged."""

log = logging.getLogger("sluice")


async def forever(name: str, step: Callable[[], Awaitable[None]], pause_s: float) -> Never:
    """Run `step` again and again. If it raises, wait `pause_s` first. Only a cancellation ends it."""
    while True:
        await until_done(name, step, pause_s)


async def until_done(name: str, attempt: Callable[[], Awaitable[Result]], pause_s: float) -> Result:
    """Run `attempt` until it raises nothing, `pause_s` after each failure. Returns what it returned."""
    reasons: list[str] = []
    while True:
        with failures_logged(name, reasons):
            return await attempt()
        end_if_cancelled()
        await asyncio.sleep(pause_s)


@contextmanager
def failures_logged(name: str, reasons: list[str] | None = None) -> Iterator[None]:
    """Log that `name` failed if anything is raised inside, and suppress it.

    A cancellation of the task itself passes. One of something that the task waits for is a failure as any other.
    `reasons` are those of the attempts before, as far as they are the same: not each is logged.
    """
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        reason = reason_of(error)
        if reasons is not None:
            if reason not in reasons:
                reasons.clear()
            reasons.append(reason)
            if len(reasons) % REPEATED_EVERY != 1:
                return
        level = logging.WARNING if isinstance(error, Unavailable | WorkerKilled) else logging.ERROR
        log.log(level, "%s failed: %s", name, reason)


def reason_of(error: BaseException) -> str:
    """What may be logged of an error: its text only if that is written for the operator."""
    match error:
        case Unavailable():
            return "the database is away"
        case ConfigurationError() | StartError():
            return str(error)
        case _:
            return place_of(error)


@asynccontextmanager
async def in_background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the coroutines, which never end by themselves, while the block runs. Then cancel them and wait for them."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
