"""A process that runs a deployment job, for the tests of leases: `python -m tests.support.job_process URL DRIVER`.

The job appends to one document, by an update that is conditional on its fencing number. An update that is refused is
written to `refused`. At SIGUSR1 the next run freezes the process (SIGSTOP) just before it sends its update, and that
update is sent although the job is cancelled meanwhile.
"""

import asyncio
import os
import signal
import sys

import uvloop

from server.core.jobs.store import JobLease
from server.runtime.background import DeploymentJob
from server.runtime.logs import configure_logging
from server.settings import Driver
from storage.client import connect, database
from storage.commands import Database
from storage.leases import Leases

JOB = "append"

LEASE_S = 3.0
"""Short, so that the tests are quick, and long beside what an update takes on a busy machine."""

INTERVAL_S = 0.02


async def append(storage: Database, freeze: asyncio.Event, lease: JobLease) -> None:
    """Append to the history what proves who wrote, unless a later holder wrote before."""
    if freeze.is_set():
        freeze.clear()
        os.kill(os.getpid(), signal.SIGSTOP)
        await asyncio.shield(update(storage, lease))
    else:  # a cancelled job ends here: while the database is away, its update would wait, and come after a successor's
        await update(storage, lease)


async def update(storage: Database, lease: JobLease) -> None:
    entry = {"pid": os.getpid(), "fence": lease.fence}
    result = await storage["jobs"].update_one(
        {"_id": "history", "fence": {"$lte": lease.fence}},
        {"$set": {"fence": lease.fence}, "$push": {"entries": entry}},
    )
    if result.matched_count == 0:
        await storage["refused"].insert_one(entry)


async def main(url: str, driver: Driver) -> None:
    freeze = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, freeze.set)
    storage = database(connect(url, driver), "sluice")

    async def run(lease: JobLease) -> None:
        await append(storage, freeze, lease)

    await DeploymentJob(Leases(storage), JOB, run, INTERVAL_S, LEASE_S).run()


if __name__ == "__main__":
    configure_logging("info", "console")
    driver: Driver = "pymongo" if sys.argv[2] == "pymongo" else "motor"
    uvloop.run(main(sys.argv[1], driver))
