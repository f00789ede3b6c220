"""A network between a server and its MongoDB, which breaks after a number of bytes."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterable
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
                pair = (self._listener.accept()[0], socket.create_connection(self._target))
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


class CuttingRelay:
    """Forwards clients to a server, and ends the connection after `cut_after` bytes of the response."""

    def __init__(self, target: str, cut_after: int) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._cut_after = cut_after
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shut(self._listener, *self._ends)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                pair = (self._listener.accept()[0], socket.create_connection(self._target))
                self._ends += pair
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        """Forward one request, which arrives at once, and its response."""
        with contextlib.suppress(OSError):
            server.sendall(client.recv(CHUNK_BYTES))
            left = self._cut_after
            while left and (chunk := server.recv(min(left, CHUNK_BYTES))):
                client.sendall(chunk)
                left -= len(chunk)
        shut(client, server)


class CutsOfExports(CuttingRelay):
    """Ends connection after connection after some bytes of its response, and lets the later ones be.

    It asks the server for one encoding, whatever the client asks for. `has_cut` is called before each cut.
    """

    def __init__(self, target: str, cuts: Iterable[int], encoding: str, has_cut: Callable[[], object]) -> None:
        super().__init__(target, 0)
        self._cuts = iter(cuts)
        self._encoding = f"Accept-Encoding: {encoding}".encode()
        self._has_cut = has_cut

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        left = next(self._cuts, None)
        with contextlib.suppress(OSError):
            server.sendall(re.sub(rb"Accept-Encoding: [^\r]*", self._encoding, client.recv(CHUNK_BYTES)))
            while left != 0 and (chunk := server.recv(CHUNK_BYTES if left is None else min(left, CHUNK_BYTES))):
                client.sendall(chunk)
                left = None if left is None else left - len(chunk)
        if left == 0:
            self._has_cut()
        shut(client, server)
