"""Computes figures from a ledger: a line for each kind of request, and curves over time.

All load tests use it, so that a column means the same in every report.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from loadtests.support.charts import SINCE_START, LineChart, Point
from loadtests.support.records import Record

Group = TypeVar("Group", bound=Hashable)

CURVE_POINTS = 200
"""The most points of a curve, because a chart is some hundred pixels wide."""


@dataclass(frozen=True)
class Line:
    """One line of the table. Latencies count from when a request was due. `unavailable` includes uncertain ones."""

    name: str
    requests: int
    acknowledged: int
    limited: int
    unavailable: int
    rejected: int
    broken: int
    events_per_s: float
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


COLUMNS = {
    "requests": "{requests:,}",
    "stored": "{acknowledged:,}",
    "limited": "{limited:,}",
    "503": "{unavailable:,}",
    "rejected": "{rejected:,}",
    "broken": "{broken:,}",
    "requests/s": "{requests_per_s:,.0f}",
    "events/s": "{events_per_s:,.0f}",
    "p50 ms": "{p50_ms:,.1f}",
    "p95 ms": "{p95_ms:,.1f}",
    "p99 ms": "{p99_ms:,.1f}",
    "max ms": "{max_ms:,.1f}",
}
"""The table's columns, and the format of each."""


def line_of(name: str, records: Sequence[Record]) -> Line:
    """Compute the line of some requests. The rates are over the time from the first due to the last response."""
    outcomes = Counter(record.outcome for record in records)
    latencies_ms = sorted(record.latency_s * 1_000 for record in records)
    seconds = max(r.answered_s for r in records) - min(r.due_s for r in records) if records else math.inf
    stored = [record.events for record in records if record.outcome == "acknowledged" and not record.replayed]
    return Line(
        name=name,
        requests=len(records),
        acknowledged=outcomes["acknowledged"],
        limited=outcomes["limited"],
        unavailable=outcomes["unavailable"] + outcomes["uncertain"],
        rejected=outcomes["rejected"],
        broken=outcomes["broken"],
        events_per_s=sum(stored) / seconds,
        requests_per_s=len(records) / seconds,
        p50_ms=percentile(latencies_ms, 0.50),
        p95_ms=percentile(latencies_ms, 0.95),
        p99_ms=percentile(latencies_ms, 0.99),
        max_ms=percentile(latencies_ms, 1),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the sorted values that at least `share` of them do not exceed; 0 if there are none."""
    return values[max(0, math.ceil(len(values) * share) - 1)] if values else 0.0


def grouped(records: Iterable[Record], group: Callable[[Record], Group]) -> dict[Group, list[Record]]:
    """Group the records by the result of `group`."""
    groups: dict[Group, list[Record]] = defaultdict(list)
    for record in records:
        groups[group(record)].append(record)
    return groups


def rates(
    groups: Mapping[str, Sequence[Record]], amount: Callable[[Record], float], at: Callable[[Record], float]
) -> dict[str, list[Point]]:
    """Compute a curve for each group: the sum of `amount` per second, counted at the time `at`."""
    step_s = step_of(groups)
    curves = {}
    for name, records in groups.items():
        sums: dict[int, float] = defaultdict(float)
        for record in records:
            sums[int(at(record) / step_s)] += amount(record)
        curves[name] = [(index * step_s, sums[index] / step_s) for index in range(max(sums, default=0) + 1)]
    return curves


def latencies(groups: Mapping[str, Sequence[Record]], share: float) -> dict[str, list[Point]]:
    """Compute a curve for each group: a percentile of the latency in ms, by the time at which requests were due."""
    step_s = step_of(groups)
    return {
        name: [
            (index * step_s, percentile(sorted(record.latency_s * 1_000 for record in records), share))
            for index, records in sorted(grouped(records, lambda record: int(record.due_s / step_s)).items())
        ]
        for name, records in groups.items()
    }


def request_charts(
    groups: Mapping[str, Sequence[Record]], unit: str, amount: Callable[[Record], float], x_title: str = SINCE_START
) -> list[LineChart]:
    """Return the charts of some groups: the sum of `amount` per second, and two percentiles of the latency."""
    answered = rates(groups, amount, lambda record: record.answered_s)
    return [
        LineChart(title="Throughput", unit=unit, series=answered, x_title=x_title),
        LineChart(title="Latency, p50", unit="ms", series=latencies(groups, 0.50), x_title=x_title),
        LineChart(title="Latency, p99", unit="ms", series=latencies(groups, 0.99), x_title=x_title),
    ]


def step_of(groups: Mapping[str, Sequence[Record]]) -> float:
    """Return the width of a curve's steps in seconds: at least 0.5, and at most `CURVE_POINTS` steps."""
    last_s = max((record.answered_s for records in groups.values() for record in records), default=1.0)
    return max(0.5, math.ceil(last_s / CURVE_POINTS))
