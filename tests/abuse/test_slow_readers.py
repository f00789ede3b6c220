"""Clients that read slowly are served, and those that read nothing are cut off."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from server.rest.http.response_writing import WRITE_TIMEOUT_S
from tests.support.harness import Server, wait_until
from tests.support.wire import connect

FILE = b"GET /schema/files/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
"""A response of 1.7 MB."""

BYTES_PER_S = 20_000
READING_S = 45
"""One and a half times WRITE_TIMEOUT_S."""


def read_slowly(connection: socket.socket) -> int:
    """Read at BYTES_PER_S for READING_S. Returns how much there was."""
    began, received = time.monotonic(), 0
    while time.monotonic() - began < READING_S:
        chunk = connection.recv(BYTES_PER_S // 10)
        if not chunk:
            break
        received += len(chunk)
        time.sleep(max(0.0, began + received / BYTES_PER_S - time.monotonic()))
    return received


def read_nothing(connection: socket.socket) -> float:
    """Wait until the connection is reset. Returns how long that took."""
    began = time.monotonic()
    wait_until(lambda: connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "a reset", 2 * WRITE_TIMEOUT_S)
    return time.monotonic() - began


@pytest.mark.long
@pytest.mark.slow
def test_what_counts_is_progress(server: Server) -> None:
    with connect(server) as slow, connect(server) as silent, ThreadPoolExecutor(2) as threads:
        for connection in (slow, silent):
            connection.settimeout(2)
            with suppress(TimeoutError):
                connection.sendall(FILE * 40)  # 68 MB
            connection.settimeout(30)
        reading, waiting = threads.submit(read_slowly, slow), threads.submit(read_nothing, silent)
        assert WRITE_TIMEOUT_S - 1 < waiting.result() < WRITE_TIMEOUT_S + 5
        assert reading.result() >= BYTES_PER_S * (READING_S - 2)
