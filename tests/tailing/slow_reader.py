"""A client that reads 1 kB/s is cut with a reason and a token, and resumes. Another one is not held up."""

import socket
import time
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.harness import Server, batch, event
from tests.support.reading import EVENTS
from tests.support.tail import TAIL, follow_rest, messages_in

EVENTS_SENT = 100
EVENT_BYTES = 200_000
SLOW_S = 25


def slow_reader(directory: Path) -> None:
    """Fails unless the slow client is cut, and misses nothing when it resumes."""
    with Server(directory / "server") as server:
        secret = server.create_key("slow", "--rate-limit", "0")["key"]
        with server.client(secret) as client, slow_connection(server, secret) as slow:
            with follow_rest(server, secret) as messages:
                next(messages)
                body = batch(0, events=[event(data={"text": "x" * EVENT_BYTES}) for _ in range(10)])
                ids = []
                for _ in range(EVENTS_SENT // 10):
                    ids += [item["id"] for item in client.post(EVENTS, json=body).json()["events"]]
                began = time.monotonic()
                assert [message.data["id"] for message in islice(messages, EVENTS_SENT)] == ids
                print(f"  a quick client has all {EVENTS_SENT} events {time.monotonic() - began:.1f} s after the last")  # noqa: T201
            text = read_slowly(slow).decode()
        received = list(messages_in(iter(text.partition("retry: 2000")[2].replace("\r\n", "\n").splitlines())))
        assert received[-1].kind == "end", received[-1].kind
        assert "too" in received[-1].data["detail"] or "longer" in received[-1].data["detail"]
        got = [message.data["id"] for message in received if message.kind == "event"]
        with follow_rest(server, secret, token=received[-1].token) as messages:
            got += [message.data["id"] for message in islice(messages, EVENTS_SENT - len(got))]
        print(f"  the slow one was cut: {received[-1].data}, {len(received) - 2} events, the rest after it resumed")  # noqa: T201
        assert got == ids


def slow_connection(server: Server, secret: str) -> socket.socket:
    """A tail over HTTP/1.0, so without chunks, with a small buffer."""
    where = urlsplit(server.url)
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.connect((where.hostname, where.port))
    opened.sendall(f"GET {TAIL} HTTP/1.0\r\nHost: x\r\nX-API-Key: {secret}\r\n\r\n".encode())
    return opened


def read_slowly(opened: socket.socket) -> bytes:
    """What arrives: 1 kB/s for some time, and then all that is left."""
    read, ends = b"", time.monotonic() + SLOW_S
    while chunk := opened.recv(1_000 if time.monotonic() < ends else 1_000_000):
        read += chunk
        if time.monotonic() < ends:
            time.sleep(1)
    return read
