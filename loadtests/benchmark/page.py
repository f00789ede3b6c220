"""Renders the benchmark's page: charts, figures and answers."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from loadtests.benchmark.comparisons import batches_of
from loadtests.benchmark.figures import Answer, Figures
from loadtests.benchmark.table import ANSWER_COLUMNS, COLUMNS, LEGEND, answer_rows, rows_of, warnings
from loadtests.support.charts import BarChart
from loadtests.support.page import render_charts, render_page, render_table


def page(provenance: dict[str, Any], figures: Sequence[Figures], answers: Iterable[Answer]) -> str:
    """Render the page. `provenance` has the date, the command and the machine."""
    return render_page(
        "Sluice benchmark",
        "How fast Sluice takes in events",
        provenance,
        (
            *charts(figures),
            "<h2>Answers</h2>",
            render_table(("", *ANSWER_COLUMNS), (map(escape, row) for row in answer_rows(answers))),
            "<h2>All figures</h2>",
            render_table(("", *COLUMNS), (map(escape, row) for row in rows_of(figures))),
            f"<p>{escape(LEGEND)}</p>",
            bullets(f"Warning: {warning}" for warning in warnings(figures)),
        ),
    )


def charts(figures: Sequence[Figures]) -> Iterator[str]:
    """Render the charts of each batch size."""
    for size in sorted({line.batch_size for line in figures}, reverse=True):
        lines = [line for line in figures if line.batch_size == size]
        yield render_charts(batches_of(size).capitalize(), charts_of(size, lines))


def charts_of(size: int, lines: Sequence[Figures]) -> list[BarChart]:
    """Return the charts of one batch size: rates, latencies and CPU time."""
    labels = [line.name.replace(f", {batches_of(size)}", "") for line in lines]  # the heading has it
    return [
        BarChart(
            title="Throughput",
            unit="events/s",
            labels=labels,
            series={"median of the rounds": [line.events_per_s for line in lines]},
            range_name="lowest to highest",
            ranges=[(line.events_per_s_min, line.events_per_s_max) for line in lines],
        ),
        BarChart(
            title="Latency of a request",
            unit="ms",
            labels=labels,
            series={
                "p50": [line.p50_ms for line in lines],
                "p95": [line.p95_ms for line in lines],
                "p99": [line.p99_ms for line in lines],
            },
        ),
        BarChart(
            title="CPU time",
            unit="µs of CPU per event",
            labels=labels,
            series={
                "workers": [line.workers_cpu_us_per_event for line in lines],
                "mongod": [line.mongod_cpu_us_per_event for line in lines],
            },
            stacked=True,
        ),
    ]


def bullets(texts: Iterable[str]) -> str:
    """Render a list of plain texts."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
