"""A process that delivers to webhooks: `python -m tests.support.delivery_process URL DRIVER`.

It is as a worker does it, but with a short lease and a short schedule, so that a campaign takes seconds.
"""

import sys

import uvloop

from server.core.webhooks.addresses import Guard
from server.core.webhooks.delivering import Delivering
from server.runtime.background import DeploymentJob
from server.runtime.logs import configure_logging
from server.runtime.webhook_calls import WebhookCalls
from server.settings import Driver
from storage.client import connect, database
from storage.deliveries import StoredDeliveries
from storage.leases import Leases

JOB = "webhook_deliveries"

LEASE_S = 1.5

DELAYS_S = (0.2,) * 50
"""Enough that no delivery fails for good if a receiver fails some of its calls."""


async def main(url: str, driver: Driver) -> None:
    storage = database(connect(url, driver), "sluice")
    calls = WebhookCalls(Guard(["127.0.0.1/32"]))
    run = Delivering(StoredDeliveries(storage), calls, DELAYS_S).run
    await DeploymentJob(Leases(storage), JOB, run, 0.1, LEASE_S).run()


if __name__ == "__main__":
    configure_logging("info", "console")
    driver: Driver = "pymongo" if sys.argv[2] == "pymongo" else "motor"
    uvloop.run(main(sys.argv[1], driver))
