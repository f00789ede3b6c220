"""What followers cost: ingestion with and without 500 followers of 50 tenants, interleaved, and the lag of events.

One tenant that nobody follows sends batches of 1,000 events as fast as they are acknowledged. Each followed tenant gets
an event a second, which 10 followers receive: 500 a second in all. Clients, server and database share the machine.
"""

import asyncio
import json
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.harness import Server, batch
from tests.support.mongod import Mongod
from tests.tailing.http import Connection

TENANTS = 50
FOLLOWERS = 500
ROUNDS = 5
ROUND_S = 8.0
CLIENTS = 4


def load(directory: Path) -> None:
    """Print the medians."""
    with (
        Mongod(directory / "mongod") as mongod,
        Server(directory / "server", "--workers", "2", "--mongodb-url", mongod.url) as server,
    ):
        secrets = [server.create_key(f"tenant-{number}", "--rate-limit", "0")["key"] for number in range(TENANTS)]
        other = server.create_key("other", "--rate-limit", "0")["key"]
        where = urlsplit(server.url)
        rates: dict[bool, list[float]] = {False: [], True: []}
        lags: list[float] = []
        for _ in range(ROUNDS):
            for followed in rates:
                with multiprocessing.get_context("spawn").Pool(2) as pool:
                    followers = pool.apply_async(run_followers, (where.hostname, where.port, secrets, followed))
                    rate = pool.apply(run_clients, (where.hostname, where.port, other))
                    rates[followed].append(rate)
                    lags += followers.get()
        without, within = (statistics.median(rates[followed]) for followed in (False, True))
        p99 = sorted(lags)[int(len(lags) * 0.99)]
        print(  # noqa: T201
            f"  {without:,.0f} events/s without followers, {within:,.0f} with {FOLLOWERS} of {TENANTS} tenants: "
            f"{within / without:.3f}\n  lag: median {statistics.median(lags) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms "
            f"of {len(lags)} events"
        )


def run_clients(host: str, port: int, secret: str) -> float:
    """Events a second that one tenant stores."""
    return asyncio.run(send_batches(host, port, secret))


async def send_batches(host: str, port: int, secret: str) -> float:
    body = json.dumps(batch(1_000)).encode()
    await asyncio.sleep(2)  # the followers connect
    started = time.monotonic()

    async def send() -> int:
        count = 0
        connection = await Connection.open(host, port, secret)
        while time.monotonic() < started + ROUND_S:
            assert await connection.post(body) == 201
            count += 1_000
        return count

    counts = await asyncio.gather(*(send() for _ in range(CLIENTS)))
    return sum(counts) / (time.monotonic() - started)


def run_followers(host: str, port: int, secrets: list[str], followed: bool) -> list[float]:
    """The seconds from sending an event to its arrival, for each follower and event. Without followers, none."""
    return asyncio.run(follow_all(host, port, secrets, followed))


async def follow_all(host: str, port: int, secrets: list[str], followed: bool) -> list[float]:
    lags: list[float] = []
    tasks: list[asyncio.Task[Any]] = []
    ends = time.monotonic() + 2 + ROUND_S

    async def follow(secret: str) -> None:
        connection = await Connection.open(host, port, secret)
        async for data in connection.follow():
            if data.startswith(b'{"id"'):
                lags.append(time.time() - json.loads(data)["data"]["sent_at"])  # noqa: PERF401 (as they come)

    async def send(secret: str, delay_s: float) -> None:
        connection = await Connection.open(host, port, secret)
        await asyncio.sleep(2 + delay_s)
        while time.monotonic() < ends:
            sent = {"source": "s", "events": [{"type": "t", "data": {"sent_at": time.time()}}]}
            assert await connection.post(json.dumps(sent).encode()) == 201
            await asyncio.sleep(1)

    if followed:
        tasks = [asyncio.create_task(follow(secrets[number % TENANTS])) for number in range(FOLLOWERS)]
    await asyncio.gather(*(send(secret, number / TENANTS) for number, secret in enumerate(secrets)))
    await asyncio.sleep(1)
    for task in tasks:
        assert not task.done(), task.exception()
        task.cancel()
    return lags
