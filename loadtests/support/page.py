"""Renders the pages of the reports, each as one file that loads nothing, so that it can be kept and passed on.

The chart library, our script and our style are written into the page. Its content security policy forbids everything
else.
"""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from loadtests.support.charts import Chart

FOLDER = Path(__file__).parent

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
"""Forbids the page to load anything."""


def render_page(title: str, heading: str, provenance: dict[str, Any], parts: Iterable[str]) -> str:
    """Render a page. `heading` and `parts` are HTML, `provenance` has the date, the command and the machine."""
    machine = ", ".join(f"{name} {value}" for name, value in provenance["machine"].items())
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{escape(title)}</title><style>{text_of('files/report.css')}</style></head><body>",
            f"<h1>{heading}</h1>",
            f"<p>{provenance['date']} · <code>{escape(provenance['command'])}</code><br>{escape(machine)}</p>",
            *parts,
            "<noscript>The charts need JavaScript.</noscript>",
            f"<script>{text_of('chartjs/chart.umd.min.js')}</script><script>{text_of('files/report.js')}</script>",
            "</body></html>\n",
        )
    )


def render_charts(heading: str, charts: Iterable[Chart]) -> str:
    """Render a heading with charts, beside each other if the page is wide enough."""
    return f'<h2>{escape(heading)}</h2><div class="charts">{"".join(map(render_chart, charts))}</div>'


def render_chart(chart: Chart) -> str:
    """Render a chart: its title, the place where it is drawn, and its figures."""
    title = escape(f"{chart.title} ({chart.unit})")
    figures = msgspec.json.encode(chart).decode().replace("<", r"\u003c")  # a name cannot end the script
    return (
        f'<figure><figcaption>{title}</figcaption><div><canvas role="img" aria-label="{title}"></canvas></div>'
        f'<script type="application/json">{figures}</script></figure>'
    )


def render_table(head: Sequence[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    """Render a table that scrolls by itself. `rows` has cells that are HTML already; `kind` is its CSS class."""
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table class="{kind}"><tr>{heads}</tr>{body}</table></div>'


def text_of(path: str) -> str:
    """Return the text of a file that is written into each page."""
    return (FOLDER / path).read_text(encoding="utf-8")
