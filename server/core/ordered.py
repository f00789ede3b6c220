"""Work that goes on side by side, and whose results are taken in the order in which it was begun."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Ordered(Generic[T]):
    """What was begun. Leaving the context cancels all whose results were not taken."""

    def __init__(self) -> None:
        self._tasks = deque[asyncio.Task[T]]()

    async def __aenter__(self) -> "Ordered[T]":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()  # or an error of a task would hold itself, and all that the task held

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, work: Coroutine[Any, Any, T]) -> None:
        """Begin some work. It goes on beside all that was begun before."""
        self._tasks.append(asyncio.create_task(work))

    async def take(self) -> T:
        """The result of the earliest work, when that has ended. Raises what the work raises."""
        result = await self._tasks[0]
        self._tasks.popleft()
        return result
