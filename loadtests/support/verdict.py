"""The end of a load test: the table and the verdict on stdout, and a report as HTML and as JSON.

Locust's own page is saved beside it.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from loadtests.support import reports
from loadtests.support.charts import Chart
from loadtests.support.checks import reasons
from loadtests.support.page import render_charts, render_page, render_table
from loadtests.support.progress import say
from loadtests.support.records import Record
from loadtests.support.stats import COLUMNS, Line
from loadtests.support.thresholds import Check, number

REASONS_SHOWN = 20
"""The most reasons in the HTML report, because bad input alone can give hundreds."""

THRESHOLD_COLUMNS = ("what", "measured", "must be", "unit", "reason", "")


@dataclass(frozen=True)
class Verdict:
    """What a load test measured, and whether its thresholds hold."""

    name: str
    lines: Sequence[Line]
    checks: Sequence[Check]
    charts: Mapping[str, Sequence[Chart]]
    """The charts, by the heading above them."""
    records: Sequence[Record]
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every threshold holds."""
        return all(check.passed for check in self.checks)

    def publish(self, locust_pages: Sequence[Path]) -> None:
        """Print the verdict and write its reports."""
        self.print()
        say(f"report: {self.write(locust_pages)}")

    def print(self) -> None:
        """Print the table, a line for each threshold, and the verdict."""
        table = [["", *COLUMNS], *([line.name, *cells(line)] for line in self.lines)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for name, *row in table:
            print("  ".join((name.ljust(widths[0]), *map(str.rjust, row, widths[1:]))))
        for check in self.checks:
            print(f"{'ok    ' if check.passed else 'MISSED'}  {check}")
        missed = [check.threshold.what for check in self.checks if not check.passed]
        print(f"{self.name}: {'passed' if self.passed else 'FAILED: ' + '; '.join(missed)}", flush=True)

    def write(self, locust_pages: Sequence[Path]) -> Path:
        """Write the HTML and the JSON, and save Locust's pages. Returns the path of the HTML."""
        path, provenance = reports.new_path(self.name, ".html"), reports.provenance(self.name)
        reports.write_json(
            path.with_suffix(".json"),
            {
                **provenance,
                "passed": self.passed,
                "settings": self.settings,
                "thresholds": [
                    {**check.threshold._asdict(), "measured": check.measured, "passed": check.passed}
                    for check in self.checks
                ],
                "lines": [asdict(line) for line in self.lines],
                "figures": self.figures,
                "not_acknowledged": reasons(self.records),
            },
        )
        path.write_text(self.page(provenance))
        for run, page in enumerate(locust_pages, 1):
            shutil.copy(page, path.with_suffix(f".locust-{run}.html"))
        return path

    def page(self, provenance: dict[str, Any]) -> str:
        """Render the report as HTML."""
        word = "passed" if self.passed else "failed"
        settings = ", ".join(f"{name} {shown(value)}" for name, value in (self.settings | self.figures).items())
        return render_page(
            f"{self.name}: {word}",
            f'Load test <code>{self.name}</code>: <span class="{word}">{word}</span>',
            provenance,
            (
                f"<p>{escape(settings)}</p>",
                "<h2>Thresholds</h2>",
                render_table(THRESHOLD_COLUMNS, map(html_check, self.checks), "text"),
                "<h2>Requests</h2>",
                render_table(("", *COLUMNS), (map(escape, (line.name, *cells(line))) for line in self.lines)),
                *(render_charts(heading, charts) for heading, charts in self.charts.items()),
                "<h2>Requests that were not acknowledged</h2>",
                render_table(
                    ("reason", "times"), map(html_reason, list(reasons(self.records).items())[:REASONS_SHOWN])
                ),
            ),
        )


def shown(value: Any) -> str:
    """Format a setting or a figure: a number with thousands separators."""
    return str(value) if isinstance(value, bool | str) else f"{value:,}"


def cells(line: Line) -> list[str]:
    """Format a line's figures, in the order of `COLUMNS`."""
    return [cell.format(**asdict(line)) for cell in COLUMNS.values()]


def html_check(check: Check) -> list[str]:
    """Render a row of the table of thresholds, as HTML cells."""
    bound, word = check.threshold, "passed" if check.passed else "failed"
    texts = (bound.what, number(check.measured), f"{bound.relation} {number(bound.bound)}", bound.unit, bound.reason)
    return [*map(escape, texts), f'<span class="{word}">{word}</span>']


def html_reason(reason: tuple[str, int]) -> list[str]:
    """Render a row of the table of reasons, as HTML cells."""
    return [escape(reason[0]), f"{reason[1]:,}"]
