"""Accepts connections in threads: what the networks of the tests are made of."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from tests.support.relay import shut


class Listener:
    """Accepts connections, and serves each in a thread of its own, until the end of the block."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self, client: socket.socket) -> None:
        """Serve one connection."""
        raise NotImplementedError

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
                threading.Thread(target=self.serve, args=(self._listener.accept()[0],), daemon=True).start()


def host_and_port(url: str) -> tuple[str, int]:
    """Where the server of a URL of HTTP listens."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)
