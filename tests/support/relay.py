"""A network between a server and its MongoDB, which breaks after a number of bytes."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 1024 * 1024


class Relay:
    """Forwards to `url`, until more than `cut_after` bytes went to the database over one connection.

    From then on it holds the response to those until `release`, and all other connections are closed for good.
    """

    def __init__(self, url: str, cut_after: int) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._target = ("127.0.0.1", parts.port)
        self._cut_after = cut_after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"mongodb://127.0.0.1:{self._listener.getsockname()[1]}/?directConnection=true"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.is_cut = threading.Event()
        """Set when the response is held back."""
        self._released = threading.Event()

    def release(self) -> None:
        """Forward the response."""
        self._released.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._listener.close()
        for pair in self._pairs:
            shut(*pair)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                server = self._listener.accept()[0]
                with contextlib.ExitStack() as if_refused:
                    if_refused.enter_context(server)
                    pair = (server, socket.create_connection(self._target))
                    if_refused.pop_all()
                self._pairs.append(pair)
                threading.Thread(target=self._forward_requests, args=pair, daemon=True).start()

    def _forward_requests(self, server: socket.socket, database: socket.socket) -> None:
        """Forward what the server sends, and start to forward the responses."""
        held = threading.Event()
        threading.Thread(target=self._forward_responses, args=(server, database, held), daemon=True).start()
        sent = 0
        with contextlib.suppress(OSError):
            while chunk := server.recv(CHUNK_BYTES):
                sent += len(chunk)
                if sent > self._cut_after and not held.is_set():
                    held.set()
                    self._listener.shutdown(socket.SHUT_RDWR)
                database.sendall(chunk)
        shut(server, database)

    def _forward_responses(self, server: socket.socket, database: socket.socket, held: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := database.recv(CHUNK_BYTES):
                if held.is_set():
                    for pair in self._pairs:
                        if pair != (server, database):
                            shut(*pair)
                    self.is_cut.set()
                    self._released.wait()
                server.sendall(chunk)
        shut(server, database)


def shut(*sockets: socket.socket) -> None:
    """Close connections, also if a thread waits for data from them."""
    for end in sockets:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
