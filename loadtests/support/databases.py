"""Starts the database of a measurement: the embedded one, or a replica set of three nodes on this machine.

The three nodes share the machine's cores and its disk. So they show what replication costs, and not what three machines
can do.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import click

from storage.client import opened
from storage.embedded import EmbeddedMongod
from storage.embedded.binary import Binary, find_mongod
from storage.embedded.process import JOURNAL_OPTIONS, cache_size_gib, end_process, reserved_port, stop_with_parent
from storage.embedded.replica_set import POLL_S, wait_for_port

FIRST_PORT = 27_117
"""The first node listens here, if the port is free."""

nodes_option = click.option(
    "--nodes",
    type=click.Choice(["1", "3"]),
    default="1",
    show_default=True,
    help="Of the database: 1 is the embedded one, 3 a replica set on this machine.",
)


class Database(NamedTuple):
    """A running database: its URL, and the process ids of its nodes."""

    url: str
    pids: list[int]


@asynccontextmanager
async def running_database(directory: Path, nodes: int) -> AsyncIterator[Database]:
    """Run a new database with its files in `directory`. Raises ConfigurationError if no mongod is installed."""
    if nodes == 1:
        mongod = await EmbeddedMongod.start(directory)
        try:
            yield Database(mongod.url, [mongod.pid])
        finally:
            await mongod.stop()
        return
    async with AsyncExitStack() as stack:
        binary = await find_mongod(directory / "lib", None)
        started = [await stack.enter_async_context(node(binary, directory / str(number))) for number in range(nodes)]
        hosts = [f"127.0.0.1:{port}" for port, _ in started]
        url = f"mongodb://{','.join(hosts)}/?replicaSet=sluice"
        await elect(hosts)
        yield Database(url, [pid for _, pid in started])


@asynccontextmanager
async def node(binary: Binary, directory: Path) -> AsyncIterator[tuple[int, int]]:
    """Run a mongod that is to become a node. Yields its port and its process id."""
    directory.mkdir(parents=True)
    with reserved_port(FIRST_PORT) as port:
        process = await asyncio.create_subprocess_exec(
            binary.path,
            *("--dbpath", directory, "--logpath", directory / "mongod.log", "--nounixsocket", "--quiet"),
            *("--port", str(port), "--bind_ip", "127.0.0.1", "--replSet", "sluice"),
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=1000"),
            *("--wiredTigerCacheSizeGB", str(cache_size_gib()), "--wiredTigerEngineConfigString", JOURNAL_OPTIONS),
            stdout=asyncio.subprocess.DEVNULL,
            env={**os.environ, **binary.environment},
            preexec_fn=stop_with_parent(),
        )
        try:
            await wait_for_port(port)
        except BaseException:
            await end_process(process)
            raise
    try:
        yield port, process.pid
    finally:
        await end_process(process)


async def elect(hosts: list[str]) -> None:
    """Make a replica set of the nodes, and wait until one is its primary and all others have its data."""
    members = [{"_id": number, "host": host} for number, host in enumerate(hosts)]
    async with opened(f"mongodb://{hosts[0]}", "pymongo", directConnection=True) as client:
        await client.admin.command("replSetInitiate", {"_id": "sluice", "members": members})
        while True:
            status = await client.admin.command("replSetGetStatus")
            if sorted(member["stateStr"] for member in status["members"]) == ["PRIMARY", "SECONDARY", "SECONDARY"]:
                return
            await asyncio.sleep(POLL_S)
