"""A server that fails as it is told: for clients that send again."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """A response with this status."""

    status: int
    retry_after: str | None = None


class Close(NamedTuple):
    """The connection is closed without a response."""


class Silence(NamedTuple):
    """No response comes until the client closes the connection."""


Behaviour = Reply | Close | Silence


class UnreliableServer(ThreadingHTTPServer):
    """Behaves as `behaviours` say, one for each request. Remembers the idempotency keys of the requests.

    A request is a connection. They get their behaviours in the order in which they are made: a thread of an earlier one
    may run later.
    """

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours = list(behaviours)
        self.behaviour_of: dict[Any, Behaviour] = {}
        """By connection."""
        self.idempotency_keys: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take the behaviour of a connection, and start its thread."""
        self.behaviour_of[request] = self.behaviours.pop(0)
        super().process_request(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: UnreliableServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.idempotency_keys.append(self.headers["Idempotency-Key"])
        match self.server.behaviour_of.pop(self.connection):
            case Reply(status, retry_after):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                if retry_after is not None:
                    self.send_header("Retry-After", retry_after)
                self.end_headers()
            case Silence():
                self.rfile.read(1)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is the library's)
        """Print nothing."""


@contextmanager
def unreliable_server(behaviours: Sequence[Behaviour]) -> Iterator[UnreliableServer]:
    """A server that runs."""
    with UnreliableServer(behaviours) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
