"""The coalescer: calls that wait at the same time become one call.

An idle server adds no delay: if no call is in flight, a new one starts at once. Calls that arrive while others are in
flight form the next group. Under load, groups grow, so the cost per call falls. If the last group had 4 or more calls,
the next one first waits up to 1 ms for requests that are already arriving.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from time import monotonic
from typing import Generic, TypeVar

from server.core.deadline import Deadline
from server.core.errors import Outcome, Unavailable

DEADLINE_STEP_S = 0.1
"""How exactly deadlines are kept. One timer serves all calls: a timer for each would be a tenth of a request's CPU."""

BUSY_GROUP = 4
"""Calls in the last group from which on the server counts as busy, so that waiting for more calls pays."""

GATHER_S = 0.001
"""The longest wait for more calls: short beside the call itself, which takes 2 ms and more."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Waiting(Generic[Result]):
    """A call that waits for its result until `deadline`. It may outlive its item, which may be large."""

    __slots__ = ("deadline", "future", "in_flight")

    def __init__(self, deadline: Deadline, loop: asyncio.AbstractEventLoop) -> None:
        self.deadline = deadline
        self.future: asyncio.Future[Result] = loop.create_future()
        self.in_flight = False


class Coalescer(Generic[Item, Result]):
    """Calls `run` with groups of items. `run` returns the result of each item, in the same order.

    At most `at_once` calls of `run` are in flight. The items of a group weigh at most `limit` together, unless one item
    alone weighs more. If `run` raises, every call of the group raises the same. `outcome` is what `run` may leave
    behind of a batch if the deadline of a call passes while it runs.

    `run` gets a deadline of its own. The calls of a group have different deadlines, and the group must not fail because
    the first of them has passed. So the coalescer keeps the deadline of each call itself, and `run` a full one.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item], Deadline], Awaitable[Sequence[Result]]],
        weight: Callable[[Item], int] = lambda _: 1,
        limit: int = 1_000,
        at_once: int = 1,
        outcome: Outcome | None = None,
    ) -> None:
        self._run = run
        self._weight = weight
        self._limit = limit
        self._at_once = at_once
        self._outcome = outcome
        self._waiting: deque[tuple[Item, Waiting[Result]]] = deque()
        self._unanswered: list[Waiting[Result]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._last_group = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item, deadline: Deadline) -> Result:
        """The result for `item`. Raises what `run` raises, and Unavailable if `deadline` passes first."""
        loop = asyncio.get_running_loop()
        waiting: Waiting[Result] = Waiting(deadline, loop)
        self._waiting.append((item, waiting))
        self._unanswered.append(waiting)
        if self._timer is None:
            self._timer = loop.call_later(DEADLINE_STEP_S, self._end_expired, loop)
        if self._in_flight < self._at_once:
            self._in_flight += 1
            task = asyncio.create_task(self._run_groups(), context=Context())  # not that of this one call
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await waiting.future

    async def _run_groups(self) -> None:
        """Run one group after the other until no call waits."""
        while group := await self._gather():
            self._last_group = len(group)
            try:
                results = await self._run([item for item, _ in group], Deadline())
            except Exception as error:  # noqa: BLE001 (it is raised in every call of the group)
                for _, waiting in group:
                    if not waiting.future.done():  # it is done if the call was cancelled or has expired
                        waiting.future.set_exception(error)
            else:
                for (_, waiting), result in zip(group, results, strict=True):
                    if not waiting.future.done():
                        waiting.future.set_result(result)
            await asyncio.sleep(0)  # let the calls use their results before the next group is made
        self._in_flight -= 1  # with no await since the last check, so that no new call is missed

    async def _gather(self) -> list[tuple[Item, Waiting[Result]]]:
        """The next group. A busy server waits for more calls, as long as each turn of the event loop brings some."""
        ends, before = monotonic() + GATHER_S, -1
        while self._last_group >= BUSY_GROUP and before < len(self._waiting) and monotonic() < ends:
            before = len(self._waiting)
            await asyncio.sleep(0)  # requests are read from their connections,
            await asyncio.sleep(0)  # and reach this coalescer
        return self._next_group()

    def _next_group(self) -> list[tuple[Item, Waiting[Result]]]:
        """The calls that have waited longest, up to the limit, without those that were cancelled."""
        group: list[tuple[Item, Waiting[Result]]] = []
        total = 0
        while self._waiting:
            item, first = self._waiting[0]
            if not first.future.done():
                total += self._weight(item)
                if group and total > self._limit:
                    break
                first.in_flight = True
                group.append((item, first))
            self._waiting.popleft()
        return group

    def _end_expired(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the calls whose deadline has passed."""
        self._unanswered = [waiting for waiting in self._unanswered if not waiting.future.done()]
        for waiting in self._unanswered:
            if waiting.deadline.remaining() <= 0:
                waiting.future.set_exception(Unavailable(self._outcome if waiting.in_flight else None))
        again = bool(self._unanswered)
        self._timer = loop.call_later(DEADLINE_STEP_S, self._end_expired, loop) if again else None
