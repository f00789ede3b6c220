"""Measures how fast Sluice takes in events, next to what its MongoDB could take: `python -m loadtests.benchmark`.

It starts a `mongod`, or three as a replica set, in a temporary directory, every `sluice serve` that is compared, and
generator processes that drive them. TMPDIR should be on a disk, because journal writes are part of what is measured.
The scenarios take turns, round after round, so that whatever slows the machine down affects all of them alike.

`--compare` chooses the scenarios:

* apis (the default): both APIs at several batch sizes and worker counts, next to the ceiling and to plain MongoDB. The
  ceiling is the cheapest insert of the server's own documents into the server's own layout. Plain MongoDB is what
  people build by hand: `insert_many` into a usual collection with an index. Both insert BSON made in advance, with the
  same guarantee (a majority and its journal).
* limiter: keys with and without a rate limit. In all other comparisons keys have one that is never reached.
* latency: a single event on an idle server, and on one at half of its highest rate.
* drivers: the two MongoDB drivers.
* checkout: the server of this checkout and that of `--against`, such as the commit before a change.

The tables go to stdout, progress to stderr, and all figures as JSON and as a page to `loadtests/reports/`. The exit
status is 1 if a request was rejected, or if what is stored is not exactly what was acknowledged.
"""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import click

from loadtests.benchmark.comparisons import COMPARISONS, Choices
from loadtests.benchmark.figures import Answer, Figures
from loadtests.benchmark.page import page
from loadtests.benchmark.scenarios import BATCH_SIZES
from loadtests.benchmark.table import print_results
from loadtests.benchmark.targets import Targets
from loadtests.benchmark.turns import Turns, say
from loadtests.support import reports
from loadtests.support.databases import nodes_option, running_database
from storage.client import close, connect
from storage.start import check_at_start


class Options(NamedTuple):
    """The values of the command line's options."""

    compare: str
    rounds: int
    seconds: float
    driver: str
    workers: Sequence[int]
    batch_sizes: Sequence[int]
    against: Path | None
    nodes: int


async def run(options: Options) -> bool:
    """Measure, print and write the reports. Returns whether exactly what was acknowledged is stored."""
    comparison = COMPARISONS[options.compare](Choices(options.workers, options.batch_sizes, options.against))
    with tempfile.TemporaryDirectory(prefix="sluice-benchmark-") as directory:
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(running_database(Path(directory, "data"), options.nodes))
            client = connect(database.url, "pymongo")
            stack.push_async_callback(close, client)
            version = await check_at_start(client)
            say("starting servers")
            starter = Targets(stack, database.url, client, options.driver, Path(directory))
            targets = [await starter.start(scenario, number) for number, scenario in enumerate(comparison.scenarios)]
            turns = Turns(database.pids, client, targets, options.seconds)
            await turns.measure(options.rounds)
            figures = await turns.figures()
            answers = turns.answers(comparison.questions)
    print_results(figures, answers)
    say(f"charts and all figures: {write_reports(figures, answers, options, version)}")
    return is_sound(figures)


def write_reports(figures: Sequence[Figures], answers: Sequence[Answer], options: Options, mongodb: str) -> Path:
    """Write the page, and the figures as JSON beside it. Returns the path of the page."""
    path, provenance = reports.new_path("benchmark", ".html"), reports.provenance("benchmark")
    path.write_text(page(provenance, figures, answers))
    reports.write_json(
        path.with_suffix(".json"),
        {
            **provenance,
            "settings": {**options._asdict(), "against": options.against and str(options.against), "mongodb": mongodb},
            "answers": [answer._asdict() for answer in answers],
            "figures": [asdict(line) for line in figures],
        },
    )
    return path


def is_sound(figures: Iterable[Figures]) -> bool:
    """Whether each scenario has stored exactly as many events as were acknowledged. Prints the result."""
    wrong = [line for line in figures if line.stored != line.acknowledged]
    for line in wrong:
        say(f"{line.name}: {line.acknowledged:,} events were acknowledged, {line.stored:,} are stored")
    if not wrong:
        print(f"{sum(line.stored for line in figures):,} events are stored, exactly as many as were acknowledged")
    return not wrong


async def run_until_terminated(options: Options) -> bool:
    """Run. On SIGTERM, stop the processes that it started, and raise Abort."""
    running = asyncio.ensure_future(run(options))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        raise click.Abort from None


def worker_counts(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Parse a list of numbers such as 1,2."""
    return list(dict.fromkeys(int(click.IntRange(1)(count, parameter, context)) for count in text.split(",")))


def batch_sizes(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Parse a list of batch sizes such as 1000,1. Each must be one of `BATCH_SIZES`."""
    choice = click.Choice([str(size) for size in BATCH_SIZES])
    return list(dict.fromkeys(int(choice(size, parameter, context)) for size in text.split(",")))


def check_against(options: Options) -> None:
    """Raise UsageError unless `--against` names a checkout exactly if checkouts are compared."""
    if (options.compare == "checkout") != (options.against is not None):
        raise click.UsageError("--compare checkout and --against need each other")
    if options.against is not None and not (options.against / "server" / "__main__.py").is_file():
        raise click.UsageError(f"{options.against} is not a checkout of Sluice: it has no server/__main__.py")


@click.command()
@click.option("--compare", type=click.Choice(list(COMPARISONS)), default="apis", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns of each scenario.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=2, show_default=True, help="Of a turn.")
@click.option("--driver", type=click.Choice(["motor", "pymongo"]), default="motor", show_default=True)
@click.option(
    "--workers",
    callback=worker_counts,
    default="1,2",
    show_default=True,
    help="Of servers. apis uses all, checkout the fewest and the most, others the most.",
)
@click.option(
    "--batch-sizes",
    callback=batch_sizes,
    default=",".join(map(str, BATCH_SIZES)),
    show_default=True,
    help="For apis.",
)
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="For checkout: the directory of the other checkout.",
)
@nodes_option
def main(nodes: str, **arguments: Any) -> None:
    """Measure how fast Sluice takes in events, next to what its MongoDB could take."""
    options = Options(**arguments, nodes=int(nodes))
    check_against(options)
    if not asyncio.run(run_until_terminated(options)):
        sys.exit(1)


if __name__ == "__main__":
    main()
