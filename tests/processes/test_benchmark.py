"""The benchmark runs to its end, finds every event it was promised, and reports; its figures here are of no worth.

Set SLUICE_LONG=1 for all that it compares.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import Json
from tests.support.report_pages import checked_charts

TIMEOUT_S = 120

SMALL = ("--rounds", "1", "--seconds", "0.1", "--workers", "1", "--batch-sizes", "1000,1")

SCENARIOS = {"apis": 7, "limiter": 8, "latency": 5, "drivers": 2, "checkout": 8}

OPTIONS = {"apis": ("--nodes", "3"), "checkout": ("--against", ".")}


@pytest.fixture(params=SCENARIOS if "SLUICE_LONG" in os.environ else ["apis"])
def report(request: pytest.FixtureRequest) -> Iterator[tuple[str, Json, str]]:
    """What was compared, and the figures and the page of it."""
    options = ("--compare", request.param, *OPTIONS.get(request.param, ()), *SMALL)
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.benchmark", *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    match = re.search(r"^charts and all figures: (.+)$", done.stderr, re.MULTILINE)
    assert match is not None, done.stderr
    page = Path(match[1])
    figures = page.with_suffix(".json")
    yield request.param, json.loads(figures.read_text()), page.read_text()
    page.unlink()
    figures.unlink()


@pytest.mark.slow
def test_report(report: tuple[str, Json, str]) -> None:
    compared, figures, page = report
    lines = figures["figures"]
    assert len({line["name"] for line in lines}) == len(lines) == SCENARIOS[compared]
    for line in lines:
        assert line["acknowledged"] == line["stored"] > 0
        assert line["events_per_s"] > 0
        assert 0 < line["p50_ms"] <= line["p95_ms"] <= line["p99_ms"]
        assert line["generator_cores"] > 0
        assert line["mongod_mib"] > 0
        assert (line["supervisor_mib"] > 0) == bool(line["workers_mib"])
        assert line["name"] in page
        assert (line["of_plain"] is not None) == bool(line["workers_mib"] and compared == "apis")
        assert (line["of_ceiling"] is not None) == (line is not lines[0] and compared == "apis")
    assert figures["answers"]
    assert all(answer["value"] > 0 for answer in figures["answers"])
    charts = checked_charts(page)
    sizes = sorted({line["batch_size"] for line in lines}, reverse=True)
    assert [chart["unit"] for chart in charts] == ["events/s", "ms", "µs of CPU per event"] * len(sizes)
    for chart, size in zip(charts[::3], sizes, strict=True):
        rates = [line["events_per_s"] for line in lines if line["batch_size"] == size]
        assert chart["series"] == {"median of the rounds": rates}
        assert len(set(chart["labels"])) == len(chart["ranges"]) == len(rates)
