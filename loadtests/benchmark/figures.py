"""What the benchmark measured: runs, the figures of a scenario over its runs, and the answers to questions.

A ratio is computed round by round, and the median of the rounds is taken. So a slow minute of the machine, which both
scenarios of a round meet, does not change it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import NamedTuple

from loadtests.benchmark.jobs import Result
from loadtests.benchmark.scenarios import Question, Scenario

US_PER_S = 1_000_000
MS_PER_S = 1_000

CORES = os.cpu_count() or 1


class Usage(NamedTuple):
    """CPU seconds used so far: by the server's workers, by mongod, and by all processes of the machine."""

    workers_s: float
    mongod_s: float
    machine_s: float


class Memory(NamedTuple):
    """Resident memory of each worker, of their supervisor and of mongod. Shared libraries count in each of them."""

    workers_mib: list[float]
    supervisor_mib: float
    mongod_mib: float


class Run(NamedTuple):
    """What one turn of a scenario measured. Times are CPU seconds of the turn, summed over the processes."""

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
        """Acknowledged events per second."""
        return self.acknowledged / self.seconds

    @property
    def p50_ms(self) -> float:
        """The median latency of the requests."""
        return percentile_ms(self.latencies_s, 0.5)

    @property
    def p99_ms(self) -> float:
        """The latency that one request in a hundred exceeds."""
        return percentile_ms(self.latencies_s, 0.99)

    @property
    def workers_cpu_us_per_event(self) -> float:
        """The CPU time of the workers for an event, in microseconds."""
        return self.workers_cpu_s / self.acknowledged * US_PER_S


RunsByName = Mapping[str, Sequence[Run]]
"""The runs of each scenario, one of each round, by its name."""


@dataclass(frozen=True)
class Figures:
    """A scenario over all rounds. Values are medians of the rounds; latencies are of all requests together."""

    name: str
    batch_size: int
    rates: list[float]
    """Events per second, round by round."""
    events_per_s: float
    events_per_s_min: float
    events_per_s_max: float
    of_ceiling: float | None
    of_plain: float | None
    p50_ms: float
    p95_ms: float
    p99_ms: float
    workers_cpu_us_per_event: float
    mongod_cpu_us_per_event: float
    generators: int
    generator_cores: float
    """The share of a core that one generator used."""
    idle_cores: float
    """Cores of the machine that were idle."""
    others_cores: float
    """Cores used by processes that do not belong to the benchmark."""
    workers_mib: list[float]
    supervisor_mib: float
    mongod_mib: float
    acknowledged: int
    stored: int


class Answer(NamedTuple):
    """The answer to a question: the median of the rounds, and their lowest and highest value."""

    what: str
    value: float
    lowest: float
    highest: float
    aim: str


def run_of(results: Sequence[Result], before: Usage, after: Usage, memory: Memory) -> Run:
    """Combine the results of the generators of one turn with its cost."""
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


def figures_of(scenario: Scenario, all_runs: RunsByName, *, acknowledged: int, stored: int) -> Figures:
    """Compute the figures of a scenario from the runs of each scenario."""
    runs = all_runs[scenario.name]
    rates = [run.events_per_s for run in runs]
    latencies_s = sorted(chain.from_iterable(run.latencies_s for run in runs))
    return Figures(
        name=scenario.name,
        batch_size=scenario.batch_size,
        rates=rates,
        events_per_s=median(rates),
        events_per_s_min=min(rates),
        events_per_s_max=max(rates),
        of_ceiling=median(ratios("events_per_s", runs, all_runs[scenario.ceiling])) if scenario.ceiling else None,
        of_plain=median(ratios("events_per_s", runs, all_runs[scenario.plain])) if scenario.plain else None,
        p50_ms=percentile_ms(latencies_s, 0.5),
        p95_ms=percentile_ms(latencies_s, 0.95),
        p99_ms=percentile_ms(latencies_s, 0.99),
        workers_cpu_us_per_event=median(run.workers_cpu_us_per_event for run in runs),
        mongod_cpu_us_per_event=median(run.mongod_cpu_s / run.acknowledged * US_PER_S for run in runs),
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


def answer_to(question: Question, runs: RunsByName) -> Answer:
    """Answer a question from the runs of each scenario."""
    of = runs[question.of]
    if question.to:
        values = ratios(question.measure, of, runs[question.to])
    else:
        values = [getattr(run, question.measure) for run in of]
    return Answer(question.what, median(values), min(values), max(values), question.aim)


def ratios(measure: str, of: Iterable[Run], to: Iterable[Run]) -> list[float]:
    """Return the ratio of a measure of two scenarios, round by round."""
    return [getattr(one, measure) / getattr(other, measure) for one, other in zip(of, to, strict=True)]


def percentile_ms(latencies_s: Iterable[float], share: float) -> float:
    """Return the latency in ms that `share` of the requests do not exceed."""
    ordered = sorted(latencies_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * MS_PER_S
