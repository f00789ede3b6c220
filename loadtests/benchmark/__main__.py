"""How fast Sluice takes in events, next to what its MongoDB could take: `python -m loadtests.benchmark` (`--help`).

One command on one machine. It starts an embedded `mongod` in a temporary directory (TMPDIR says where: on a disk, for
the journal's sake), every `sluice serve` that is compared on top of it, and generator processes that drive them. The
scenarios take turns, round after round, so that whatever else the machine does falls on all of them alike.

`--compare` chooses what: `faces` (the default) both protocols at several batch sizes and worker counts, next to the
ceiling, which is `insert_many` of the same documents, ready-made as BSON, with the same indexes and the same guarantee
(a majority, journaled), and next to clients that insert by themselves; `limiter` what a rate limit costs; `latency` how
long a single event takes on a server that is idle, or half busy; `drivers` the two MongoDB drivers. Keys have a rate
limit unless the name says otherwise.

The table goes to stdout, progress to stderr, all figures as JSON and as a page to `loadtests/reports/`. Exit status 1
where a request was refused, or where what is stored is not exactly what was acknowledged.
"""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import click

from loadtests.benchmark.figures import Answer, Figures
from loadtests.benchmark.page import page
from loadtests.benchmark.scenarios import BATCH_SIZES, COMPARISONS
from loadtests.benchmark.table import print_results
from loadtests.benchmark.targets import Targets
from loadtests.benchmark.turns import Turns, say
from loadtests.support import reports
from storage.client import check_deployment, close, connect
from storage.embedded import EmbeddedMongod


class Options(NamedTuple):
    """What the command line says."""

    compare: str
    rounds: int
    seconds: float
    driver: str
    workers: Sequence[int]
    batch_sizes: Sequence[int]


async def run(options: Options) -> bool:
    """Measure, print and report. Returns whether exactly what was acknowledged is stored."""
    comparison = COMPARISONS[options.compare](options.workers, options.batch_sizes)
    with tempfile.TemporaryDirectory(prefix="sluice-benchmark-") as directory:
        async with AsyncExitStack() as stack:
            mongod = await EmbeddedMongod.start(Path(directory, "data"))
            stack.push_async_callback(mongod.stop)
            client = connect(mongod.url, "pymongo")
            stack.push_async_callback(close, client)
            version = await check_deployment(client)
            say("starting servers")
            ready = Targets(stack, mongod, client, options.driver, Path(directory))
            targets = [await ready.start(scenario, number) for number, scenario in enumerate(comparison.scenarios)]
            turns = Turns(mongod, client, targets, options.seconds)
            await turns.take(options.rounds)
            figures = await turns.figures(has_ceiling=comparison.has_ceiling)
            answers = turns.answers(comparison.questions)
    print_results(figures, answers)
    say(f"charts and all figures: {write_reports(figures, answers, options, version)}")
    return is_sound(figures)


def write_reports(figures: Sequence[Figures], answers: Sequence[Answer], options: Options, mongodb: str) -> Path:
    """Write the page, and the figures as JSON beside it. Returns where the page is."""
    path, provenance = reports.new_path("benchmark", ".html"), reports.provenance("benchmark")
    path.write_text(page(provenance, figures, answers))
    reports.write_json(
        path.with_suffix(".json"),
        {
            **provenance,
            "settings": {**options._asdict(), "mongodb": mongodb},
            "answers": [answer._asdict() for answer in answers],
            "figures": [asdict(line) for line in figures],
        },
    )
    return path


def is_sound(figures: Iterable[Figures]) -> bool:
    """Whether nothing that was acknowledged is lost, and nothing is stored twice. Says so."""
    wrong = [line for line in figures if line.stored != line.acknowledged]
    for line in wrong:
        say(f"{line.name}: {line.acknowledged:,} events were acknowledged, {line.stored:,} are stored")
    if not wrong:
        print(f"{sum(line.stored for line in figures):,} events are stored, just as many as were acknowledged")
    return not wrong


async def run_until_terminated(options: Options) -> bool:
    """Run; on SIGTERM too, end what was started."""
    running = asyncio.ensure_future(run(options))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        raise click.Abort from None


def worker_counts(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """The numbers in a list such as 1,2."""
    return list(dict.fromkeys(int(click.IntRange(1)(count, parameter, context)) for count in text.split(",")))


def batch_sizes(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Those of the batch sizes that a list such as 1000,1 names."""
    choice = click.Choice([str(size) for size in BATCH_SIZES])
    return list(dict.fromkeys(int(choice(size, parameter, context)) for size in text.split(",")))


@click.command()
@click.option("--compare", type=click.Choice(list(COMPARISONS)), default="faces", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns of each scenario.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=2, show_default=True, help="Of a turn.")
@click.option("--driver", type=click.Choice(["motor", "pymongo"]), default="motor", show_default=True)
@click.option(
    "--workers", callback=worker_counts, default="1,2", show_default=True, help="Of servers; but for faces, the most."
)
@click.option(
    "--batch-sizes",
    callback=batch_sizes,
    default=",".join(map(str, BATCH_SIZES)),
    show_default=True,
    help="That faces compares.",
)
def main(**options: object) -> None:
    """Measure how fast Sluice takes in events, next to what its MongoDB could take."""
    if not asyncio.run(run_until_terminated(Options(**options))):  # type: ignore[arg-type]  # click names them alike
        sys.exit(1)


if __name__ == "__main__":
    main()
