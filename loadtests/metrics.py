"""Compares servers with metrics and servers without: `python -m loadtests.metrics` (`--help`).

Two servers of each kind run at the same time on one database, since two processes of the same kind differ by some
percent. One client process sends to one of them at a time, in an order that changes from round to round. The rate
depends on the database and on what else the machine does. The CPU time of the workers for a request shows what counting
costs with less noise. How far the two servers without metrics are apart says how exact the figures are.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from operator import attrgetter
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


class Round(NamedTuple):
    """What was measured in one round: of two servers without metrics, and of two with."""

    off: tuple[Rate, Rate]
    on: tuple[Rate, Rate]

    def cost(self, field: str) -> float:
        """The mean with metrics as a share of that without."""
        return float(sum(getattr(rate, field) for rate in self.on) / sum(getattr(rate, field) for rate in self.off))

    def noise(self, field: str) -> float:
        """One server without metrics as a share of the other."""
        return float(getattr(self.off[1], field) / getattr(self.off[0], field))


@click.command(help=__doc__)
@click.option("--rounds", default=12, show_default=True, help="Of each load.")
@click.option("--seconds", default=1.0, show_default=True, help="Of one server in one round.")
@click.option("--workers", default=1, show_default=True, help="Of each server.")
def main(rounds: int, seconds: float, workers: int) -> None:
    """Send each load to all servers in turn, and print the medians."""
    rows, failed = asyncio.run(run(rounds, seconds, workers))
    print_table([["", "off, events/s", "on", "cost", "noise", "off, CPU µs", "on", "cost", "noise", "allowed"], *rows])
    sys.exit(failed)


async def run(rounds: int, seconds: float, workers: int) -> tuple[list[list[str]], bool]:
    """Start the servers and measure them. Returns the rows of the table, and whether any load costs too much."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-loadtest-")))
        database = await stack.enter_async_context(running_database(directory / "data", 1))
        env, options = {"SLUICE_MONGODB_URL": database.url}, ["--workers", str(workers)]
        servers = [
            await stack.enter_async_context(serving(directory / f"{number}.log", env, *options, *metrics))
            for number, metrics in enumerate(([], ["--metrics-port", "0"], ["--metrics-port", "0"], []))
        ]
        key = await create_key(env, "metrics")
        rows, failed = list[list[str]](), False
        for load in LOADS:
            measured = [await measure_all(load, number, servers, key, seconds) for number in range(rounds + 1)]
            row, costs_too_much = judged(load, measured[1:])  # the first round warms up
            rows.append(row)
            failed = failed or costs_too_much
        return rows, failed


async def measure_all(load: Load, number: int, servers: Sequence[Server], key: Key, seconds: float) -> Round:
    """Measure all servers in one round. The first and the last have no metrics."""
    order = [*servers[number % 4 :], *servers[: number % 4]]
    rates = {server.pid: await measure(load, number, server, key, seconds) for server in order}
    first, second, third, fourth = (rates[server.pid] for server in servers)
    return Round(off=(first, fourth), on=(second, third))


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


off_of, on_of = attrgetter("off"), attrgetter("on")


def judged(load: Load, rounds: Sequence[Round]) -> tuple[list[str], bool]:
    """The row of a load, and whether it costs more than allowed and than the noise. Ratios are medians over rounds."""
    row = [load.name]
    for field in Rate._fields:
        sides = ([getattr(rate, field) for r in rounds for rate in side(r)] for side in (off_of, on_of))
        row += [f"{statistics.median(rates):,.0f}" for rates in sides]
        ratios = ([r.cost(field) for r in rounds], [r.noise(field) for r in rounds])
        row += [f"{statistics.median(each) - 1:+.1%}" for each in ratios]
    cost = 1 - statistics.median(r.cost("events_per_s") for r in rounds)
    noise = abs(1 - statistics.median(r.noise("events_per_s") for r in rounds))
    return [*row, f"-{load.max_cost:.0%}"], cost > load.max_cost + noise


if __name__ == "__main__":
    main()
