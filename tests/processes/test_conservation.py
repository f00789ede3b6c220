"""The short form of `python -m tests.conservation`: nothing gets lost between the metrics and the database."""

import os
from pathlib import Path

from tests.conservation import campaign, restarts
from tests.support.harness import Server, sluice
from tests.support.metrics import scrape

SECONDS = 60 if os.environ.get("SLUICE_LONG") else 5


def test_both_sums_hold_at_every_scrape(tmp_path: Path) -> None:
    figures = campaign.run(tmp_path, SECONDS, kill_every_s=2, overload_every_s=4)
    print(*figures.lines(), sep="\n")  # noqa: T201 (for `pytest -s`)
    assert figures.kills >= 1
    assert figures.scrapes >= 5


def test_restarts_leave_nothing(tmp_path: Path) -> None:
    assert restarts.run(tmp_path, workers=2, restarts=4).restarts >= 4


def test_a_port_that_is_taken(server: Server, tmp_path: Path) -> None:
    port = server.metrics.rpartition(":")[2].removesuffix("/metrics")
    done = sluice("serve", "--port", "0", "--grpc-port", "0", "--metrics-port", port, "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "--metrics-port" in done.stderr
    assert scrape(server.metrics).total("sluice_workers") == 2
