"""Loops and jobs, without a database: they go on after anything that goes wrong."""

import asyncio
import contextlib
import errno
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from server.core.deadline import Deadline
from server.core.errors import ConfigurationError, Unavailable
from server.core.events.catalog import Catalog
from server.core.jobs.store import JobLease
from server.core.webhooks.addresses import Guard
from server.runtime.background import DeploymentJob, PeriodicJob
from server.runtime.composition import compose_readers, compose_services
from server.runtime.errors import StartError
from server.runtime.logs import place_of
from server.runtime.loops import forever, in_background, until_done
from storage.catalog import StoredCatalog
from storage.client import database, opened
from storage.events import Events
from storage.keys import Keys
from storage.tail import TailHistory

SECRET = "slc_secret"
TIMEOUT_S = 10

FAILURES: tuple[BaseException, ...] = (
    ValueError(SECRET),
    asyncio.CancelledError(SECRET),  # of something that the job waits for
    MemoryError(SECRET),
    OSError(errno.EMFILE, SECRET),
    Unavailable("not_stored", SECRET),
)

LOGGED = (
    "ValueError at processes/test_background.py",
    "CancelledError at processes/test_background.py",
    "MemoryError at processes/test_background.py",
    "OSError (Too many open files) at processes/test_background.py",
    "the database is away",
)


class Failing:
    """A step that raises each of FAILURES in turn, and then sets `is_through` each time."""

    def __init__(self) -> None:
        self.failures = list(FAILURES)
        self.is_through = asyncio.Event()

    async def __call__(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.is_through.set()
        await asyncio.sleep(0)


def check_log(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """Each failure is one line, of which no text of an exception is a part."""
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(LOGGED)
    for line, reason in zip(lines, LOGGED, strict=True):
        assert line.startswith(f"{name} failed: {reason}")
    assert SECRET not in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 4 + [logging.WARNING]


@pytest.mark.parametrize(
    "run", [lambda step: forever("work", step, 0), lambda step: PeriodicJob("work", step, 0).run()], ids=["loop", "job"]
)
def test_loops_survive_any_exception(
    caplog: pytest.LogCaptureFixture, run: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
) -> None:
    async def scenario() -> None:
        step = Failing()
        running = asyncio.ensure_future(run(step))
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(3):  # it goes on
                await step.is_through.wait()
                step.is_through.clear()
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    check_log(caplog, "work")


def test_an_attempt_is_repeated_until_it_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        step = Failing()

        async def attempt() -> int:
            await step()
            return 7

        assert await until_done("attempt", attempt, 0) == 7

    asyncio.run(scenario())
    check_log(caplog, "attempt")


def test_texts_for_the_operator_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    failures = [ConfigurationError("install a library"), StartError("a worker ended")]

    async def attempt() -> None:
        if failures:
            raise failures.pop(0)

    asyncio.run(until_done("start", attempt, 0))
    assert [record.getMessage() for record in caplog.records] == [
        "start failed: install a library",
        "start failed: a worker ended",
    ]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(errno.EACCES, SECRET, f"/{SECRET}"), "PermissionError (Permission denied)"),
        (OSError(SECRET), "OSError"),
        (ssl.SSLError(1, SECRET), "SSLError"),  # its numbers are OpenSSL's
        (KeyError(SECRET), "KeyError"),
    ],
)
def test_an_exception_is_logged_by_its_type_and_the_reason_of_the_system(error: Exception, text: str) -> None:
    assert place_of(error) == text


def test_an_exception_is_logged_with_its_place() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Path("/none").read_text()
    assert place_of(caught.value).startswith("FileNotFoundError (No such file or directory) at ")
    assert "/none" not in place_of(caught.value)


def test_a_last_run_can_follow_the_cancellation() -> None:
    async def scenario() -> None:
        runs = 0

        async def count() -> None:
            nonlocal runs
            runs += 1

        job = PeriodicJob("count", count, interval_s=3_600)
        async with in_background(job.run()):
            await asyncio.sleep(0)
        assert runs == 1
        await job.run_once()
        assert runs == 2

    asyncio.run(scenario())


def test_background_work_is_over_when_its_block_is_left() -> None:
    async def scenario() -> None:
        ended = []

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                ended.append("waited")

        async def fail() -> None:
            raise ZeroDivisionError  # the others are waited for all the same, and the block ends well

        async with in_background(fail(), wait()):
            await asyncio.sleep(0)
        assert ended == ["waited"]

    asyncio.run(scenario())


# --- jobs under a lease


class Grants:
    """A store of leases that grants what the test says."""

    def __init__(self) -> None:
        self.fence = 0
        self.is_free = True
        self.renewals: list[bool | Exception] = []
        """The next results of `renew`; then it is granted."""
        self.released = asyncio.Event()

    async def acquire(self, job: str, holder: str, duration_s: float, deadline: Deadline) -> JobLease | None:
        assert (duration_s, deadline.remaining() > 0) == (0.1, True)
        if not self.is_free:
            raise Unavailable("not_stored")
        self.fence += 1
        return JobLease(job, holder, self.fence)

    async def renew(self, lease: JobLease, duration_s: float, deadline: Deadline) -> bool:
        assert (lease.fence, duration_s, deadline.remaining() > 0) == (self.fence, 0.1, True)
        result = self.renewals.pop(0) if self.renewals else True
        if isinstance(result, Exception):
            raise result
        return result

    async def release(self, job: str, holder: str, deadline: Deadline) -> None:
        assert (job, bool(holder), deadline.remaining() > 0) == ("job", True, True)
        self.released.set()


class Tenures:
    """A job that notes with which leases it was started and cancelled."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[int] = asyncio.Queue()
        self.ended: asyncio.Queue[int] = asyncio.Queue()

    async def __call__(self, lease: JobLease) -> None:
        self.started.put_nowait(lease.fence)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.put_nowait(lease.fence)


@pytest.mark.parametrize(
    "renewals",
    [[False], [True, False], [Unavailable("unknown")] * 30, [ZeroDivisionError(SECRET)]],
    ids=["taken", "taken later", "database away", "bug"],
)
def test_a_job_is_cancelled_with_its_lease_and_runs_again_with_the_next(
    renewals: list[bool | Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        grants, job = Grants(), Tenures()
        grants.renewals = renewals
        running = asyncio.create_task(DeploymentJob(grants, "job", job, 0, lease_s=0.1).run())
        async with asyncio.timeout(TIMEOUT_S):
            first = await job.started.get()  # with a later lease if the machine stood still for as long as one lasts
            assert await job.ended.get() == first
            second = await job.started.get()
            assert second > first
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert job.ended.get_nowait() == second
        assert grants.released.is_set()

    asyncio.run(scenario())
    assert SECRET not in caplog.text


def test_a_job_that_does_not_get_its_lease_waits_for_it() -> None:
    async def scenario() -> None:
        grants, job = Grants(), Tenures()
        grants.is_free = False
        async with asyncio.timeout(TIMEOUT_S), in_background(DeploymentJob(grants, "job", job, 0, lease_s=0.1).run()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.started.get(), 0.3)
            assert job.started.empty()
            grants.is_free = True
            assert 1 <= await job.started.get() <= grants.fence  # see above: not always with the first lease

    asyncio.run(scenario())


# --- the drain


def test_a_worker_that_drains_is_not_ready() -> None:
    async def scenario() -> None:
        async def is_writable() -> None:
            """The database is well, which does not help."""

        async with opened("mongodb://127.0.0.1:1/", "pymongo") as client:  # never used
            storage = database(client, "sluice")
            services = compose_services(
                storage,
                Events(storage),
                Keys(storage),
                Catalog(StoredCatalog(storage)),
                compose_readers(storage, Guard()),
                TailHistory(storage),
                b"",
                is_writable,
            )
            services.draining.set()
            with pytest.raises(Unavailable, match="draining"):
                await services.check_ready()

    asyncio.run(scenario())
