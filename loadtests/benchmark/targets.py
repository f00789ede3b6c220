"""Scenarios made ready to be driven: their databases, servers, tenants and keys. Imports the scenarios and `storage`.

Scenarios with the same face, driver and number of workers share a `sluice serve` and its database. So keys with and
without a limit meet the same processes, and what collections grow by in a round is of the same order everywhere.
Each scenario has a tenant of its own, by which its events are counted.
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
from loadtests.support.processes import Server, serving
from storage.client import Client, database
from storage.embedded import EmbeddedMongod
from storage.indexes import EVENTS, ensure_indexes
from storage.keys import Keys


class Target(NamedTuple):
    """A scenario that is ready to be driven. `server` is None where there is none."""

    scenario: Scenario
    database: str
    url: str
    tenant_id: UUID
    secrets: list[str]
    server: Server | None

    @property
    def worker_pids(self) -> list[int]:
        """The processes whose CPU time and memory are to be watched."""
        return [] if self.server is None else self.server.worker_pids


class Targets:
    """Makes targets, on one `mongod`. What it starts ends with the stack."""

    def __init__(
        self, stack: AsyncExitStack, mongod: EmbeddedMongod, client: Client, driver: str, directory: Path
    ) -> None:
        self._stack = stack
        self._mongod = mongod
        self._client = client
        self._driver = driver
        self._directory = directory
        self._servers: dict[str, Server] = {}

    async def start(self, scenario: Scenario, number: int) -> Target:
        """The scenario, which is the set's `number`th."""
        if scenario.workers == 0:
            name = f"direct_{number}"
            if scenario.indexed:
                await ensure_indexes(database(self._client, name))
            return Target(scenario, name, self._mongod.url, uuid4(), [], None)
        driver = scenario.driver or self._driver
        name = f"{scenario.driven}_{scenario.workers}_{driver}"
        if name not in self._servers:
            self._servers[name] = await self._serve(name, scenario.workers, driver)
        server = self._servers[name]
        keys = Keys(database(self._client, name))  # not the command line, which would take minutes for hundreds
        create = partial(keys.create, f"scenario-{number}", rate_limit=scenario.rate_limit)
        made = await asyncio.gather(*(create() for _ in range(scenario.keys)))
        url = server.url if scenario.driven == "rest" else server.grpc
        return Target(scenario, name, url, made[0][0].tenant_id, [secret for _, secret in made], server)

    async def _serve(self, name: str, workers: int, driver: str) -> Server:
        env = {"SLUICE_MONGODB_URL": self._mongod.url, "SLUICE_DATABASE": name, "SLUICE_DRIVER": driver}
        serve = serving(self._directory / f"{name}.log", env, "--workers", str(workers))
        return await self._stack.enter_async_context(serve)


async def stored_of(client: Client, target: Target) -> int:
    """How many events the target's tenant really has."""
    return await database(client, target.database)[EVENTS].count_documents({"tenant_id": target.tenant_id})


def jobs_of(target: Target, seconds: float, requests_per_s: float, seed: int) -> Iterable[Job]:
    """What each generator has to do: its share of the connections, the keys and the pace."""
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
