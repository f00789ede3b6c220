"""A network between a client and a server that lets a number of bytes through, and no more until it is opened."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.support.relay import CHUNK_BYTES, shut


class Valve:
    """Forwards to HOST:PORT. Once clients have sent `limit` bytes in all, what they send waits until `open`.

    So a client that has more to send cannot come to its end, however long the test takes for its next step.
    """

    def __init__(self, target: str, limit: int) -> None:
        host, _, port = target.removeprefix("http://").rpartition(":")
        self._target = (host, int(port))
        self._left = limit
        self._lock = threading.Lock()
        self._opened = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def open(self) -> None:
        """Let all through from now on."""
        self._opened.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.set()
        shut(self._listener)

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Forward both ways until one end closes the connection. A server that is away closes it at once."""
        try:
            server = socket.create_connection(self._target)
        except OSError:
            shut(client)
            return
        threading.Thread(target=self._forward_responses, args=(server, client), daemon=True).start()
        with suppress(OSError):
            while chunk := client.recv(CHUNK_BYTES):
                self._wait_for(len(chunk))
                server.sendall(chunk)
        shut(client, server)

    def _wait_for(self, size: int) -> None:
        with self._lock:
            self._left -= size
        if self._left < 0:
            self._opened.wait()

    def _forward_responses(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while chunk := server.recv(CHUNK_BYTES):
                client.sendall(chunk)
        shut(client, server)
