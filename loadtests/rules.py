"""Measures what a round of rules costs, and what it costs ingestion: `python -m loadtests.rules` (`--help`).

A tenant has events of 10 types, which were received in the last 15 minutes, and 10 rules on each type: two of each type
of rule. First, two rounds are measured: CPU time of the database and of the server, from the moment at which the rules
can be evaluated until all results are stored. The first round also counts all events by minute. With an interval of 15
minutes each round has to, since all of its events are new.

Then another tenant sends batches of 1,000 at half of the rate that the machine can take, in turns with rules and with
all rules disabled. The interval is a minute, so rounds are 15 times as frequent as by default.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import click
import httpx
import pymongo

from loadtests.benchmark import driving
from loadtests.benchmark.jobs import Job, Result
from loadtests.benchmark.table import print_table
from loadtests.support.databases import Database, running_database
from loadtests.support.payloads import Json
from loadtests.support.processes import Key, Server, cpu_s, create_key, serving
from loadtests.support.progress import say
from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo, Event
from server.core.rules.windows import COMPLETE_AFTER_MS
from server.core.times import from_milliseconds
from storage.commands import EncodedDocuments
from storage.documents import encode

TYPES = [f"type_{number}" for number in range(10)]
RULES_PATH = "/api/v1/rules"

SPAN_MS = 15 * 60 * 1_000
"""The events were received in this time."""

WINDOW = {"window_minutes": 60}
"""It has all events, until the end of the measurement."""

INTERVAL_MS = 60 * 1_000

BATCH_SIZE, CONNECTIONS = 1_000, 8

CAPACITY_S = 8.0
"""How long the rate is measured that the machine can take."""

STEP_S = 0.2
"""How often it is looked whether a round has ended."""

ROUND_TIMEOUT_S = 300

MAX_ROUND_S, MIN_RATIO = 30.0, 0.95
"""CPU time of a round, and the least rate of ingestion with rules, as a share of the rate without."""

Mongo = pymongo.MongoClient[dict[str, Any]]


class Site(NamedTuple):
    """What is measured."""

    mongo: Mongo
    database: Database
    server: Server
    rules: httpx.Client
    client: Key


class Round(NamedTuple):
    """The cost of a round, in seconds."""

    database_cpu: float
    server_cpu: float
    elapsed: float


class Turn(NamedTuple):
    """Ingestion in one turn."""

    events_per_s: float
    p50_ms: float
    p99_ms: float


@click.command(help=__doc__)
@click.option("--events", default=2_000_000, show_default=True, help="Events in the window.")
@click.option("--turns", default=3, show_default=True, help="Of ingestion, with rules and without.")
@click.option("--seconds", default=60.0, show_default=True, help="Of each turn.")
@click.option("--workers", default=2, show_default=True, help="Workers of the server.")
def main(events: int, turns: int, seconds: float, workers: int) -> None:
    """Measure, and print the costs."""
    rounds, with_rules, without = asyncio.run(run(events, turns, seconds, workers))
    rows = [["round", "database, CPU s", "server, CPU s", "took, s"]]
    for number, each in enumerate(rounds, 1):
        rows.append([str(number), *(f"{value:.1f}" for value in each)])
    print_table(rows)
    rows = [["ingestion at half load", "events/s", "p50, ms", "p99, ms"]]
    for name, measured in (("rules disabled", without), ("with rules", with_rules)):
        medians = [statistics.median(values) for values in zip(*measured, strict=True)]
        rows.append([name, f"{medians[0]:,.0f}", *(f"{value:.1f}" for value in medians[1:])])
    print_table(rows)
    costs = [each.database_cpu + each.server_cpu for each in rounds]
    ratio = statistics.median(on.events_per_s / off.events_per_s for on, off in zip(with_rules, without, strict=True))
    print(f"a round: {max(costs):.1f} s of CPU (at most {MAX_ROUND_S:.0f})")
    print(f"ingestion with rules: {ratio:.3f} of the rate without (at least {MIN_RATIO})")
    sys.exit(max(costs) > MAX_ROUND_S or ratio < MIN_RATIO)


async def run(events: int, turns: int, seconds: float, workers: int) -> tuple[list[Round], list[Turn], list[Turn]]:
    """Measure on a new server with a new database. Returns two rounds, and turns with rules and without."""
    with tempfile.TemporaryDirectory(prefix="sluice-loadtest-") as directory:
        async with running_database(Path(directory) / "data", 1) as database:
            env = {"SLUICE_MONGODB_URL": database.url}
            options = ("--workers", str(workers), "--rules-interval", "1m")
            async with serving(Path(directory) / "serve.log", env, *options) as server:
                monitored, client = await create_key(env, "monitored"), await create_key(env, "client")
                with (
                    pymongo.MongoClient[dict[str, Any]](database.url, uuidRepresentation="standard") as mongo,
                    httpx.Client(base_url=server.url, headers={"X-API-Key": monitored.secret}) as rules,
                ):
                    site = Site(mongo, database, server, rules, client)
                    say(f"storing {events:,} events")
                    await asyncio.to_thread(store, mongo, UUID(monitored.tenant_id), events)
                    rounds = [await measure_round(site, number) for number in (1, 2)]
                    return rounds, *(await measure_ingestion(site, turns, seconds))


async def measure_round(site: Site, number: int) -> Round:
    """The cost of a round. The first makes the rules."""
    due_ms = now_ms() + COMPLETE_AFTER_MS // 2  # so that there is time before it begins
    due_ms += -due_ms % INTERVAL_MS
    if number == 1:
        for body in rules_of_all_types():
            site.rules.post(RULES_PATH, json=body).raise_for_status()
    say(f"round {number} begins in {(due_ms + COMPLETE_AFTER_MS - now_ms()) / 1_000:.0f} s")
    await asyncio.sleep((due_ms + COMPLETE_AFTER_MS - now_ms()) / 1_000)
    pids = (site.database.pids, [site.server.pid, *site.server.worker_pids])
    before, began = [cpu_s(each) for each in pids], time.monotonic()
    async with asyncio.timeout(ROUND_TIMEOUT_S):
        while site.mongo.sluice.rules.count_documents({"evaluated_until": {"$lt": from_milliseconds(due_ms)}}):
            await asyncio.sleep(STEP_S)
    took_s = time.monotonic() - began
    database_cpu, server_cpu = (cpu_s(each) - earlier for each, earlier in zip(pids, before, strict=True))
    return Round(database_cpu, server_cpu, took_s)


async def measure_ingestion(site: Site, turns: int, seconds: float) -> tuple[list[Turn], list[Turn]]:
    """Ingestion at half load, with rules and without, in turns."""
    enable(site, False)
    capacity = rate_of(await send(site, CAPACITY_S, 0))
    with_rules, without = list[Turn](), list[Turn]()
    for number in range(turns):
        for is_on in (False, True) if number % 2 else (True, False):
            enable(site, is_on)
            say(f"ingestion {'with rules' if is_on else 'without rules'}, at {capacity / 2:,.0f} events/s")
            turn = turn_of(await send(site, seconds, capacity / 2 / BATCH_SIZE))
            (with_rules if is_on else without).append(turn)
    return with_rules, without


def enable(site: Site, is_on: bool) -> None:
    """Enable or disable all rules."""
    for rule in site.rules.get(RULES_PATH).raise_for_status().json():
        site.rules.patch(f"{RULES_PATH}/{rule['id']}", json={"enabled": is_on}).raise_for_status()


async def send(site: Site, seconds: float, requests_per_s: float) -> Result:
    """Send batches for some time: as fast as they are acknowledged if `requests_per_s` is 0."""
    job = Job(
        driven="rest",
        url=site.server.url,
        database="sluice",
        tenant_id=UUID(site.client.tenant_id),
        keys=[site.client.secret],
        batch_size=BATCH_SIZE,
        connections=CONNECTIONS,
        window=1,
        seconds=seconds,
        requests_per_s=requests_per_s,
        seed=1,
    )
    return await driving.run(job)


def rate_of(result: Result) -> float:
    """Events/s."""
    return result.acknowledged / (result.ended_s - result.started_s)


def turn_of(result: Result) -> Turn:
    """What was measured in a turn."""
    percentiles = statistics.quantiles(result.latencies_s, n=100)
    return Turn(rate_of(result), percentiles[49] * 1_000, percentiles[98] * 1_000)


def rules_of_all_types() -> Iterator[Json]:
    """Two rules of each type for each event type."""
    fields = {
        "amount": "number",
        "currency": "string",
        "user.id": "integer",
        "user.country": "string",
        "user.email": "string",
        "items": "array",
        "items.sku": "string",
        "items.quantity": "integer",
        "session": "string",
        "returning": "boolean",
    }
    for event_type in TYPES:
        windowed = {"event_type": event_type, **WINDOW}
        compared = {"event_type": event_type, "current_window_minutes": 60, "comparison_window_hours": 24}
        configs = [
            ("threshold", {**windowed, "field": "amount", "aggregate": "avg", "operator": ">", "value": 1_000}),
            ("threshold", {**windowed, "field": "items.quantity", "aggregate": "max", "operator": ">", "value": 100}),
            ("missing_field", {**windowed, "required_fields": ["amount", "currency", "user.id", "items.sku"]}),
            ("missing_field", {**windowed, "required_fields": ["session", "returning"], "source": "source_1"}),
            ("volume", {**compared, "threshold_percent": -50}),
            ("volume", {**compared, "threshold_percent": 200, "source": "source_2"}),
            ("freshness", {"event_type": event_type, "max_age_minutes": 60}),
            ("freshness", {"event_type": event_type, "max_age_minutes": 60, "source": "source_3"}),
            ("schema", {**windowed, "fields": fields, "allow_unknown": False}),
            ("schema", {**windowed, "fields": {"amount": ["number", "null"], "user.id": "integer"}}),
        ]
        for number, (rule_type, config) in enumerate(configs):
            yield {"name": f"{event_type} {number}", "rule_type": rule_type, "config": config}


def store(mongo: Mongo, tenant_id: UUID, count: int) -> None:
    """Store events as if they had been received in the last minutes, from four sources. One in 100 lacks a field."""
    random = Random(1)
    end_ms = now_ms()
    for number in range(count // BATCH_SIZE):
        received_at_ms = end_ms - SPAN_MS + number * SPAN_MS * BATCH_SIZE // count
        info = BatchInfo(tenant_id, f"source_{number % 4}", None, received_at_ms)
        events = [make_event(random) for _ in range(BATCH_SIZE)]
        documents = encode(info, new_ids(received_at_ms, BATCH_SIZE).binary, events, [None] * BATCH_SIZE)
        mongo.sluice.command(
            {"insert": "events", "documents": [EncodedDocuments(b"".join(documents))], "ordered": False}
        )


def make_event(random: Random) -> Event:
    """An event of some 380 bytes with nested objects and an array."""
    number = random.randrange(10**6)
    data = {
        "amount": random.random() * 100,
        "currency": random.choice(("USD", "EUR")),
        "user": {"id": number, "country": "DE", "email": f"user{number}@example.com"},
        "items": [{"sku": f"sku-{random.randrange(100)}", "quantity": random.randrange(5)} for _ in range(2)],
        "session": f"{random.getrandbits(128):032x}",
        "returning": True,
    }
    if random.random() < 0.01:
        del data[random.choice(list(data))]
    return Event(random.choice(TYPES), data)


def now_ms() -> int:
    """The time, in milliseconds since 1970."""
    return int(time.time() * 1_000)


if __name__ == "__main__":
    main()
