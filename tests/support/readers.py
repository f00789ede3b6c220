"""Clients that read lists over connections of their own: at full speed, or not at all."""

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.support.harness import Json, Server, batch
from tests.support.wire import EVENTS, connect

SMALL_BUFFER_BYTES = 4_096
"""What the kernel may hold for a client that does not read."""

TIMEOUT_S = 40


def send_get(
    connection: socket.socket,
    key: Json,
    query: str,
    receive_buffer: int | None = None,
    path: str = EVENTS,
    accept: str = "*/*",
) -> None:
    """Send a request for a list, and read nothing."""
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    fields = {"Host": "x", "X-API-Key": key["key"], "Accept": accept, "Connection": "close"}
    lines = (f"GET {path}?{query} HTTP/1.1", *map(": ".join, fields.items()), "", "")
    connection.sendall("\r\n".join(lines).encode())


@contextmanager
def silent_readers(
    server: Server, key: Json, query: str, count: int, path: str = EVENTS, accept: str = "*/*"
) -> Iterator[list[socket.socket]]:
    """Clients that ask for a list and read nothing of it."""
    opened = [connect(server) for _ in range(count)]
    try:
        for connection in opened:
            send_get(connection, key, query, SMALL_BUFFER_BYTES, path, accept)
        yield opened
    finally:
        for connection in opened:
            connection.close()


class Background:
    """Threads that send requests of one kind again and again, and the statuses of the responses."""

    def __init__(self, server: Server, key: Json, path: str, threads: int) -> None:
        self.statuses: Counter[int] = Counter()
        self._target = server.url.removeprefix("http://")
        self._headers = {"X-API-Key": key["key"], "Content-Type": "application/json"}
        self._path = path
        self._threads = ThreadPoolExecutor(threads)
        self._count = threads
        self._stop = threading.Event()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._target, timeout=TIMEOUT_S)
        while not self._stop.is_set():
            connection.request("GET", self._path, headers=self._headers)
            response = connection.getresponse()
            while response.read(1_000_000):
                pass
            self.statuses[response.status] += 1
        connection.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run inside. Fails if a thread failed."""
        with self._threads as threads:
            running = [threads.submit(self._run) for _ in range(self._count)]
            try:
                yield
            finally:
                self._stop.set()
            for done in running:
                done.result()


def post_steadily(server: Server, key: Json, seconds: float, interval_s: float) -> list[float]:
    """Post single events at a steady rate, and check that the server is ready. Returns the latencies in seconds."""
    latencies = []
    with server.client(key["key"]) as client:
        due = end = time.monotonic()
        end += seconds
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            assert client.post(EVENTS, json=batch()).status_code == 201
            latencies.append(time.monotonic() - due)
            assert client.get("/health/ready").status_code == 200
            due = max(due + interval_s, time.monotonic())
    return latencies
