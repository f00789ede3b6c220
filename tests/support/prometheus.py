"""Debian's Prometheus, which scrapes a server of the tests."""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.harness import wait_until

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

    def has_scraped(self) -> bool:
        """Whether it has scraped its target."""
        return bool(self.value('up{job="sluice"} == 1'))


@contextmanager
def prometheus(directory: Path, target: str, rules: Path) -> Iterator[Prometheus]:
    """Run Prometheus with its files in `directory`. It scrapes HOST:PORT of `target`, and evaluates `rules`."""
    directory.mkdir(parents=True)
    (directory / "prometheus.yml").write_text(CONFIGURATION.format(ms=SCRAPE_MS, rules=rules, target=target))
    command = ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    with listening(command, directory / "log") as address:
        running = Prometheus(f"http://{address}")
        try:
            wait_until(running.has_scraped, f"Prometheus scrapes {target}")
            yield running
        finally:
            running.close()


@contextmanager
def listening(command: Sequence[str], log: Path) -> Iterator[str]:
    """Run a program of Prometheus, whose output goes to `log`, once it is ready. The value is its HOST:PORT."""
    process, address = start(command, log)
    try:
        yield address
    finally:
        process.kill()
        process.wait()


def start(command: Sequence[str], log: Path) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a program of Prometheus, and wait until it is ready. Returns it and its HOST:PORT.

    It listens some time after a free port was found for it. If another program has taken that one, it gets another.
    """
    while True:
        address = f"127.0.0.1:{free_port()}"
        with log.open("wb") as output:
            process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=output, stderr=output)
        try:
            wait_until(partial(has_ended_or_is_ready, process, address), f"{command[0]} is ready")
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.poll() is None:
            return process, address
        assert "address already in use" in log.read_text(), log.read_text()


def has_ended_or_is_ready(process: "subprocess.Popen[bytes]", address: str) -> bool:
    """Whether a program has ended, or answers that it is ready."""
    if process.poll() is not None:
        return True
    try:
        return httpx.get(f"http://{address}/-/ready", timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def free_port() -> int:
    """A port that no program uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def promtool(*arguments: str, text: str = "") -> str:
    """What `promtool` prints. Fails if it finds anything wrong."""
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
