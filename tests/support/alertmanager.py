"""Debian's Alertmanager, to which webhooks deliver."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.harness import Json, wait_until
from tests.support.ports import free_port

needs_alertmanager = pytest.mark.skipif(
    shutil.which("prometheus-alertmanager") is None,
    reason="needs Debian's Alertmanager: apt-get install prometheus-alertmanager",
)

CONFIGURATION = "{route: {receiver: nobody}, receivers: [{name: nobody}]}"


class Alertmanager:
    """A running Alertmanager."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self.url = f"{url}/api/v2/alerts"
        self._client = client

    def alerts(self) -> list[Json]:
        """The alerts that are firing."""
        response = self._client.get(self.url)
        assert response.status_code == 200, response.text
        found: list[Any] = response.json()
        return found

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            self.alerts()
        except (httpx.TransportError, AssertionError):
            return False
        return True


@contextmanager
def alertmanager(directory: Path) -> Iterator[Alertmanager]:
    """Run an Alertmanager with its files in `directory`, which tells nobody."""
    (directory / "alertmanager.yml").write_text(CONFIGURATION)
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus-alertmanager",
        f"--config.file={directory}/alertmanager.yml",
        f"--storage.path={directory}/data",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(timeout=30, trust_env=False) as client:
            running = Alertmanager(f"http://{address}", client)
            wait_until(running.is_ready, "Alertmanager answers")
            yield running
    finally:
        process.kill()
        process.wait()
