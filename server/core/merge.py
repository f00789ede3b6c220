"""Calls that wait at the same time become one call. Imports the standard library only.

An idle server adds no delay: the first call starts at once, and those that come while it is under way go together in
the next. Load itself makes the groups grow, and with them what each costs shrinks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from server.core.deadline import Deadline
from server.core.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


class Merged(Generic[Item, Result]):
    """Calls of `run`, which takes what waits, all at once, and gives the result of each in the same order.

    One call of `run` is under way at a time. What it raises, everyone in it gets.
    """

    def __init__(self, run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._run = run
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, item: Item, deadline: Deadline) -> Result:
        """The result for `item`. Raises what `run` raises, and Unavailable where `deadline` comes first."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run_all())
        try:
            async with asyncio.timeout(deadline.remaining()):
                return await future
        except TimeoutError:
            raise Unavailable("not_stored") from None

    async def _run_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                results = await self._run([item for item, _ in group])
            except Exception as error:  # noqa: BLE001 (it is raised where it belongs: in every call of the group)
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), result in zip(group, results, strict=True):
                    if not future.done():  # its caller may have gone
                        future.set_result(result)
            await asyncio.sleep(0)  # the callers act on their results before the next call is made
        self._running = None
