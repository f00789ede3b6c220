"""Does slow work, fairly between tenants, and not past its request's deadline.

However much such work a client causes, other requests must not notice. Work is a generator: it yields between small
steps, and returns its result. The tenants take turns of TURN_S, and between steps other requests go on. So a tenant
with 1,000 bodies delays the next body of another tenant by one turn. Work whose deadline has passed, or whose client is
gone, stops at its next step.

Example: tenant A has two bodies of 0.25 s each, and B then one of 0.01 s. A's first body is worked on for 0.1 s, B's is
finished, and then A's first body is worked on again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from msgspec import Struct

from server.core.deadline import Deadline
from server.core.errors import Unavailable

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that yields between its steps and returns a T."""

TURN_S = 0.1
"""How long one tenant's work lasts before the next has its turn: a body that is no attack needs only one."""

MAX_BEGUN = 4
"""Bodies that are begun and not finished, each of another tenant: each holds what it has made up to now."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Bodies that wait: more than can be worked on within a request's deadline."""

REST_PER_WORK = 2
"""The thread rests twice as long as it worked. So it uses a third of a core, which decompresses some 250 MB a second. A
low thread priority would not do: on a busy machine such a thread can lose the processor while it holds the
interpreter."""

PAUSE_AFTER_S = 0.001
"""How long is worked without a pause, if the steps are short: other requests must not wait longer."""

NO_CAPACITY = "This server holds as many bodies to decode as it can: retry after the time in Retry-After"
TOO_LATE = "The body could not be decoded in time: retry after the time in Retry-After"


class Finished(NamedTuple):
    """The end of some work."""

    result: Any


class Job(Struct):
    """Work on a body of `size` bytes."""

    steps: Steps[Any]
    size: int
    result: asyncio.Future[Any]
    begun: bool = False


Turn = Callable[[Steps[Any], Callable[[], bool]], Awaitable[Finished | None]]
"""Works on some steps for TURN_S. Returns None if they have not finished then, or as soon as they are unwanted, which
the second argument tells."""


class SlowWork:
    """Work that waits for its turn, by tenant, and what does it: `on_loop` or `on_thread`."""

    def __init__(self, take_turn: Turn) -> None:
        self._take_turn = take_turn
        self._waiting: dict[UUID, deque[Job]] = {}  # the tenant whose turn it is comes first
        self._waiting_bytes = 0
        self._begun = 0
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, steps: Steps[T], size: int, tenant_id: UUID, deadline: Deadline) -> T:
        """What `steps` returns. `size` is that of the body in bytes, which `steps` holds.

        Raises what `steps` does, and Unavailable if it has not finished by the deadline, or if too many bytes wait and
        most of them are of this tenant.
        """
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant_id, deque()).append(Job(steps, size, result))
        self._waiting_bytes += size
        while self._waiting_bytes > MAX_WAITING_BYTES:
            self._reject_one()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(deadline.remaining()):
                return await result
        except TimeoutError:
            raise Unavailable("not_stored", TOO_LATE) from None

    async def _run(self) -> None:
        """Work until nothing waits."""
        while self._waiting:
            tenant_id, job = self._next()
            await asyncio.sleep(0)  # between short bodies too, other requests go on
            try:
                finished = await self._take_turn(job.steps, job.result.done)
            except Exception as error:  # noqa: BLE001 (it is raised where the work is waited for)
                self._begun -= 1
                if not job.result.done():
                    job.result.set_exception(error)
                continue
            if job.result.done():  # its deadline has passed, or its client is gone
                self._begun -= 1
            elif finished is None:
                self._put_back(tenant_id, job)
            else:
                self._begun -= 1
                job.result.set_result(finished.result)
            del job, finished  # what they hold is not needed while the next one runs
        self._task = None

    def _next(self) -> tuple[UUID, Job]:
        """Take the oldest job of the tenant whose turn it is. No other is begun if MAX_BEGUN are."""
        can_begin = self._begun < MAX_BEGUN
        tenant_id = next(each for each, jobs in self._waiting.items() if can_begin or jobs[0].begun)
        jobs = self._waiting.pop(tenant_id)
        job = jobs.popleft()
        if jobs:
            self._waiting[tenant_id] = jobs  # the tenant is last now
        self._waiting_bytes -= job.size
        self._begun += not job.begun
        job.begun = True
        return tenant_id, job

    def _put_back(self, tenant_id: UUID, job: Job) -> None:
        """Let a job wait for the next turn of its tenant."""
        self._waiting.setdefault(tenant_id, deque()).appendleft(job)
        self._waiting_bytes += job.size

    def _reject_one(self) -> None:
        """Reject the newest body of the tenant with the most bytes waiting."""
        tenant_id = max(self._waiting, key=lambda each: sum(job.size for job in self._waiting[each]))
        job = self._waiting[tenant_id].pop()
        if not self._waiting[tenant_id]:
            del self._waiting[tenant_id]
        self._waiting_bytes -= job.size
        self._begun -= job.begun
        if not job.result.done():
            job.result.set_exception(Unavailable("not_stored", NO_CAPACITY))


async def on_loop(steps: Steps[Any], is_unwanted: Callable[[], bool]) -> Finished | None:
    """A turn on the event loop, for work that holds the interpreter anyway. It pauses to let the loop go round."""
    end = time.monotonic() + TURN_S
    while time.monotonic() < end and not is_unwanted():
        if finished := work_until_pause(steps):
            return finished
        await asyncio.sleep(0)
    return None


def on_thread(name: str) -> Turn:
    """Turns on a thread of this name, for work that lets go of the interpreter. It pauses by resting."""
    thread = ThreadPoolExecutor(1, name)

    def take_turn(steps: Steps[Any], is_unwanted: Callable[[], bool]) -> Finished | None:
        end = time.monotonic() + TURN_S
        finished = None
        while finished is None and (began := time.monotonic()) < end and not is_unwanted():
            try:
                finished = work_until_pause(steps)
            finally:
                time.sleep(REST_PER_WORK * (time.monotonic() - began))
        return finished

    async def take_turn_on_thread(steps: Steps[Any], is_unwanted: Callable[[], bool]) -> Finished | None:
        return await asyncio.get_running_loop().run_in_executor(thread, take_turn, steps, is_unwanted)

    return take_turn_on_thread


def work_until_pause(steps: Steps[Any]) -> Finished | None:
    """Take steps for PAUSE_AFTER_S. Returns None if they have not finished then."""
    end = time.monotonic() + PAUSE_AFTER_S
    try:
        while True:
            next(steps)
            if time.monotonic() > end:
                return None
    except StopIteration as stop:
        return Finished(stop.value)


def run_at_once(steps: Steps[T]) -> T:
    """What `steps` returns, without a pause: for work that is known to be short."""
    while not (finished := work_until_pause(steps)):
        pass
    result: T = finished.result
    return result
