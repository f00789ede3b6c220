"""What the benchmark measured: a turn, the figures of a scenario over its turns, and the answers to questions.

Imports the standard library, the generator's result and the scenarios.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import NamedTuple

from loadtests.benchmark.jobs import Result
from loadtests.benchmark.scenarios import Question, Scenario

MILLION = 1_000_000
MS_PER_S = 1_000

CORES = os.cpu_count() or 1


class Usage(NamedTuple):
    """CPU seconds used so far: by the server's workers, by mongod, and by all processes of the machine."""

    workers_s: float
    mongod_s: float
    machine_s: float


class Memory(NamedTuple):
    """Resident memory: of each worker, of their supervisor, of mongod. Libraries in common count in each."""

    workers_mib: list[float]
    supervisor_mib: float
    mongod_mib: float


class Run(NamedTuple):
    """What one turn of a scenario measured."""

    acknowledged: int
    seconds: float
    latencies_s: list[float]
    workers_cpu_s: float
    mongod_cpu_s: float
    generators_cpu_s: float
    others_cpu_s: float
    idle_cores: float
    generators: int
    memory: Memory

    @property
    def events_per_s(self) -> float:
        """The rate."""
        return self.acknowledged / self.seconds

    @property
    def p50_ms(self) -> float:
        """The median latency of a request."""
        return percentile_ms(self.latencies_s, 0.5)

    @property
    def p99_ms(self) -> float:
        """The latency that one request in a hundred exceeds."""
        return percentile_ms(self.latencies_s, 0.99)


@dataclass(frozen=True)
class Figures:
    """A scenario over all rounds: medians over the rounds, but for latencies, which are of all requests together."""

    name: str
    batch_size: int
    rates: list[float]
    """Events per second, round by round."""
    events_per_s: float
    events_per_s_min: float
    events_per_s_max: float
    of_ceiling: float | None
    p50_ms: float
    p95_ms: float
    p99_ms: float
    workers_cpu_s_per_million: float
    mongod_cpu_s_per_million: float
    generators: int
    generator_cores: float
    """The share of a core that one generator used."""
    idle_cores: float
    """Cores of the machine that nobody used."""
    others_cores: float
    """Cores used by processes that have no part in this."""
    workers_mib: list[float]
    supervisor_mib: float
    mongod_mib: float
    acknowledged: int
    stored: int


class Answer(NamedTuple):
    """A question's answer: the median over the rounds."""

    what: str
    value: float
    aim: str


def run_of(results: Sequence[Result], before: Usage, after: Usage, memory: Memory) -> Run:
    """What the generators of one turn measured together, and what it cost meanwhile."""
    generators_s = sum(result.cpu_s for result in results)
    used = Usage(*(end - start for start, end in zip(before, after, strict=True)))
    seconds = max(result.ended_s for result in results) - min(result.started_s for result in results)
    return Run(
        acknowledged=sum(result.acknowledged for result in results),
        seconds=seconds,
        latencies_s=[latency for result in results for latency in result.latencies_s],
        workers_cpu_s=used.workers_s,
        mongod_cpu_s=used.mongod_s,
        generators_cpu_s=generators_s,
        others_cpu_s=max(0.0, used.machine_s - used.workers_s - used.mongod_s - generators_s),
        idle_cores=max(0.0, CORES - used.machine_s / seconds),
        generators=len(results),
        memory=memory,
    )


def figures_of(
    scenario: Scenario, runs: Sequence[Run], ceilings: Sequence[Run] | None, *, acknowledged: int, stored: int
) -> Figures:
    """The figures of a scenario. `ceilings` are the runs of the ceiling in the same rounds."""
    rates = [run.events_per_s for run in runs]
    latencies_s = sorted(chain.from_iterable(run.latencies_s for run in runs))
    return Figures(
        name=scenario.name,
        batch_size=scenario.batch_size,
        rates=rates,
        events_per_s=median(rates),
        events_per_s_min=min(rates),
        events_per_s_max=max(rates),
        of_ceiling=ratio("events_per_s", runs, ceilings) if ceilings else None,
        p50_ms=percentile_ms(latencies_s, 0.5),
        p95_ms=percentile_ms(latencies_s, 0.95),
        p99_ms=percentile_ms(latencies_s, 0.99),
        workers_cpu_s_per_million=median(run.workers_cpu_s / run.acknowledged * MILLION for run in runs),
        mongod_cpu_s_per_million=median(run.mongod_cpu_s / run.acknowledged * MILLION for run in runs),
        generators=scenario.load.processes,
        generator_cores=median(run.generators_cpu_s / run.seconds / run.generators for run in runs),
        idle_cores=median(run.idle_cores for run in runs),
        others_cores=median(run.others_cpu_s / run.seconds for run in runs),
        workers_mib=[max(sizes) for sizes in zip(*(run.memory.workers_mib for run in runs), strict=True)],
        supervisor_mib=max(run.memory.supervisor_mib for run in runs),
        mongod_mib=max(run.memory.mongod_mib for run in runs),
        acknowledged=acknowledged,
        stored=stored,
    )


def answer_to(question: Question, runs: dict[str, list[Run]]) -> Answer:
    """The answer to a question."""
    of = runs[question.of]
    if question.to:
        value = ratio(question.measure, of, runs[question.to])
    else:
        value = median(getattr(run, question.measure) for run in of)
    return Answer(question.what, value, question.aim)


def ratio(measure: str, of: Iterable[Run], to: Iterable[Run]) -> float:
    """How a measure of two scenarios compares: round by round, because a machine is not always equally fast."""
    ratios: list[float] = [getattr(one, measure) / getattr(other, measure) for one, other in zip(of, to, strict=True)]
    return median(ratios)


def percentile_ms(latencies_s: Iterable[float], share: float) -> float:
    """The latency that so large a share of requests does not exceed."""
    ordered = sorted(latencies_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * MS_PER_S
