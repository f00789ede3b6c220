"""Prepares scenarios: their databases, servers, tenants and keys.

Scenarios with the same API, driver, number of workers and checkout share a `sluice serve` and its database. So keys
with and without a limit reach the same processes, and all collections grow by about the same in a round. Each scenario
has a tenant of its own, by which its events are counted.
"""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

from loadtests.benchmark.jobs import Job
from loadtests.benchmark.scenarios import Scenario
from loadtests.support.processes import Server, create_key, serving
from storage.client import Client, database
from storage.indexes import EVENTS
from storage.keys import Keys
from storage.layout import create_events

PLAIN_INDEX = {"tenant_id": 1, "_id": 1}
"""What a list of a tenant's latest events needs in a usual collection, whose `_id` is the event's id."""


class Target(NamedTuple):
    """A scenario that is ready to be driven. `server` is None if it has none."""

    scenario: Scenario
    database: str
    url: str
    tenant_id: UUID
    secrets: list[str]
    server: Server | None

    @property
    def worker_pids(self) -> list[int]:
        """The processes whose CPU time and memory are measured."""
        return [] if self.server is None else self.server.worker_pids


class Targets:
    """Makes targets, all on one MongoDB. `stack` ends the servers that it starts."""

    def __init__(self, stack: AsyncExitStack, database_url: str, client: Client, driver: str, directory: Path) -> None:
        self._stack = stack
        self._database_url = database_url
        self._client = client
        self._driver = driver
        self._directory = directory
        self._servers: dict[str, Server] = {}

    async def start(self, scenario: Scenario, number: int) -> Target:
        """Prepare a scenario. `number` is its place in the comparison."""
        if scenario.workers == 0:
            name = f"direct_{number}"
            events = database(self._client, name)
            if scenario.driven == "insert_command":
                await create_events(events)
            else:
                await events[EVENTS].create_index(PLAIN_INDEX)
            return Target(scenario, name, self._database_url, uuid4(), [], None)
        driver = scenario.driver or self._driver
        name = f"{scenario.driven}_{scenario.workers}_{driver}"
        if scenario.checkout is not None:
            name = f"{name}_{scenario.checkout.label}"
        env = {"SLUICE_MONGODB_URL": self._database_url, "SLUICE_DATABASE": name, "SLUICE_DRIVER": driver}
        if name not in self._servers:
            self._servers[name] = await self._serve(scenario, name, env)
        server = self._servers[name]
        tenant_id, secrets = await self._create_keys(scenario, f"scenario-{number}", env)
        url = server.url if scenario.driven == "rest" else server.grpc
        return Target(scenario, name, url, tenant_id, secrets, server)

    async def _serve(self, scenario: Scenario, name: str, env: dict[str, str]) -> Server:
        directory = scenario.checkout and scenario.checkout.directory
        log = self._directory / f"{name}.log"
        serve = serving(log, env, "--workers", str(scenario.workers), checkout=directory)
        return await self._stack.enter_async_context(serve)

    async def _create_keys(self, scenario: Scenario, tenant: str, env: dict[str, str]) -> tuple[UUID, list[str]]:
        """Create the keys of a scenario. Returns the id of their tenant and their secrets."""
        if scenario.checkout is not None:  # with its own command line, because it may store keys in another form
            directory = scenario.checkout.directory
            created = [
                await create_key(env, tenant, scenario.rate_limit, checkout=directory) for _ in range(scenario.keys)
            ]
            return UUID(created[0].tenant_id), [key.secret for key in created]
        keys = Keys(database(self._client, env["SLUICE_DATABASE"]))  # the command line would take minutes for 300 keys
        create = partial(keys.create, tenant, rate_limit=scenario.rate_limit)
        made = await asyncio.gather(*(create() for _ in range(scenario.keys)))
        return made[0][0].tenant_id, [secret for _, secret in made]


async def stored_of(client: Client, target: Target) -> int:
    """Count the events that the target's tenant has in the database, in this layout or in that of plain MongoDB."""
    in_either = {"$or": [{"_id.tenant_id": target.tenant_id}, {"tenant_id": target.tenant_id}]}
    return await database(client, target.database)[EVENTS].count_documents(in_either)


def jobs_of(target: Target, seconds: float, requests_per_s: float, seed: int) -> Iterable[Job]:
    """Return the job of each generator: its share of the connections, the keys and the rate. Rate 0: no fixed rate."""
    scenario = target.scenario
    processes, connections, window = scenario.load
    for index in range(processes):
        yield Job(
            driven=scenario.driven,
            url=target.url,
            database=target.database,
            tenant_id=target.tenant_id,
            keys=target.secrets[index::processes] or target.secrets,
            batch_size=scenario.batch_size,
            connections=connections,
            window=window,
            seconds=seconds,
            requests_per_s=requests_per_s / processes,
            seed=seed * processes + index,
        )
