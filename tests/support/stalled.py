"""A request whose body stops arriving, which a drain waits for."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.harness import Server

BODY = b'{"source": "slow", "events": [{"type": "a", "data": {}}]}'


@contextmanager
def stalled_request(server: Server, key: str) -> Iterator[socket.socket]:
    """A connection whose request was accepted, and whose body is still to come: BODY."""
    host, port = server.url.rpartition("//")[2].rsplit(":", 1)
    with socket.create_connection((host.strip("[]"), int(port)), timeout=60) as connection:
        head = f"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        yield connection
