"""What the benchmark measured: a run, the figures of a scenario over its runs, the table and the report.

Imports the standard library, the generator's result and where reports go.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from loadtests import reports
from loadtests.generator import Result

MILLION = 1_000_000

GENERATOR_LIMIT_CORES = 0.9
"""Above this share of a core, a generator may be what holds a scenario back."""

OTHERS_LIMIT_CORES = 0.3
"""Processes without a part in this may take so much of the machine before the table says so."""


class Usage(NamedTuple):
    """CPU seconds used so far: by the server's workers, by mongod, and by all processes of the machine."""

    workers_s: float
    mongod_s: float
    machine_s: float


class Run(NamedTuple):
    """What one turn of a scenario measured."""

    acknowledged: int
    seconds: float
    latencies_s: list[float]
    workers_cpu_s: float
    mongod_cpu_s: float
    generators_cpu_s: float
    others_cpu_s: float
    generators: int

    @property
    def events_per_s(self) -> float:
        """The rate."""
        return self.acknowledged / self.seconds


@dataclass(frozen=True)
class Figures:
    """A scenario over all rounds: medians over the rounds, but for latencies, which are of all requests together."""

    name: str
    rates: list[float]
    """Events per second, round by round."""
    events_per_s: float
    events_per_s_min: float
    events_per_s_max: float
    of_ceiling: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    workers_cpu_s_per_million: float
    mongod_cpu_s_per_million: float
    generator_cores: float
    """The share of a core that one generator used."""
    others_cores: float
    """Cores used by processes that have no part in this."""
    workers_mib: float
    mongod_mib: float
    acknowledged: int
    stored: int


COLUMNS = {
    "events/s": "{events_per_s:,.0f}",
    "min-max": "{events_per_s_min:,.0f}-{events_per_s_max:,.0f}",
    "of ceiling": "{of_ceiling:.2f}",
    "p50 ms": "{p50_ms:.1f}",
    "p95 ms": "{p95_ms:.1f}",
    "p99 ms": "{p99_ms:.1f}",
    "workers CPU s/M": "{workers_cpu_s_per_million:.2f}",
    "mongod CPU s/M": "{mongod_cpu_s_per_million:.2f}",
    "generator cores": "{generator_cores:.2f}",
    "other cores": "{others_cores:.2f}",
    "workers MiB": "{workers_mib:.0f}",
    "mongod MiB": "{mongod_mib:.0f}",
}
"""The table's columns, and how each is made from `Figures`."""

LEGEND = """\
of ceiling: of the same round's; latencies: of a request; CPU s/M: CPU seconds per million events;
generator cores: of each generator, of 1; other cores: used by processes that have no part in this; MiB: resident"""


def run_of(results: Sequence[Result], before: Usage, after: Usage) -> Run:
    """What the generators of one turn measured together, and what it cost meanwhile."""
    generators_s = sum(result.cpu_s for result in results)
    used = Usage(*(end - start for start, end in zip(before, after, strict=True)))
    return Run(
        acknowledged=sum(result.acknowledged for result in results),
        seconds=max(result.ended_s for result in results) - min(result.started_s for result in results),
        latencies_s=[latency for result in results for latency in result.latencies_s],
        workers_cpu_s=used.workers_s,
        mongod_cpu_s=used.mongod_s,
        generators_cpu_s=generators_s,
        others_cpu_s=max(0.0, used.machine_s - used.workers_s - used.mongod_s - generators_s),
        generators=len(results),
    )


def figures_of(
    name: str,
    runs: Sequence[Run],
    ceilings: Sequence[Run],
    *,
    workers_mib: float,
    mongod_mib: float,
    acknowledged: int,
    stored: int,
) -> Figures:
    """The figures of the scenario `name`. `ceilings` are the runs of the ceiling in the same rounds."""
    rates = [run.events_per_s for run in runs]
    percentiles = quantiles(chain.from_iterable(run.latencies_s for run in runs), n=100)
    return Figures(
        name=name,
        rates=rates,
        events_per_s=median(rates),
        events_per_s_min=min(rates),
        events_per_s_max=max(rates),
        of_ceiling=median(rate / ceiling.events_per_s for rate, ceiling in zip(rates, ceilings, strict=True)),
        p50_ms=percentiles[49] * 1_000,
        p95_ms=percentiles[94] * 1_000,
        p99_ms=percentiles[98] * 1_000,
        workers_cpu_s_per_million=median(run.workers_cpu_s / run.acknowledged * MILLION for run in runs),
        mongod_cpu_s_per_million=median(run.mongod_cpu_s / run.acknowledged * MILLION for run in runs),
        generator_cores=median(run.generators_cpu_s / run.seconds / run.generators for run in runs),
        others_cores=median(run.others_cpu_s / run.seconds for run in runs),
        workers_mib=workers_mib,
        mongod_mib=mongod_mib,
        acknowledged=acknowledged,
        stored=stored,
    )


def print_table(figures: Sequence[Figures]) -> None:
    """Print the figures in aligned columns, and what may have disturbed them."""
    cells = ([line.name, *(cell.format(**asdict(line)) for cell in COLUMNS.values())] for line in figures)
    table = [["", *COLUMNS], *cells]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *row in table:
        print("  ".join((name.ljust(widths[0]), *map(str.rjust, row, widths[1:]))))
    print(LEGEND)
    for warning in warnings(figures):
        print(f"beware: {warning}")


def warnings(figures: Iterable[Figures]) -> Iterable[str]:
    """What makes a figure less than it seems."""
    for line in figures:
        if line.generator_cores > GENERATOR_LIMIT_CORES:
            yield f"{line.name}: the generators were busy; the server may do better"
        if line.others_cores > OTHERS_LIMIT_CORES:
            yield f"{line.name}: other processes used {line.others_cores:.1f} cores of the machine meanwhile"


def write_report(figures: Iterable[Figures], **settings: str | int) -> Path:
    """Write all figures, and what they were measured on, to a new file."""
    path = reports.new_path("benchmark", ".json")
    lines = [asdict(line) for line in figures]
    reports.write_json(path, {**reports.provenance("benchmark"), "settings": settings, "figures": lines})
    return path
