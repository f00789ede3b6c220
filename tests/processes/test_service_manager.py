"""What systemd is told, over a real datagram socket: ready, reloading, stopping, and that the server still works."""

import os
import re
import select
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.runtime.service_manager import ServiceManager
from tests.support.harness import Server

TIMEOUT_S = 30


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(TIMEOUT_S)
        yield manager


def next_but_watchdog(manager: socket.socket) -> str:
    """The next message that is not about the watchdog."""
    while (message := manager.recv(1_000).decode()) == "WATCHDOG=1":
        pass
    return message


def discard(manager: socket.socket) -> None:
    """Read what came while nobody looked."""
    while select.select([manager], [], [], 0)[0]:
        manager.recv(1_000)


def test_a_service_is_ready_reloads_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with listening(path) as manager, Server(tmp_path / "data") as server:
        assert next_but_watchdog(manager) == "READY=1"
        discard(manager)
        begin = time.monotonic()
        for _ in range(4):
            assert manager.recv(1_000) == b"WATCHDOG=1"
        assert 0.5 < time.monotonic() - begin < 15
        for pid in server.worker_pids():
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
        before = time.monotonic_ns() // 1_000
        server.process.send_signal(signal.SIGHUP)
        message = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=([0-9]+)", next_but_watchdog(manager))
        assert message is not None
        assert before <= int(message[1]) <= time.monotonic_ns() // 1_000
        assert next_but_watchdog(manager) == "READY=1"
        assert server.stop() == 0
        assert next_but_watchdog(manager) == "STOPPING=1"


def test_an_address_may_be_in_no_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"sluice-{uuid.uuid4().hex}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with listening(f"\0{name}") as manager:
        ServiceManager().ready()
        assert manager.recv(1_000) == b"READY=1"


def test_without_a_service_manager_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    ServiceManager().ready()
    assert not caplog.records


def test_a_service_manager_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    ServiceManager().stopping()
    (record,) = caplog.records
    assert record.getMessage().startswith("the service manager was not told STOPPING: FileNotFoundError")


@pytest.mark.parametrize("variables", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": ""}])
def test_a_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in {"WATCHDOG_USEC": "1000000", **variables}.items():
        monkeypatch.setenv(name, value)
    assert ServiceManager()._watchdog_s == 0
    assert "WATCHDOG_USEC" not in os.environ
