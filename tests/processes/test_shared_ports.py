"""Which of the sockets that listen on one port gets new connections, while a worker is replaced."""

import socket
from contextlib import ExitStack, suppress

from server.runtime.ports import SHARED, bound_socket, prefer_newest

CONNECTIONS = 64
"""With two sockets, all of them go to one by chance once in 2^63 runs."""


def listening(port: int) -> socket.socket:
    """A socket of a worker."""
    sock = bound_socket("127.0.0.1", port, *SHARED)
    sock.listen(4 * CONNECTIONS)
    sock.setblocking(False)
    return sock


def accepted(*sockets: socket.socket) -> list[int]:
    """How many of CONNECTIONS new connections each of the sockets was given."""
    port = sockets[0].getsockname()[1]
    with ExitStack() as opened:
        for _ in range(CONNECTIONS):
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        return [accept_all(each) for each in sockets]


def accept_all(listener: socket.socket) -> int:
    count = 0
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def test_a_successor_gets_all_new_connections_and_then_its_share() -> None:
    first = listening(0)
    port = first.getsockname()[1]
    prefer_newest((port,), workers=2)
    with listening(port) as second:
        assert all(accepted(first, second))
        with listening(port) as successor:
            prefer_newest((port,), workers=2)
            assert accepted(first, second, successor) == [0, 0, CONNECTIONS]
            first.close()
            assert all(accepted(second, successor))
            with listening(port) as next_one:
                assert accepted(second, successor, next_one) == [0, 0, CONNECTIONS]
