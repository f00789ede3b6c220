"""A proxy in front of a server that fails as it is told: for clients that send again, and lose and double nothing."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.support.listener import Listener, host_and_port
from tests.support.relay import shut
from tests.support.unreliable import Reply

CHUNK_BYTES = 1024 * 1024

CONTINUE = re.compile(rb"\AHTTP/1\.1 100 [^\r]*\r\n\r\n")
"""The proxy has said this to the client already."""

ACCEPT_ENCODING = re.compile(rb"(?i)^(accept-encoding:)[^\r]*", re.MULTILINE)


class Cut(NamedTuple):
    """The server carries the request out, but the connection is closed after `after` bytes of the response.

    `before` is called before that.
    """

    after: int = 0
    before: Callable[[], object] = lambda: None


class Stall(NamedTuple):
    """The server carries the request out, but after `after` bytes of the response no more come.

    That ends when the client closes the connection.
    """

    after: int = 0


Fault = Reply | Cut | Stall


class UnreliableProxy(Listener):
    """Forwards requests byte by byte to HOST:PORT. The first ones fail as `faults` say, one for each request.

    With an `encoding`, it asks the server for that, whatever the client asks for.
    """

    def __init__(self, target: str, faults: Sequence[Fault | None] = (), encoding: str | None = None) -> None:
        super().__init__()
        self._target = host_and_port(target)
        self._encoding = encoding
        self.faults = list(faults)
        self.requests: list[bytes] = []
        """All that arrived, as it was sent."""
        self._lock = threading.Lock()
        self.url = f"http://{self.address}"

    def serve(self, client: socket.socket) -> None:
        """Forward the requests of one connection."""
        with contextlib.suppress(OSError, EOFError), socket.create_connection(self._target) as server:
            responses = Responses(server, client)
            threading.Thread(target=responses.forward, daemon=True).start()
            while True:
                request = read_request(client)
                fault = self._next_fault(request)
                if isinstance(fault, Reply):
                    client.sendall(response_of(fault))
                    continue
                responses.begin(fault)
                server.sendall(self._with_encoding(request))
        shut(client)

    def _next_fault(self, request: bytes) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            return self.faults.pop(0) if self.faults else None

    def _with_encoding(self, request: bytes) -> bytes:
        return request if self._encoding is None else ACCEPT_ENCODING.sub(rb"\1 " + self._encoding.encode(), request)


class Responses:
    """The responses of one connection, which come one after the other."""

    def __init__(self, server: socket.socket, client: socket.socket) -> None:
        self._server = server
        self._client = client
        self._fault: Cut | Stall | None = None
        self._forwarded = 0

    def begin(self, fault: Cut | Stall | None) -> None:
        """Say how the next one fails."""
        self._fault, self._forwarded = fault, 0

    def forward(self) -> None:
        """Forward all, until the connection ends."""
        with contextlib.suppress(OSError):
            while chunk := self._server.recv(CHUNK_BYTES):
                if chunk := CONTINUE.sub(b"", chunk):
                    self._forward(chunk)
        shut(self._client, self._server)

    def _forward(self, chunk: bytes) -> None:
        """Forward what the fault lets through. Raises ConnectionAbortedError to cut the connection."""
        fault, left = self._fault, len(chunk)
        if fault is not None:
            left = max(0, fault.after - self._forwarded)
        self._forwarded += len(chunk)  # before it is sent: the client can have the next one begin from then on
        self._client.sendall(chunk[:left])
        if isinstance(fault, Cut) and len(chunk) >= left:
            fault.before()
            raise ConnectionAbortedError


def response_of(reply: Reply) -> bytes:
    """A response without a body."""
    wait = "" if reply.retry_after is None else f"Retry-After: {reply.retry_after}\r\n"
    return f"HTTP/1.1 {reply.status} Reply\r\n{wait}Content-Length: 0\r\n\r\n".encode()


def read_request(source: socket.socket) -> bytes:
    """The next request. Raises EOFError."""
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
    content = bytearray(body)  # the end of a chunked one may come in two pieces
    while not content.endswith(b"0\r\n\r\n") if is_chunked else len(content) < length:
        content += receive(source)
    return head + b"\r\n\r\n" + bytes(content)


def receive(source: socket.socket) -> bytes:
    """What arrives. Raises EOFError."""
    if not (chunk := source.recv(CHUNK_BYTES)):
        raise EOFError
    return chunk
