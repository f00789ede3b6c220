"""A network between a client and a server that lets a number of bytes through, and no more until it is opened."""

import socket
import threading
from contextlib import suppress
from types import TracebackType

from tests.support.listener import Listener, host_and_port
from tests.support.relay import CHUNK_BYTES, shut


class Valve(Listener):
    """Forwards to HOST:PORT. Once clients have sent `limit` bytes in all, what they send waits until `open`.

    So a client that has more to send cannot come to its end, however long the test takes for its next step.
    """

    def __init__(self, target: str, limit: int) -> None:
        super().__init__()
        self._target = host_and_port(target)
        self._left = limit
        self._lock = threading.Lock()
        self._opened = threading.Event()

    def open(self) -> None:
        """Let all through from now on."""
        self._opened.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.set()
        super().__exit__(kind, error, trace)

    def serve(self, client: socket.socket) -> None:
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
