"""The background work of a worker: periodic jobs, and jobs that run once per deployment under a lease.

A periodic job runs in every worker. A deployment job runs in one worker of all, on whichever host, because doing it in
each would be wrong or wasteful. `server/core/jobs/store.py` explains the leases and fencing numbers.

To add a job, name it in `jobs.py`, and start it in `run_worker` (`composition.py`). It may raise: the exception is
logged, and the job runs again when it is due.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Never

from server.core.cancellation import end_if_cancelled
from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.jobs.store import JobLease, LeaseStore
from server.runtime.loops import failures_logged, forever, in_background

LEASE_S = 15.0
"""How long a lease lasts, in seconds, and so how long a job stands still after its worker was killed. It is longer than
an election of MongoDB takes (up to 12 s), so an election rarely moves jobs."""

RENEWALS = 5
"""Renewals in the time of a lease: one every 3 s. Each may take 3 s too, so two may fail before the lease is lost.
Other workers try to acquire it as often, so a job starts elsewhere at most 3 s after the lease ended."""

RELEASE_TIMEOUT_S = 2
"""How long a drain waits for a lease to be released. If it is not, the lease ends by itself."""

HEALTH_INTERVAL_S = 2.0
"""How often gRPC health is brought up to date. Each time is a small write."""

log = logging.getLogger("sluice")


class PeriodicJob:
    """Runs `job` at the start and then `interval_s` seconds after each run, whatever it raises."""

    def __init__(self, name: str, job: Callable[[], Awaitable[None]], interval_s: float) -> None:
        self._name = name
        self._job = job
        self._interval_s = interval_s

    async def run(self) -> Never:
        """Run the job again and again, until this is cancelled."""
        while True:
            await self.run_once()
            end_if_cancelled()
            await asyncio.sleep(self._interval_s)

    async def run_once(self) -> None:
        """Run the job now. Raises nothing: a failure is logged."""
        with failures_logged(self._name):
            await self._job()


class DeploymentJob:
    """Runs `job` every `interval_s` seconds in one worker of the deployment: the one that holds the lease `name`.

    The job gets the lease, and can make its writes conditional on the fencing number. It is cancelled when the lease
    is lost. If the worker was frozen for longer than the lease, the job may go on for a moment before that.
    """

    def __init__(
        self,
        leases: LeaseStore,
        name: str,
        job: Callable[[JobLease], Awaitable[None]],
        interval_s: float,
        lease_s: float = LEASE_S,
    ) -> None:
        self._leases = leases
        self._name = name
        self._job = job
        self._interval_s = interval_s
        self._lease_s = lease_s
        self._renew_s = lease_s / RENEWALS
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    async def run(self) -> Never:
        """Run the job while this worker holds the lease, until this is cancelled. Then release the lease."""
        try:
            await forever(self._name, self._run_under_lease, self._renew_s)
        finally:
            with failures_logged(f"release of {self._name}"):
                await self._leases.release(self._name, self._holder, Deadline(RELEASE_TIMEOUT_S))

    async def _run_under_lease(self) -> None:
        """Acquire the lease and run the job until the lease is lost. If another worker holds it, only wait."""
        ends = monotonic() + self._lease_s  # from before the call: by the database's clock it ends later
        lease = await self._acquire()
        if lease is None:
            await asyncio.sleep(self._renew_s)
        else:
            log.info("%s runs in this worker (lease %d)", self._name, lease.fence)
            job = PeriodicJob(self._name, partial(self._job, lease), self._interval_s)
            async with in_background(job.run()):
                await self._renew_until_lost(lease, ends)
            log.warning("%s no longer runs in this worker (lease %d is lost)", self._name, lease.fence)

    async def _acquire(self) -> JobLease | None:
        try:
            return await self._leases.acquire(self._name, self._holder, self._lease_s, Deadline(self._renew_s))
        except Unavailable:  # which the driver adapter has logged, once
            return None

    async def _renew_until_lost(self, lease: JobLease, ends: float) -> None:
        """Renew the lease. Return when another worker has it, or at `ends` if no renewal was confirmed."""
        while (left := ends - monotonic()) > 0:
            await asyncio.sleep(min(self._renew_s, left))
            started = monotonic()
            deadline = Deadline(min(self._renew_s, ends - started))
            try:
                if not await self._leases.renew(lease, self._lease_s, deadline):
                    return
            except Unavailable:
                continue
            ends = started + self._lease_s


async def report_health(
    check_ready: Callable[[], Awaitable[None]],
    has_primary: asyncio.Queue[bool],
    report: Callable[[bool], Awaitable[None]],
) -> Never:
    """Call `report` with whether the database takes writes: every HEALTH_INTERVAL_S, and at once if it has no primary.

    `has_primary` gets each change that the driver finds.
    """

    async def report_once() -> None:
        try:
            await check_ready()
        except Unavailable:
            await report(False)
        else:
            await report(True)
        with suppress(TimeoutError):
            async with asyncio.timeout(HEALTH_INTERVAL_S):
                if not await has_primary.get():
                    await report(False)

    await forever("report of health", report_once, HEALTH_INTERVAL_S)
