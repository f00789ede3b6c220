"""A server that is started again at once after `kill -9` waits for what is left of its predecessor."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from server.runtime.orphans import orphaned_workers
from tests.support.harness import Server, batch, wait_until
from tests.support.ports import free_ports


def ports_to_keep() -> list[str]:
    """Options with two ports that are free, also after a kill."""
    port, grpc_port = map(str, free_ports(2))
    return ["--port", port, "--grpc-port", grpc_port]


def kill(server: Server) -> None:
    """Kill the supervisor alone."""
    server.process.kill()
    server.process.wait()
    assert server.process.stdout is not None
    server.process.stdout.close()
    server.log.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_killed_server_is_started_again_at_once(tmp_path: Path) -> None:
    ports = ports_to_keep()
    first = Server(tmp_path, *ports, "--workers", "2").start()
    key = first.first_key
    with first.client(key) as client:
        assert client.post("/api/v1/events", json=batch()).status_code == 201
    kill(first)
    with Server(tmp_path, *ports) as second, second.client(key) as client:
        assert second.url == first.url
        assert client.post("/api/v1/events", json=batch()).status_code == 201
        assert len(client.get("/api/v1/events").json()) == 2


def test_a_start_waits_for_workers_that_still_drain(tmp_path: Path) -> None:
    ports = ports_to_keep()
    first = Server(tmp_path, *ports).start()
    (worker,) = first.worker_pids()
    assert worker not in orphaned_workers()
    second = Server(tmp_path, *ports)
    starting = threading.Thread(target=second.start)
    with stopped(worker):
        kill(first)
        assert worker in orphaned_workers()
        starting.start()
        wait_until(
            lambda: f"waiting for the workers of a server that was killed: processes [{worker}]" in first.stderr(),
            "the notice",
        )
    starting.join()
    assert second.url == first.url
    assert second.stop() == 0


def start_at_port_of(first: Server, data: Path) -> subprocess.CompletedProcess[str]:
    """Start a server where `first` listens."""
    port = first.url.rpartition(":")[2]
    return subprocess.run(
        [sys.executable, "-m", "server", "serve", "--port", port, "--data-dir", str(data)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def check_taken(done: subprocess.CompletedProcess[str], first: Server) -> None:
    """The start failed at once, with one line."""
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"port {first.url.rpartition(':')[2]} on 127.0.0.1 is taken" in done.stderr


def test_workers_of_others_are_not_waited_for(tmp_path: Path) -> None:
    with Server(tmp_path / "first") as first:
        check_taken(start_at_port_of(first, tmp_path / "second"), first)


def test_orphans_at_other_ports_are_not_waited_for(tmp_path: Path) -> None:
    with Server(tmp_path / "first") as first, ExitStack() as stack:
        killed = Server(tmp_path / "killed").start()
        (worker,) = killed.worker_pids()
        stack.enter_context(stopped(worker))
        kill(killed)
        assert worker in orphaned_workers()
        check_taken(start_at_port_of(first, tmp_path / "second"), first)


def test_a_port_is_taken_while_no_worker_listens(tmp_path: Path) -> None:
    """Between the death of a worker and its replacement, only the supervisor holds the port."""
    with Server(tmp_path / "first") as first:
        (worker,) = first.worker_pids()
        with stopped(first.process.pid):
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: not listens(first), "the end of the worker")
            check_taken(start_at_port_of(first, tmp_path / "second"), first)
        wait_until(lambda: listens(first), "its replacement")


def listens(server: Server) -> bool:
    """Whether a process listens at the server's port for REST."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return False
    return True


def test_closed_connections_of_another_program_do_not_keep_a_port(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    address = ("127.0.0.1", port)
    with socket.create_server(address) as other, socket.create_connection(address) as client:
        accepted, _ = other.accept()
        accepted.close()  # first, so that its end of the connection is in TIME_WAIT
        assert client.recv(1) == b""
    with Server(tmp_path, "--port", str(port)) as server:
        assert server.url.endswith(f":{port}")
