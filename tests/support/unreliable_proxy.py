"""A proxy in front of a server that fails as it is told: for shippers, which must lose nothing."""

import contextlib
import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.relay import shut
from tests.support.unreliable import Reply

CHUNK_BYTES = 1024 * 1024


class Lost(NamedTuple):
    """The server carries the request out, but the connection is closed without its response."""


class Late(NamedTuple):
    """The server carries the request out, but no response comes until the client closes the connection."""


Fault = Reply | Lost | Late


class UnreliableProxy:
    """Forwards requests byte by byte to HOST:PORT. The first ones fail as `faults` say, one for each request."""

    def __init__(self, target: str, faults: Sequence[Fault | None] = ()) -> None:
        host, _, port = target.removeprefix("http://").rpartition(":")
        self._target = (host, int(port))
        self.faults = list(faults)
        self.requests: list[bytes] = []
        """All that arrived, as it was sent."""
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shut(self._listener)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            while self._answer(client):
                pass
        shut(client)

    def _answer(self, client: socket.socket) -> bool:
        """Whether the connection goes on after its next request. Raises EOFError at its end."""
        request = read_message(client)
        with self._lock:
            self.requests.append(request)
            fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Reply):
            client.sendall(response_of(fault))
            return True
        with socket.create_connection(self._target) as server:
            server.sendall(request)
            response = read_message(server)
            while response.startswith(b"HTTP/1.1 100"):
                response = read_message(server)
        if fault is None:
            client.sendall(response)
        elif isinstance(fault, Late):
            client.recv(1)
        return fault is None


def response_of(reply: Reply) -> bytes:
    """A response without a body."""
    wait = "" if reply.retry_after is None else f"Retry-After: {reply.retry_after}\r\n"
    return f"HTTP/1.1 {reply.status} Reply\r\n{wait}Content-Length: 0\r\n\r\n".encode()


def read_message(source: socket.socket) -> bytes:
    """The next request or response. Raises EOFError."""
    message = b""
    while b"\r\n\r\n" not in message:
        message += receive(source)
    head, _, body = message.partition(b"\r\n\r\n")
    fields = [line.lower().partition(b":") for line in head.split(b"\r\n")[1:]]
    headers = {name: value.strip() for name, _, value in fields}
    if headers.get(b"expect") == b"100-continue":
        source.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(headers.get(b"content-length", b"0"))
    is_chunked = headers.get(b"transfer-encoding") == b"chunked"
    parts = [body]
    while not parts[-1].endswith(b"0\r\n\r\n") if is_chunked else sum(map(len, parts)) < length:
        parts.append(receive(source))
    return head + b"\r\n\r\n" + b"".join(parts)


def receive(source: socket.socket) -> bytes:
    """What arrives. Raises EOFError."""
    if not (chunk := source.recv(CHUNK_BYTES)):
        raise EOFError
    return chunk
