"""Leases of deployment jobs, on a real database: one holder at a time, whichever process dies, freezes or starts."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from server.core.deadline import Deadline
from server.core.jobs.store import JobLease
from storage.client import database, opened
from storage.leases import Leases
from tests.support.harness import Json, MongoClient, Server, is_stopped, wait_until
from tests.support.job_process import JOB, LEASE_S
from tests.support.mongod import Mongod

DRIVERS = ("motor", "pymongo", "motor")
"""Of the processes that compete for a lease."""

TAKEOVER_MARGIN_S = 2.0
"""For the next attempt to acquire a lease that has ended, on a busy machine."""

EVER_S = 3_600.0
"""Longer than any test."""


class Contest:
    """Processes that compete for the lease of one job, and what they wrote."""

    def __init__(self, mongod: Mongod, mongo: MongoClient, directory: Path) -> None:
        self._mongo = mongo
        mongo.drop_database("sluice")
        mongo.sluice.jobs.insert_one({"_id": "history", "fence": 0, "entries": []})
        self._log = (directory / "jobs.log").open("w+")
        self.processes = [
            subprocess.Popen([sys.executable, "-m", "tests.support.job_process", mongod.url, driver], stderr=self._log)
            for driver in DRIVERS
        ]

    def entries(self) -> list[Json]:
        """What was appended, in order."""
        found = self._mongo.sluice.jobs.find_one({"_id": "history"})
        assert found is not None
        entries: list[Json] = found["entries"]
        return entries

    def refused(self) -> list[Json]:
        """The updates that were refused."""
        return list(self._mongo.sluice.refused.find({}, {"_id": 0}))

    def holder(self) -> "subprocess.Popen[bytes]":
        """The process that wrote last, once one has."""
        wait_until(self.entries, "a holder")
        pid = self.entries()[-1]["pid"]
        return next(process for process in self.processes if process.pid == pid)

    def wait_for_entries(self, count: int) -> None:
        """Wait until there are that many more entries."""
        reached = len(self.entries()) + count
        wait_until(lambda: len(self.entries()) >= reached, f"{count} more entries")

    def wait_for_successor(self, holder: "subprocess.Popen[bytes]") -> float:
        """Wait until another process has the lease. Returns how long that took."""
        began = time.monotonic()
        wait_until(lambda: self.entries()[-1]["pid"] != holder.pid, "another holder")
        return time.monotonic() - began

    def check(self) -> list[int]:
        """Each fencing number had one holder, and they never went back. Returns the holders' process ids in order."""
        entries = self.entries()
        fences = [entry["fence"] for entry in entries]
        assert fences == sorted(fences)
        tenures = list(dict.fromkeys((entry["fence"], entry["pid"]) for entry in entries))
        assert len({fence for fence, _ in tenures}) == len(tenures)
        return [pid for _, pid in tenures]

    def log(self) -> str:
        """What the processes logged."""
        self._log.flush()
        return Path(self._log.name).read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._log.close()


@contextmanager
def contest(mongod: Mongod, directory: Path) -> Iterator[Contest]:
    """Three processes that compete for a lease."""
    with mongod.client() as mongo, Contest(mongod, mongo, directory) as running:
        yield running


def test_one_process_at_a_time_runs_the_job(mongod: Mongod, tmp_path: Path) -> None:
    with contest(mongod, tmp_path) as running:
        holder = running.holder()
        ends = time.monotonic() + 2 * LEASE_S  # it is renewed, so that nobody else gets it
        wait_until(lambda: time.monotonic() > ends, "two times of a lease")
        running.wait_for_entries(10)
        assert running.check() == [holder.pid]
        assert running.refused() == []
        assert running.log().count(f"{JOB} runs in this worker") == 1


def test_kill_9_of_the_holder_moves_the_job_within_the_lease(mongod: Mongod, tmp_path: Path) -> None:
    with contest(mongod, tmp_path) as running:
        first = running.holder()
        running.wait_for_entries(10)
        first.kill()
        takeovers = [running.wait_for_successor(first)]
        second = running.holder()
        second.kill()
        takeovers.append(running.wait_for_successor(second))
        assert min(takeovers) < LEASE_S + TAKEOVER_MARGIN_S  # the better one counts: other tests run at the same time
        running.wait_for_entries(10)
        third = ({process.pid for process in running.processes} - {first.pid, second.pid}).pop()
        assert running.check() == [first.pid, second.pid, third]
        assert running.refused() == []


def test_a_holder_that_was_frozen_is_refused(mongod: Mongod, tmp_path: Path) -> None:
    with contest(mongod, tmp_path) as running:
        frozen = running.holder()
        frozen.send_signal(signal.SIGUSR1)
        wait_until(lambda: is_stopped(frozen.pid), "the holder to freeze before its next update")
        thaws = time.monotonic() + 3 * LEASE_S
        running.wait_for_successor(frozen)
        wait_until(lambda: time.monotonic() > thaws, "three times of a lease")
        own = [entry["fence"] for entry in running.entries() if entry["pid"] == frozen.pid]
        frozen.send_signal(signal.SIGCONT)
        wait_until(running.refused, "an update that is refused")
        running.wait_for_entries(50)
        assert running.refused() == [{"pid": frozen.pid, "fence": own[-1]}]  # then its job is cancelled
        assert frozen.pid not in running.check()[1:]
        assert f"{JOB} no longer runs in this worker (lease {own[-1]} is lost)" in running.log()


def test_the_job_goes_on_after_the_database_was_away(mongod: Mongod, tmp_path: Path) -> None:
    with contest(mongod, tmp_path) as running:
        running.holder()
        mongod.kill()
        wait_until(lambda: f"{JOB} no longer runs in this worker" in running.log(), "the end of the lease")
        mongod.start()
        running.wait_for_entries(10)
        assert all(process.poll() is None for process in running.processes)
        assert running.refused() == []
        running.check()


# --- the store


def with_leases(mongod: Mongod, scenario: Callable[[Leases], Awaitable[None]]) -> None:
    """Run a scenario on an empty database."""

    async def run() -> None:
        async with opened(mongod.url, "motor") as client:
            await client.drop_database("sluice")
            await scenario(Leases(database(client, "sluice")))

    asyncio.run(run())


async def acquired(leases: Leases, job: str, holder: str, duration_s: float) -> JobLease:
    """The lease, once `holder` has it."""
    while True:
        lease = await leases.acquire(job, holder, duration_s, Deadline())
        if lease is not None:
            return lease
        await asyncio.sleep(0.01)


def test_of_many_that_acquire_at_once_one_gets_the_lease(mongod: Mongod) -> None:
    async def scenario(leases: Leases) -> None:
        for job in map(str, range(30)):
            found = await asyncio.gather(
                *(leases.acquire(job, f"holder {number}", EVER_S, Deadline()) for number in range(20))
            )
            (lease,) = filter(None, found)
            assert (lease.job, lease.fence) == (job, 1)

    with_leases(mongod, scenario)


def test_only_a_change_of_holder_changes_the_number(mongod: Mongod) -> None:
    async def scenario(leases: Leases) -> None:
        first = await leases.acquire("job", "a", EVER_S, Deadline())
        assert first == JobLease("job", "a", 1)
        assert await leases.acquire("job", "a", EVER_S, Deadline()) == first  # as after a response that was lost
        assert await leases.renew(first, EVER_S, Deadline())
        assert await leases.acquire("job", "b", EVER_S, Deadline()) is None
        await leases.release("job", "b", Deadline())  # it is not b's
        assert await leases.acquire("job", "b", EVER_S, Deadline()) is None
        await leases.release("job", "a", Deadline())
        second = await leases.acquire("job", "b", EVER_S, Deadline())
        assert second == JobLease("job", "b", 2)
        assert not await leases.renew(first, EVER_S, Deadline())
        await leases.release("job", "a", Deadline())  # it is a's no longer
        assert await leases.renew(second, EVER_S, Deadline())
        assert await leases.acquire("other job", "a", EVER_S, Deadline()) == JobLease("other job", "a", 1)

    with_leases(mongod, scenario)


def test_a_lease_ends_by_the_clock_of_the_database(mongod: Mongod) -> None:
    async def scenario(leases: Leases) -> None:
        started = time.monotonic()
        short = await acquired(leases, "job", "a", 0.2)
        assert (await acquired(leases, "job", "b", 0.2)).fence == short.fence + 1
        assert time.monotonic() - started > 0.19
        assert not await leases.renew(short, EVER_S, Deadline())
        third = await acquired(leases, "job", "c", 0.0)
        assert await leases.renew(third, EVER_S, Deadline())  # it has ended, but nobody else acquired it
        assert await leases.acquire("job", "d", EVER_S, Deadline()) is None

    with_leases(mongod, scenario)


# --- the server's own job


def test_idle_windows_are_dropped_by_one_worker_of_the_deployment(mongod: Mongod, tmp_path: Path) -> None:
    with ExitStack() as stack:
        mongo = stack.enter_context(mongod.client())
        mongo.drop_database("sluice")
        servers = [
            stack.enter_context(Server(tmp_path / name, "--mongodb-url", mongod.url, "--driver", name))
            for name in ("motor", "pymongo")
        ]
        wait_until(lambda: holder_pid(mongo) is not None, "a holder of the lease")
        pid = holder_pid(mongo)
        (held,) = [server for server in servers if server.worker_pids() == [pid]]
        assert sum("drop_idle_windows runs in this worker" in server.stderr() for server in servers) == 1
        idle = {"$set": {"window": {"until": mongo.admin.command("hello")["localTime"]}}}
        assert mongo.sluice["keys"].update_one({}, idle).matched_count == 1
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: mongo.sluice["keys"].count_documents({"window": {"$exists": True}}) == 0, "a takeover", 40)
        assert holder_pid(mongo) not in {None, pid}
        (lease,) = mongo.sluice.leases.find({"_id": "drop_idle_windows"})
        assert lease["fence"] == 2
        assert all(server.stop() == 0 for server in servers)
        now = mongo.admin.command("hello")["localTime"]
        assert mongo.sluice.leases.count_documents({"expires_at": {"$gt": now}}) == 0, "released by the drain"
        assert "failed" not in held.stderr()


def holder_pid(mongo: MongoClient) -> int | None:
    """The process that holds the lease of the server's job."""
    lease = mongo.sluice.leases.find_one({"_id": "drop_idle_windows"})
    return int(lease["holder"].split(":")[-2]) if lease else None
