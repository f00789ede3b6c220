"""Debian's Prometheus, which scrapes a server of the tests."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.harness import wait_until
from tests.support.ports import free_port

SCRAPE_MS = 250

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs Debian's prometheus: apt-get install prometheus",
)

CONFIGURATION = """
global: {{scrape_interval: {ms}ms, evaluation_interval: {ms}ms}}
rule_files: ["{rules}"]
scrape_configs: [{{job_name: sluice, static_configs: [{{targets: ["{target}"]}}]}}]
"""


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def close(self) -> None:
        """Close its connection."""
        self._client.close()

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        response = self._client.get(f"/api/v1/{path}", params=query)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def value(self, expression: str) -> list[Any]:
        """What an expression is now: a list of series."""
        result: list[Any] = self.get("query", query=expression)["result"]
        return result

    def is_ready(self) -> bool:
        """Whether it has scraped its target."""
        try:
            has_started = self._client.get("/-/ready").status_code == 200  # it is 503 while it reads its files
            return has_started and bool(self.value('up{job="sluice"} == 1'))
        except httpx.TransportError:
            return False


@contextmanager
def prometheus(directory: Path, target: str, rules: Path) -> Iterator[Prometheus]:
    """Run Prometheus with its files in `directory`. It scrapes HOST:PORT of `target`, and evaluates `rules`."""
    directory.mkdir(parents=True)
    (directory / "prometheus.yml").write_text(CONFIGURATION.format(ms=SCRAPE_MS, rules=rules, target=target))
    port = free_port()
    command = ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    running = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_until(running.is_ready, f"Prometheus scrapes {target}")
        time.sleep(3 * SCRAPE_MS / 1_000)  # a rate needs two scrapes
        yield running
    finally:
        running.close()
        process.terminate()
        process.wait()


def promtool(*arguments: str, text: str = "") -> str:
    """What `promtool` prints. Fails if it finds anything wrong."""
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
