"""Calls that wait at the same time become one call. Imports deadlines and errors.

An idle server adds no delay: a call starts at once where none is under way, and those that come meanwhile go together
in the next. Load itself makes the groups grow, and with them what each call costs shrinks; a busy server first looks
who else is at the door.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Generic, TypeVar

from server.core.deadline import Deadline
from server.core.errors import Outcome, Unavailable

DEADLINE_STEP_S = 0.1
"""How exactly deadlines are kept: one timer for all, where one for each call would be a tenth of a request's cost."""

BUSY_GROUP = 4
"""A group of so many is no chance meeting: others are about to come, and the next group waits for them."""

GATHER_S = 0.001
"""It waits no longer than this: a moment beside what the call takes."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Waiting(Generic[Result]):
    """A caller who waits for a result, until `deadline`. It may outlive its item, which may be large."""

    __slots__ = ("deadline", "future", "is_under_way")

    def __init__(self, deadline: Deadline, loop: asyncio.AbstractEventLoop) -> None:
        self.deadline = deadline
        self.future: asyncio.Future[Result] = loop.create_future()
        self.is_under_way = False


class Merged(Generic[Item, Result]):
    """Calls of `run`, which takes what waits and gives the result of each in the same order.

    At most `at_once` calls of `run` are under way, each of items that weigh `limit` together, or of one that weighs
    more. What `run` raises, everyone in the group gets. `outcome` is what a call given up half-way may leave behind.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        weight: Callable[[Item], int] = lambda _: 1,
        limit: int = 1_000,
        at_once: int = 1,
        outcome: Outcome = "not_stored",
    ) -> None:
        self._run = run
        self._weight = weight
        self._limit = limit
        self._at_once = at_once
        self._outcome = outcome
        self._waiting: deque[tuple[Item, Waiting[Result]]] = deque()
        self._unanswered: list[Waiting[Result]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._under_way = 0
        self._last_group = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item, deadline: Deadline) -> Result:
        """The result for `item`. Raises what `run` raises, and Unavailable where `deadline` comes first."""
        loop = asyncio.get_running_loop()
        waiting: Waiting[Result] = Waiting(deadline, loop)
        self._waiting.append((item, waiting))
        self._unanswered.append(waiting)
        if self._timer is None:
            self._timer = loop.call_later(DEADLINE_STEP_S, self._give_up_late_ones, loop)
        if self._under_way < self._at_once:
            self._under_way += 1
            task = asyncio.create_task(self._run_groups())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await waiting.future

    async def _run_groups(self) -> None:
        """Run group after group while anybody waits."""
        while group := await self._gather():
            self._last_group = len(group)
            try:
                results = await self._run([item for item, _ in group])
            except Exception as error:  # noqa: BLE001 (it is raised where it belongs: in every call of the group)
                for _, waiting in group:
                    if not waiting.future.done():  # its caller may have gone
                        waiting.future.set_exception(error)
            else:
                for (_, waiting), result in zip(group, results, strict=True):
                    if not waiting.future.done():
                        waiting.future.set_result(result)
            await asyncio.sleep(0)  # the callers act on their results before the next group is made
        self._under_way -= 1  # at once: who comes after this must find that nobody is at work

    async def _gather(self) -> list[tuple[Item, Waiting[Result]]]:
        """The next group. On a busy server, those come along who have arrived: as long as each look finds more."""
        ends, before = monotonic() + GATHER_S, -1
        while self._last_group >= BUSY_GROUP and before < len(self._waiting) and monotonic() < ends:
            before = len(self._waiting)
            await asyncio.sleep(0)  # requests are read from their connections,
            await asyncio.sleep(0)  # and come this far
        return self._next_group()

    def _give_up_late_ones(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer those whose deadline has come."""
        self._unanswered = [waiting for waiting in self._unanswered if not waiting.future.done()]
        for waiting in self._unanswered:
            if waiting.deadline.remaining() <= 0:
                waiting.future.set_exception(Unavailable(self._outcome if waiting.is_under_way else "not_stored"))
        again = bool(self._unanswered)
        self._timer = loop.call_later(DEADLINE_STEP_S, self._give_up_late_ones, loop) if again else None

    def _next_group(self) -> list[tuple[Item, Waiting[Result]]]:
        """Those who have waited longest, as many as go together; nobody whose caller has gone."""
        group: list[tuple[Item, Waiting[Result]]] = []
        total = 0
        while self._waiting:
            item, first = self._waiting[0]
            if not first.future.done():
                total += self._weight(item)
                if group and total > self._limit:
                    break
                first.is_under_way = True
                group.append((item, first))
            self._waiting.popleft()
        return group
