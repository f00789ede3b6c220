"""Short passes of load tests: they succeed, or fail if they should. Speed is not judged here.

They run at the same time, since one of them waits for a window of the rate limit.
"""

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.support.thresholds import (
    BURST_ADMITTED,
    LOST,
)
from tests.support.harness import Json, Server, embedded_url
from tests.support.report_pages import checked_charts

RUN_TIMEOUT_S = 240

Run = subprocess.Popen[str]


def start(name: str, *options: str) -> Run:
    """A load test in its short form."""
    line = [sys.executable, "-m", f"loadtests.{name}", "--short", *options]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(run: Run) -> tuple[int, str, Json, list[Json]]:
    """Its exit status, what it printed, and the figures and the charts of its report."""
    output, progress = run.communicate(timeout=RUN_TIMEOUT_S)
    report = re.search(r"report: (.+)\.html$", progress, re.MULTILINE)
    assert report is not None, output + progress
    charts = checked_charts(Path(f"{report[1]}.html").read_text())
    figures: Json = json.loads(Path(f"{report[1]}.json").read_text())
    return run.returncode, output, figures, charts


@pytest.fixture(scope="module", autouse=True)
def runs(server: Server) -> Iterator[dict[str, Run]]:
    """Short passes that run meanwhile; `unlimited` has a key without the limit that it is told of."""
    key = server.create_key(f"loadtest-{uuid.uuid4().hex}", "--rate-limit", "0")["key"]
    target = ["--target", server.url, "--grpc-target", server.grpc, "--mongodb-url", embedded_url(server.data_dir)]
    started = {
        "limits": start("limits", "--workers", "2"),
        "throughput": start("throughput", "--workers", "2"),
        "unlimited": start("limits", *target, "--key", key),
    }
    yield started
    for run in started.values():
        run.terminate()
        run.communicate(timeout=RUN_TIMEOUT_S)


# The command lines


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]"])
def test_only_this_machine_is_loaded_unless_confirmed(host: str) -> None:
    line = ["--target", f"http://{host}:8000", "--grpc-target", "127.0.0.1:1", "--key", "k", "--mongodb-url", "m"]
    run = start("limits", *line)
    output, complaint = run.communicate(timeout=RUN_TIMEOUT_S)
    assert run.returncode == 2
    assert output == ""
    assert "--this-host-is-mine" in complaint


@pytest.mark.slow
def test_throughput_passes(runs: dict[str, Run]) -> None:
    status, output, figures, charts = finish(runs["throughput"])
    assert status == 0, output
    assert figures["passed"]
    assert {line["name"] for line in figures["lines"]} >= {"rest, 1 a batch", "stream, 1,000 a batch"}
    assert all(line["acknowledged"] == line["requests"] > 0 for line in figures["lines"])
    assert [chart["unit"] for chart in charts] == ["events/s", "ms", "ms"] * 4
    for chart in charts:
        assert chart["series"].keys() == {"rest", "unary", "stream"}
        assert all(max(y for _, y in points) > 0 for points in chart["series"].values())


def test_limits_fails_where_there_is_no_limit(runs: dict[str, Run]) -> None:
    status, output, figures, _ = finish(runs["unlimited"])
    assert status == 1
    assert f"FAILED: {BURST_ADMITTED.what}" in output
    lost = next(bound for bound in figures["thresholds"] if bound["what"] == LOST.what)
    assert lost["passed"]


@pytest.mark.slow
def test_limits_passes(runs: dict[str, Run]) -> None:
    status, output, figures, charts = finish(runs["limits"])
    assert status == 0, output
    assert figures["passed"]
    admitted, responses = charts
    assert admitted["level"] == ["the limit", figures["settings"]["limit"]]
    assert max(count for _, count in admitted["series"]["admitted"]) == figures["settings"]["limit"]
    assert responses["series"].keys() == {"acknowledged", "limited"}
