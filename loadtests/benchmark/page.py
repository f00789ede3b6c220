"""Renders the benchmark's page: charts, figures and answers in one HTML file that loads nothing."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from loadtests.benchmark.bars import Bar, bar_chart, html_table
from loadtests.benchmark.comparisons import batches_of
from loadtests.benchmark.figures import Answer, Figures
from loadtests.benchmark.table import ANSWER_COLUMNS, COLUMNS, LEGEND, answer_rows, rows_of, warnings

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 2em auto; padding: 0 1em; color: #222 }
svg { width: 100%; max-width: 980px; display: block; margin: 1em 0 } svg text { font-size: 12px }
svg .title { font-size: 14px; font-weight: bold } rect { fill: #0b6e99 } line { stroke: #d9730d; stroke-width: 2 }
table { border-collapse: collapse; font-size: 13px } th, td { padding: .25em .6em; border-bottom: 1px solid #ddd }
td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
td:first-child { text-align: left } code { background: #f4f4f4; padding: .1em .3em }
"""


def page(provenance: dict[str, Any], figures: Sequence[Figures], answers: Iterable[Answer]) -> str:
    """Render the page. `provenance` has the date, the command and the machine."""
    machine = ", ".join(f"{name} {value}" for name, value in provenance["machine"].items())
    return "\n".join(
        (
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f"<title>Sluice benchmark</title><style>{STYLE}</style>",
            "<h1>How fast Sluice takes in events</h1>",
            f"<p>{provenance['date']} · <code>{escape(provenance['command'])}</code><br>{escape(machine)}</p>",
            *charts(figures),
            "<h2>Answers</h2>",
            html_table(("", *ANSWER_COLUMNS), answer_rows(answers)),
            "<h2>All figures</h2>",
            html_table(("", *COLUMNS), rows_of(figures)),
            f"<p>{escape(LEGEND)}</p>",
            bullets(f"Warning: {warning}" for warning in warnings(figures)),
            "</html>\n",
        )
    )


def charts(figures: Sequence[Figures]) -> Iterable[str]:
    """Render a chart of rates and one of latencies for each batch size."""
    for size in sorted({line.batch_size for line in figures}, reverse=True):
        lines = [line for line in figures if line.batch_size == size]
        rates = [Bar(line.name, line.events_per_s, line.events_per_s_min, line.events_per_s_max) for line in lines]
        waits = [Bar(line.name, line.p50_ms, line.p50_ms, line.p99_ms) for line in lines]
        yield f"<h2>{batches_of(size).capitalize()}</h2>"
        yield bar_chart("Events per second: median of the rounds, with a line from the lowest to the highest", rates)
        yield bar_chart("Milliseconds a request: p50, with a line to p99", waits)


def bullets(texts: Iterable[str]) -> str:
    """Render a list of plain texts."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
