"""How fast Sluice takes in events, next to what its MongoDB could take: `python -m loadtests.benchmark` (`--help`).

One command on one machine. It starts an embedded `mongod` in a temporary directory (TMPDIR says where: on a disk, for
the journal's sake), a `sluice serve` for each scenario on top of it, and generator processes that drive them. The
scenarios take turns, round after round, so that whatever else the machine does falls on all of them alike. Each writes
to a database of its own, and as many events a round as others of its batch size, so that collections grow alike.

The ceiling is `insert_many` of the same documents, ready-made as BSON, with the same indexes and the same guarantee
(a majority, journaled), without a server.

The table goes to stdout, progress to stderr, all figures as JSON to `loadtests/reports/`. Exit status 1 where a request
was refused, or where what is stored is not exactly what was acknowledged.
"""

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import click
import msgspec

from loadtests.figures import Figures, Run, Usage, figures_of, print_table, run_of, write_report
from loadtests.generator import Job, Result
from loadtests.processes import cpu_s, create_key, machine_cpu_s, resident_mib, serving
from server.core.events import MAX_EVENTS
from storage.client import Client, check_deployment, close, connect, database
from storage.embedded import EmbeddedMongod
from storage.indexes import EVENTS, ensure_indexes

GENERATORS = 2
"""Generator processes: with one, its own interpreter could be what is measured."""

CONNECTIONS = 4
"""Connections of each generator, one request under way on each: enough to keep two workers busy, and MongoDB too."""

WARM_UP_BATCHES = 40
"""Sent once before the first round, and not measured: connections open and caches fill."""

MAX_RESULT_BYTES = 2**26
"""A generator's result is one line, with a latency for each request."""


BATCH_SIZES = (1_000, 1)

FACES: dict[Literal["rest", "grpc"], str] = {"rest": "REST", "grpc": "gRPC stream"}

SMALL_BATCHES = 10
"""Small batches are so many times as many as large ones, and no more: a turn should take seconds."""


class Scenario(NamedTuple):
    """One line of the table: what is driven, and how. `workers` is 0 where there is no server."""

    name: str
    target: Literal["mongodb", "rest", "grpc"]
    workers: int
    batch_size: int


def scenarios(workers: Iterable[int]) -> list[Scenario]:
    """What is compared. The first is the ceiling."""
    return [
        Scenario("ceiling: insert_many of BSON", "mongodb", 0, 1_000),
        *(
            Scenario(f"{name}, batches of {size:,}, {count} worker{'s' * (count > 1)}", target, count, size)
            for size in BATCH_SIZES
            for target, name in FACES.items()
            for count in workers
        ),
    ]


def requests_of(scenario: Scenario, batches: int) -> int:
    """How many requests a turn of a scenario takes, where one of 1,000-event batches takes `batches`."""
    return min(batches * MAX_EVENTS // scenario.batch_size, batches * SMALL_BATCHES)


class Target(NamedTuple):
    """A scenario that is ready to be driven, and whose CPU time is to be watched meanwhile."""

    scenario: Scenario
    database: str
    url: str
    key: str = ""
    worker_pids: tuple[int, ...] = ()


class Benchmark:
    """The scenarios, the one `mongod` under all of them, and what was measured so far."""

    def __init__(self, mongod: EmbeddedMongod, client: Client, targets: Sequence[Target], batches: int) -> None:
        self._mongod = mongod
        self._client = client
        self._targets = targets
        self._batches = batches
        self._acknowledged = dict.fromkeys(targets, 0)
        self._runs: dict[Target, list[Run]] = {target: [] for target in targets}

    async def measure(self, rounds: int) -> None:
        """Warm up, then let the scenarios take turns."""
        for target in self._targets:
            say(f"warming up: {target.scenario.name}")
            await self._run(target, WARM_UP_BATCHES, seed=0)
        for number in range(rounds):
            first = number % len(self._targets)  # a turn is not always behind the same other one
            for target in (*self._targets[first:], *self._targets[:first]):
                run = await self._run(target, self._batches, seed=number + 1)
                self._runs[target].append(run)
                say(f"round {number + 1} of {rounds}: {target.scenario.name}: {run.events_per_s:,.0f} events/s")

    async def figures(self) -> list[Figures]:
        """The outcome of every scenario, with what its database really holds."""
        return [
            figures_of(
                target.scenario.name,
                self._runs[target],
                self._runs[self._targets[0]],
                workers_mib=resident_mib(target.worker_pids),
                mongod_mib=resident_mib([self._mongod.pid]),
                acknowledged=self._acknowledged[target],
                stored=await database(self._client, target.database)[EVENTS].count_documents({}),
            )
            for target in self._targets
        ]

    async def _run(self, target: Target, batches: int, seed: int) -> Run:
        requests = requests_of(target.scenario, batches)
        await self._client.admin.command("fsync")  # no scenario pays for the checkpoint of the one before
        jobs = [job_of(target, requests // GENERATORS, seed * GENERATORS + index) for index in range(GENERATORS)]
        async with AsyncExitStack() as stack:
            generators = [await stack.enter_async_context(ready_generator(job)) for job in jobs]
            before = self._usage(target)
            results = await asyncio.gather(*(result_of(generator) for generator in generators))
            run = run_of(results, before, self._usage(target))
        for refusal in chain.from_iterable(result.refusals for result in results):
            raise click.ClickException(f"{target.scenario.name}: a request was refused: {refusal}")
        self._acknowledged[target] += run.acknowledged
        return run

    def _usage(self, target: Target) -> Usage:
        return Usage(cpu_s(target.worker_pids), cpu_s([self._mongod.pid]), machine_cpu_s())


def job_of(target: Target, batches: int, seed: int) -> Job:
    """What one generator has to do."""
    return Job(
        target=target.scenario.target,
        url=target.url,
        database=target.database,
        key=target.key,
        batch_size=target.scenario.batch_size,
        batches=batches,
        connections=CONNECTIONS,
        seed=seed,
    )


@asynccontextmanager
async def ready_generator(job: Job) -> AsyncIterator[asyncio.subprocess.Process]:
    """A generator that has made all it needs and waits for the word to begin."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.generator"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MAX_RESULT_BYTES,
    )
    try:
        await told(process, msgspec.json.encode(job))
        yield process
        await process.wait()  # its result is its last word
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def result_of(generator: asyncio.subprocess.Process) -> Result:
    """Let a generator begin, and wait for what comes of it."""
    return msgspec.json.decode(await told(generator, b"go"), type=Result)


async def told(generator: asyncio.subprocess.Process, line: bytes) -> bytes:
    """What a generator answers to a line."""
    assert generator.stdin is not None
    assert generator.stdout is not None
    generator.stdin.write(line + b"\n")
    answer = await generator.stdout.readline()
    if not answer:
        raise click.ClickException("a generator failed: the lines above say why")
    return answer


@asynccontextmanager
async def started(
    scenario: Scenario, name: str, mongodb_url: str, client: Client, driver: str, log: Path
) -> AsyncIterator[Target]:
    """The scenario on the database `name`, with its server if it has one."""
    say(f"starting: {scenario.name}")
    if scenario.target == "mongodb":
        await ensure_indexes(database(client, name))
        yield Target(scenario, name, mongodb_url)
        return
    env = {"SLUICE_MONGODB_URL": mongodb_url, "SLUICE_DATABASE": name, "SLUICE_DRIVER": driver}
    async with serving(log, env, "--workers", str(scenario.workers)) as server:
        key = await create_key(env, "benchmark")
        url = server.url if scenario.target == "rest" else server.grpc
        yield Target(scenario, name, url, key.secret, tuple(server.worker_pids))


async def run(rounds: int, batches: int, driver: str, workers: Sequence[int]) -> bool:
    """Measure, print and report. Returns whether exactly what was acknowledged is stored."""
    with tempfile.TemporaryDirectory(prefix="sluice-benchmark-") as directory:
        async with AsyncExitStack() as stack:
            mongod = await EmbeddedMongod.start(Path(directory, "data"))
            stack.push_async_callback(mongod.stop)
            client = connect(mongod.url, "pymongo")
            stack.push_async_callback(close, client)
            version = await check_deployment(client)
            targets = [
                await stack.enter_async_context(
                    started(scenario, f"benchmark_{index}", mongod.url, client, driver, Path(directory, f"{index}.log"))
                )
                for index, scenario in enumerate(scenarios(workers))
            ]
            benchmark = Benchmark(mongod, client, targets, batches)
            await benchmark.measure(rounds)
            figures = await benchmark.figures()
    print_table(figures)
    say(f"all figures: {write_report(figures, mongodb=version, driver=driver, rounds=rounds, batches=batches)}")
    return is_sound(figures)


def is_sound(figures: Iterable[Figures]) -> bool:
    """Whether nothing that was acknowledged is lost, and nothing is stored twice. Says so."""
    wrong = [line for line in figures if line.stored != line.acknowledged]
    for line in wrong:
        say(f"{line.name}: {line.acknowledged:,} events were acknowledged, {line.stored:,} are stored")
    if not wrong:
        print(f"{sum(line.stored for line in figures):,} events are stored, just as many as were acknowledged")
    return not wrong


def say(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


async def run_until_terminated(rounds: int, batches: int, driver: str, workers: Sequence[int]) -> bool:
    """Run; on SIGTERM too, end what was started."""
    running = asyncio.ensure_future(run(rounds, batches, driver, workers))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        raise click.Abort from None


def worker_counts(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """The numbers in a list such as 1,2."""
    return [int(click.IntRange(1)(count, parameter, context)) for count in text.split(",")]


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns of each scenario.")
@click.option("--batches", type=click.IntRange(GENERATORS), default=400, show_default=True, help="Requests a turn.")
@click.option("--driver", type=click.Choice(["motor", "pymongo"]), default="motor", show_default=True)
@click.option("--workers", callback=worker_counts, default="1,2", show_default=True, help="Servers to compare.")
def main(rounds: int, batches: int, driver: str, workers: list[int]) -> None:
    """Measure how fast Sluice takes in events, next to what its MongoDB could take."""
    if not asyncio.run(run_until_terminated(rounds, batches, driver, workers)):
        sys.exit(1)


if __name__ == "__main__":
    main()
