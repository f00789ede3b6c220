"""Compares a server with metrics and one without: `python -m loadtests.metrics` (`--help`).

Both run at the same time on one database, and one client process sends to one of them after the other. What comes first
changes from round to round. The rate depends on the database and on what else the machine does. The CPU time of the
workers for a request shows what counting costs with less noise.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import click

from loadtests.benchmark.driving import ready_generator, result_of, wait_until_ready
from loadtests.benchmark.jobs import Driven, Job
from loadtests.benchmark.table import print_table
from loadtests.support.databases import running_database
from loadtests.support.processes import Key, Server, cpu_s, create_key, serving


class Load(NamedTuple):
    """What is sent, and how much more it may cost with metrics than without."""

    name: str
    driven: Driven
    batch_size: int
    connections: int
    max_cost: float


LOADS = (
    Load("REST, 1,000 a batch", "rest", 1_000, 4, 0.01),
    Load("REST, single events", "rest", 1, 64, 0.03),
    Load("gRPC, single events", "grpc", 1, 8, 0.03),
)


class Rate(NamedTuple):
    """What was measured of one server in one round."""

    events_per_s: float
    cpu_us: float
    """CPU time of the workers for a request, in microseconds."""


@click.command(help=__doc__)
@click.option("--rounds", default=15, show_default=True, help="Of each load.")
@click.option("--seconds", default=2.0, show_default=True, help="Of one server in one round.")
@click.option("--workers", default=1, show_default=True, help="Of each server.")
def main(rounds: int, seconds: float, workers: int) -> None:
    """Send each load to both servers in turn, and print the medians."""
    rows, failed = asyncio.run(run(rounds, seconds, workers))
    print_table([["", "off, events/s", "on, events/s", "rate", "off, CPU µs", "on, CPU µs", "CPU", "allowed"], *rows])
    sys.exit(failed)


async def run(rounds: int, seconds: float, workers: int) -> tuple[list[list[str]], bool]:
    """Start both servers and measure them. Returns the rows of the table, and whether any load costs too much."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-loadtest-")))
        database = await stack.enter_async_context(running_database(directory / "data", 1))
        env = {"SLUICE_MONGODB_URL": database.url}
        options = ["--workers", str(workers)]
        off = await stack.enter_async_context(serving(directory / "off.log", env, *options))
        on = await stack.enter_async_context(serving(directory / "on.log", env, *options, "--metrics-port", "0"))
        key = await create_key(env, "metrics")
        rows, failed = list[list[str]](), False
        for load in LOADS:
            pairs = [await measure_both(load, number, off, on, key, seconds) for number in range(rounds + 1)]
            row, costs_too_much = judged(load, pairs[1:])  # the first round warms up
            rows.append(row)
            failed = failed or costs_too_much
        return rows, failed


async def measure_both(load: Load, number: int, off: Server, on: Server, key: Key, seconds: float) -> tuple[Rate, Rate]:
    """Measure both servers in one round: without metrics, and with."""
    order = [off, on] if number % 2 else [on, off]
    rates = {server.pid: await measure(load, number, server, key, seconds) for server in order}
    return rates[off.pid], rates[on.pid]


async def measure(load: Load, number: int, server: Server, key: Key, seconds: float) -> Rate:
    """Send a load to one server."""
    job = Job(
        driven=load.driven,
        url=server.url if load.driven == "rest" else server.grpc,
        database="",
        tenant_id=UUID(key.tenant_id),
        keys=[key.secret],
        batch_size=load.batch_size,
        connections=load.connections,
        window=8,
        seconds=seconds,
        requests_per_s=0,
        seed=number,
    )
    async with ready_generator(job) as generator:
        await wait_until_ready(generator)
        cpu_before_s = cpu_s(server.worker_pids)
        result = await result_of(generator)
        used_s = cpu_s(server.worker_pids) - cpu_before_s
    if result.rejections:
        raise click.ClickException(f"a request was rejected: {result.rejections[0]}")
    requests = result.acknowledged / load.batch_size
    return Rate(result.acknowledged / (result.ended_s - result.started_s), used_s / requests * 1_000_000)


def judged(load: Load, pairs: Sequence[tuple[Rate, Rate]]) -> tuple[list[str], bool]:
    """The row of a load, and whether it costs more than allowed. Ratios are medians over the rounds."""
    rate = statistics.median(on.events_per_s / off.events_per_s for off, on in pairs)
    cpu = statistics.median(on.cpu_us / off.cpu_us for off, on in pairs)
    medians = [
        f"{statistics.median(getattr(pair[side], field) for pair in pairs):,.0f}"
        for field in Rate._fields
        for side in (0, 1)
    ]
    row = [load.name, *medians[:2], f"{rate - 1:+.1%}", *medians[2:], f"{cpu - 1:+.1%}", f"-{load.max_cost:.0%}"]
    return row, rate < 1 - load.max_cost


if __name__ == "__main__":
    main()
