"""The charts of the reports in a real browser: what their axes, legends and bars say, and that they fit a phone."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

from loadtests.support.charts import BarChart, Chart, LineChart
from loadtests.support.page import render_charts, render_page, render_table
from tests.support.harness import Json

BROWSER_TIMEOUT_S = 60

PROVENANCE = {"date": "2026-11-24", "command": "python -m loadtests.made_up", "machine": {"cores": 2}}

MEASURE = """
const shown = Object.values(Chart.instances).map((chart) => ({
  axis: chart.scales.y.ticks.map((tick) => tick.label),
  titles: Object.values(chart.scales).map((scale) => scale.options.title.text),
  colours: chart.data.datasets.map((one) => `${one.borderColor || one.backgroundColor} ${one.borderDash || []}`),
  legend: chart.legend.legendItems.map((item) => item.text),
  tooltip: chart.data.datasets.map((one, index) => chart.options.plugins.tooltip.callbacks.label(
    { dataset: one, raw: one.data.at(-1), parsed: one.data.at(-1) })),
  cut: Object.values(chart.scales).some((scale) => scale.left < 0 || scale.right > chart.width),
}));
const page = { charts: shown, width: innerWidth, needed: document.documentElement.scrollWidth };
top.document.title = JSON.stringify(page);
"""
"""Writes into the title of the browser's window what the charts show."""


def browse(folder: Path, charts: list[Chart], width: int) -> Json:
    """What a browser shows of a page with these charts and a wide table, in a frame of `width` pixels.

    Its windows are at least 500 pixels wide, so a page for phones needs a frame.
    """
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs the Debian package chromium")
    table = render_table([f"column {number}" for number in range(30)], [["figure"] * 30])
    page = render_page("made up", "Made up", PROVENANCE, [render_charts("Over time", charts), table])
    framed = escape(page.replace("</body>", f"<script>{MEASURE}</script></body>"))
    path = folder / "page.html"
    path.write_text(
        f'<!doctype html><title></title><iframe width="{width}" frameborder="0" srcdoc="{framed}"></iframe>'
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [browser, *options, f"--window-size={width},900", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=BROWSER_TIMEOUT_S,
        check=True,
    )
    title = re.search("<title>(.+?)</title>", done.stdout)
    assert title is not None, done.stdout[:1_000] + done.stderr
    shown: Json = json.loads(unescape(title[1]))
    return shown


RATES = LineChart(
    title="Throughput",
    unit="events/s",
    series={f"series {number}": [(second, 1_662.5 * number) for second in range(60)] for number in range(1, 13)},
    level=("the limit", 12_500),
)

BARS = BarChart(
    title="Throughput",
    unit="events/s",
    labels=["ceiling: insert_many of BSON, 1,000 a call", "REST </script><b>"],
    series={"median": [123_456.7, 2.3456]},
    range_name="lowest to highest",
    ranges=[(100_000, 130_000), (1.5, 3)],
)


@pytest.mark.parametrize("width", [400, 1_300])
def test_charts_in_a_browser(tmp_path: Path, width: int) -> None:
    shown = browse(tmp_path, [RATES, BARS], width)
    assert shown["width"] == width
    assert shown["needed"] <= width, "the table scrolls, and not the page"
    lines, bars = shown["charts"]
    assert not lines["cut"]
    assert not bars["cut"]

    assert lines["axis"][0] == "0"
    assert lines["axis"][-1] == "20,000"
    assert all(re.fullmatch(r"0|[1-9]\d{0,2}(,\d{3})*", label) for label in lines["axis"])
    assert sorted(lines["titles"]) == ["events/s", "s since the start"]
    assert lines["legend"] == [*RATES.series, "the limit"]
    assert len(set(lines["colours"])) == 13
    assert lines["tooltip"][-2:] == ["series 12: 19,950 events/s", "the limit: 12,500 events/s"]

    assert bars["axis"] == [
        ["ceiling: insert_many of", "BSON, 1,000 a call", "123,457"],
        ["REST </script><b>", "2.35"],
    ]
    assert bars["legend"] == ["median", "lowest to highest"]
    assert set(bars["tooltip"]) == {"median: 2.35 events/s", "lowest to highest: 1.5 to 3 events/s"}
