"""Connections over TLS that send nothing count from the moment they are accepted, as plain ones do."""

import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.harness import Server, batch, tls_options, wait_until

FILES = 256
SILENT = 296
CLOSING = 16
"""Connections that were accepted at the same time, and are about to be closed."""


@pytest.fixture
def secure(tmp_path: Path, certificates: Path) -> Iterator[Server]:
    """A server with TLS, whose worker may have few files."""
    with Server(tmp_path, *tls_options(certificates)) as server:
        (worker,) = server.worker_pids()
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (FILES, FILES))
        yield server


def takes_events(server: Server, certificates: Path) -> bool:
    """Whether a good client is served."""
    trust = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with suppress(httpx.TransportError), httpx.Client(verify=trust, trust_env=False, timeout=5) as client:
        headers = {"X-API-Key": server.first_key}
        return client.post(f"{server.url}/api/v1/events", json=batch(), headers=headers).status_code == 201
    return False


def files_of(pid: int) -> int:
    """How many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def connect(server: Server) -> socket.socket:
    """A connection with no handshake yet."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 0), timeout=30)


def test_silent_connections_leave_files_free(secure: Server, certificates: Path) -> None:
    (worker,) = secure.worker_pids()
    assert takes_events(secure, certificates)
    quiet = files_of(worker)
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(secure)) for _ in range(SILENT)]
        began, most = time.monotonic(), 0
        while time.monotonic() - began < 3:
            most = max(most, files_of(worker))
            time.sleep(0.05)
        assert most - quiet <= FILES // 2 + FILES // 8 + CLOSING
        wait_until(lambda: takes_events(secure, certificates), "a good client to be served", 20)
        for connection in silent:
            with suppress(ConnectionError):
                assert connection.recv(1) == b"", "closed without a word"
        assert time.monotonic() - began < 30
    wait_until(lambda: files_of(worker) <= quiet + 2, "the files to be closed")
    assert secure.worker_pids() == [worker]


def test_handshakes_that_fail_do_not_count(secure: Server, certificates: Path) -> None:
    for _ in range(2 * FILES):
        with connect(secure) as connection, suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(1_000)
    assert takes_events(secure, certificates)
    assert "Traceback" not in secure.stderr()


def test_a_request_right_behind_the_handshake_is_answered(secure: Server, certificates: Path) -> None:
    """The request comes in the same packet as the end of the handshake."""
    trust = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trust.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(secure) as connection:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                if pending := outgoing.read():
                    connection.sendall(pending)
                incoming.write(connection.recv(65_536))
        tls.write(request)
        connection.sendall(outgoing.read())  # the end of the handshake and the request
        received = b""
        while data := connection.recv(65_536):  # until the server closes the connection
            incoming.write(data)
            with suppress(ssl.SSLWantReadError):
                while part := tls.read(65_536):
                    received += part
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert received.endswith(b"}")


def test_a_drain_ends_handshakes(tmp_path: Path, certificates: Path) -> None:
    with Server(tmp_path, *tls_options(certificates)) as server, connect(server):
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15
