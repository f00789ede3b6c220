"""A server with many events of one tenant, for load tests of reads.

One event in a million is of the type `rare`, and one in ten thousand of the type `few`.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import click
import httpx

from loadtests.support.databases import running_database
from loadtests.support.payloads import Json, make_events
from loadtests.support.processes import Server, create_key, serving

EVENTS_PATH = "/api/v1/events"

JSON = {"Content-Type": "application/json"}

BATCH_SIZE = 1_000
RARE_EVERY = 1_000_000
"""Of this number of events, one is of the type `rare`."""

FEW_EVERY = 10_000
"""Of this number of events, one is of the type `few`: a page finds dozens, each far from the next."""

CONNECTIONS = 4
"""Connections that store the events: a worker has always one to work on."""


class StoredEvents(NamedTuple):
    """A server, a key of the tenant, and when each batch of its events was received."""

    server: Server
    secret: str
    received: list[str]


@asynccontextmanager
async def serving_events(tenant: str, events: int, nodes: int) -> AsyncIterator[StoredEvents]:
    """Run a server on a new database with this number of events. Its worker has stored none of them itself."""
    with tempfile.TemporaryDirectory() as directory:
        log, data = Path(directory) / "serve.log", Path(directory) / "data"
        async with running_database(data, nodes) as database:
            env = {"SLUICE_MONGODB_URL": database.url}
            async with serving(log, env, "--workers", "1") as server:
                key = await create_key(env, tenant)
                with httpx.Client(base_url=server.url, headers={"X-API-Key": key.secret}, timeout=30) as client:
                    received = await asyncio.to_thread(fill, client, events)
            async with serving(log, env, "--workers", "1") as server:
                yield StoredEvents(server, key.secret, received)


def fill(client: httpx.Client, events: int) -> list[str]:
    """Store the events, with the rare ones evenly among them. Returns when each batch was received."""
    rng = Random(1)
    plain = [encoded(make_events(rng, BATCH_SIZE)) for _ in range(8)]
    few, rare = (encoded([*make_events(rng, BATCH_SIZE - 1), {"type": name, "data": {}}]) for name in ("few", "rare"))

    def send(number: int) -> str:
        content = plain[number % len(plain)]
        if is_middle(number, FEW_EVERY):
            content = few
        if is_middle(number + 1, RARE_EVERY):  # another batch than one with a few
            content = rare
        response = client.post(EVENTS_PATH, content=content, headers=JSON)
        response.raise_for_status()
        received: str = response.json()["events"][0]["received_at"]
        return received

    received = []
    with (
        ThreadPoolExecutor(CONNECTIONS) as pool,
        click.progressbar(length=events // BATCH_SIZE, label="storing", file=sys.stderr) as bar,
    ):
        for moment in pool.map(send, range(events // BATCH_SIZE)):
            received.append(moment)
            bar.update(1)
    return received


def is_middle(number: int, every: int) -> bool:
    """Whether a batch is in the middle of `every` events."""
    return number % (every // BATCH_SIZE) == every // BATCH_SIZE // 2


def encoded(events: list[Json]) -> bytes:
    """A batch in JSON."""
    return json.dumps({"source": "backend", "events": events}).encode()
