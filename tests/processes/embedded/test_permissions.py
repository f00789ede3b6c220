"""The data directory cannot be written to for a while: the server says so, tries again, and recovers by itself."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.harness import Server, batch, wait_until

ATTEMPTS_S = 90
"""Eleven attempts are made within this. Each takes a second or more, and starts a process."""

RECOVERY_S = 60
"""An event is stored within this after the cause is gone: 1 s until the next attempt, and the start of mongod. Both
take 2 s on a quiet machine."""


@pytest.mark.slow
@pytest.mark.usefixtures("normal_user")
@pytest.mark.parametrize("folder", [pytest.param("data", marks=pytest.mark.long), "data/db"])
def test_a_directory_without_permission_to_write(tmp_path: Path, folder: str) -> None:
    server = Server(tmp_path / "server", "--data-dir", str(tmp_path / "data"))
    with server, server.client(server.first_key) as client:
        (mongod,) = server.mongod_pids()
        (tmp_path / folder).chmod(0o555)
        os.kill(mongod, signal.SIGKILL)
        told = "start of the embedded database failed: "
        both = "eleven attempts, of which the first and last are logged"
        wait_until(lambda: server.stderr().count(told) >= 2, both, ATTEMPTS_S)
        assert client.get("/health/ready").status_code == 503
        (tmp_path / folder).chmod(0o700)
        wait_until(lambda: client.post("/api/v1/events", json=batch()).status_code == 201, "a stored event", RECOVERY_S)
        failures = [line for line in server.stderr().splitlines() if told in line]
        if folder == "data":
            assert all("cannot be used (Permission denied: " in line for line in failures), failures
        else:
            assert all("mongod ended with status" in line and "ermission denied" in line for line in failures), failures
        assert server.stop() == 0


@pytest.mark.usefixtures("normal_user")
def test_a_stop_while_the_directory_cannot_be_written_to_is_clean(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", "--data-dir", str(tmp_path / "data")).start()
    (mongod,) = server.mongod_pids()
    (tmp_path / "data").chmod(0o555)
    os.kill(mongod, signal.SIGKILL)
    wait_until(lambda: "start of the embedded database failed: " in server.stderr(), "an attempt")
    assert server.stop() == 0
    (tmp_path / "data").chmod(0o700)
    with server:
        assert "the first key" not in server.output.lower()
