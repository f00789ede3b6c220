"""Measures what the removal of old events and of a tenant costs ingestion: `python -m loadtests.tenants` (`--help`).

One tenant sends batches of 1,000 as fast as they are acknowledged. In each round another tenant gets events from long
ago. Ingestion is measured without a removal, and then while they are removed: in half of the rounds by retention, and
in the other half as the tenant is deleted. At the end nothing of the deleted tenants may be left in any collection.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, cast
from uuid import UUID

import click
import pymongo
from bson.binary import Binary
from bson.max_key import MaxKey
from bson.min_key import MinKey

from loadtests.benchmark import driving
from loadtests.benchmark.jobs import Job
from loadtests.benchmark.table import print_table
from loadtests.support.databases import nodes_option, running_database
from loadtests.support.payloads import make_events
from loadtests.support.processes import SLUICE, Key, Server, create_key, serving
from loadtests.support.progress import say
from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo, Event
from storage.commands import EncodedDocuments
from storage.documents import encode

WAYS = ("retention", "deletion")

WINDOW_S = 8.0
"""How long ingestion is measured at a time."""

WINDOWS_WITHOUT = 4
"""How often it is measured without a removal in a round."""

BATCH_SIZE, CONNECTIONS = 1_000, 8

AGE_MS = 40 * 24 * 60 * 60 * 1_000
RETENTION_DAYS = "30"

STEP_S = 0.5
"""How often it is looked whether a removal has begun, or ended."""

MIN_RATIO = 0.9
"""The least rate of ingestion while events are removed, as a share of the rate without."""

Mongo = pymongo.MongoClient[dict[str, Any]]


class Tenant(NamedTuple):
    """The tenant whose events are removed."""

    name: str
    id: UUID


class Round(NamedTuple):
    """One removal. The rates are those of ingestion, in events/s."""

    way: str
    tenant: Tenant
    without: list[float]
    during: list[float]
    removed_per_s: float

    @property
    def ratio(self) -> float:
        """The rate during the removal beside that without."""
        return statistics.median(self.during) / statistics.median(self.without)


class Site(NamedTuple):
    """What is measured."""

    env: dict[str, str]
    mongo: Mongo
    server: Server
    client: Key


@click.command(help=__doc__)
@click.option("--events", default=1_000_000, show_default=True, help="Events to remove in each of the two ways.")
@click.option("--rounds", default=2, show_default=True, help="Removals in each way.")
@click.option("--workers", default=2, show_default=True, help="Workers of the server.")
@nodes_option
def main(events: int, rounds: int, workers: int, nodes: str) -> None:
    """Measure, and print the rates."""
    found = asyncio.run(run(events // rounds, rounds, workers, int(nodes)))
    rows, is_met = [["removal", "without", "during", "ratio", "removed/s"]], True
    for each in found:
        without, during = (f"{statistics.median(rates):,.0f}" for rates in (each.without, each.during))
        rows.append([each.way, without, during, f"{each.ratio:.3f}", f"{each.removed_per_s:,.0f}"])
    print_table(rows)
    for way in WAYS:
        ratio = statistics.median(each.ratio for each in found if each.way == way)
        is_met = is_met and ratio >= MIN_RATIO
        print(f"{way}: {ratio:.3f} of the rate without, median of the rounds (at least {MIN_RATIO})")
    if not is_met:
        sys.exit(1)


async def run(events: int, rounds: int, workers: int, nodes: int) -> list[Round]:
    """Measure on a new server with a new database."""
    with tempfile.TemporaryDirectory(prefix="sluice-loadtest-") as directory:
        async with running_database(Path(directory) / "data", nodes) as database:
            env = {"SLUICE_MONGODB_URL": database.url}
            async with serving(Path(directory) / "serve.log", env, "--workers", str(workers)) as server:
                with connected(database.url) as mongo:
                    site = Site(env, mongo, server, await create_key(env, "client"))
                    await rate(site)  # warms it up
                    found = [await measure(site, way, number, events) for number in range(rounds) for way in WAYS]
                    say("looking for what is left of the deleted tenants")
                    check_nothing_left(site, [each.tenant for each in found if each.way == "deletion"])
                    return found


@contextmanager
def connected(url: str) -> Iterator[Mongo]:
    """A client of the database."""
    with pymongo.MongoClient[dict[str, Any]](url, uuidRepresentation="standard") as mongo:
        yield mongo


async def measure(site: Site, way: str, number: int, events: int) -> Round:
    """One round. Raises ClickException if the command fails."""
    name = f"{way}-{number}"
    tenant = Tenant(name, UUID((await create_key(site.env, name)).tenant_id))
    say(f"{name}: storing {events:,} old events")
    await asyncio.to_thread(store, site.mongo, tenant.id, events)
    without = [await rate(site) for _ in range(WINDOWS_WITHOUT)]
    arguments = ("set-retention", name, RETENTION_DAYS) if way == "retention" else ("delete", name, "--yes")
    process = await asyncio.create_subprocess_exec(
        *SLUICE, "tenants", *arguments, env={**os.environ, **site.env}, stdout=asyncio.subprocess.DEVNULL
    )
    first = oldest(site.mongo, tenant.id)
    while oldest(site.mongo, tenant.id) == first:
        await asyncio.sleep(STEP_S)
    began, during, ended = time.monotonic(), list[float](), asyncio.Event()
    watching = asyncio.create_task(watch_end(site.mongo, tenant, events, ended))
    while not ended.is_set():
        measured = await rate(site)
        if not ended.is_set() or not during:
            during.append(measured)
    took_s = await watching - began
    if await process.wait():
        raise click.ClickException(f"sluice tenants {arguments[0]} failed")
    return Round(way, tenant, without, during, events / took_s)


async def rate(site: Site) -> float:
    """The events/s that the client stores."""
    job = Job(
        driven="rest",
        url=site.server.url,
        database="sluice",
        tenant_id=UUID(site.client.tenant_id),
        keys=[site.client.secret],
        batch_size=BATCH_SIZE,
        connections=CONNECTIONS,
        window=1,
        seconds=WINDOW_S,
        requests_per_s=0,
        seed=1,
    )
    result = await driving.run(job)
    return result.acknowledged / (result.ended_s - result.started_s)


def store(mongo: Mongo, tenant_id: UUID, count: int) -> None:
    """Store events as if they had been received long ago."""
    random = Random(1)
    events = [Event(each["type"], each["data"], metadata=each["metadata"]) for each in make_events(random, BATCH_SIZE)]
    first_ms = int(time.time() * 1_000) - AGE_MS
    for number in range(count // BATCH_SIZE):
        info = BatchInfo(tenant_id, "backend", None, first_ms + number)
        ids = new_ids(info.received_at_ms, BATCH_SIZE).binary
        documents = EncodedDocuments(b"".join(encode(info, ids, events, [None] * BATCH_SIZE)))
        mongo.sluice.command({"insert": "events", "documents": [documents], "ordered": False})


async def watch_end(mongo: Mongo, tenant: Tenant, events: int, ended: asyncio.Event) -> float:
    """Set `ended` when all events were removed, or the tenant itself. Returns that moment."""
    while (found := mongo.sluice.tenants.find_one({"_id": tenant.name})) is not None:
        if found.get("retention", {}).get("removed", 0) >= events:
            break
        await asyncio.sleep(STEP_S)
    ended.set()
    return time.monotonic()


def oldest(mongo: Mongo, tenant_id: UUID) -> Any:
    """The `_id` of the oldest event of a tenant; None if it has none."""
    query = {"_id": range_of(tenant_id)}
    found = mongo.sluice.events.find_one(query, {"_id": 1}, sort=[("_id", 1)], hint=[("_id", 1)])
    return found and found["_id"]


def range_of(tenant_id: UUID) -> dict[str, Any]:
    """The range of `_id` of all events of a tenant."""
    tenant = Binary.from_uuid(tenant_id)
    return {"$gte": {"tenant_id": tenant, "id": MinKey()}, "$lt": {"tenant_id": tenant, "id": MaxKey()}}


def check_nothing_left(site: Site, deleted: list[Tenant]) -> None:
    """Raises ClickException if a collection has the id or the name of a deleted tenant anywhere.

    The events that the load test has sent are left out: they are millions.
    """
    sent, database = range_of(UUID(site.client.tenant_id)), site.mongo.sluice
    others = [{"_id": {"$lt": sent["$gte"]}}, {"_id": {"$gt": sent["$lt"]}}]
    traces = [trace for name, own in deleted for trace in (own.bytes, str(own).encode(), name.encode())]
    for each in database.list_collections():
        texts: Iterable[bytes] = [str(each).encode()]
        if each["type"] == "collection" and each["name"] != "system.views":  # which are the views, once more
            queries = others if each["name"] == "events" else [{}]
            batches = [database[each["name"]].find_raw_batches(query) for query in queries]
            texts = chain(texts, *cast("list[Iterable[bytes]]", batches))
        if any(trace in text for text in texts for trace in traces):
            raise click.ClickException(f"something of a deleted tenant is left in {each['name']}")


if __name__ == "__main__":
    main()
