"""The TCP connections of the gRPC port: how many there may be, and how they end.

The library tells nothing about its connections. So they are found among the descriptors of the process.
"""

import logging
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

SHARE = 3
"""gRPC may use a third of the descriptors that a process may have, and REST half. The rest is for the database."""

LOG_INTERVAL_S = 60
"""How often it is logged that connections are closed, because they are too many."""

log = logging.getLogger("sluice")


def max_connections() -> int:
    """How many connections the gRPC port may have in this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(soft // SHARE, 2**31 - 1)


class ConnectionWatch:
    """Logs that the port has as many connections as it may have. The library closes more without a word."""

    def __init__(self, port: int, limit: int) -> None:
        self._port = port
        self._limit = limit
        self._logged_at = -float(LOG_INTERVAL_S)

    def check(self) -> None:
        """Count the connections and log if they are too many, at most once in LOG_INTERVAL_S."""
        if monotonic() - self._logged_at < LOG_INTERVAL_S or not has_open_descriptors(self._limit):
            return
        if sum(1 for _ in connections_of(self._port)) >= self._limit:
            self._logged_at = monotonic()
            log.warning(
                "gRPC has %d connections, all that the limit on open files allows: more are closed", self._limit
            )


def has_open_descriptors(count: int) -> bool:
    """Whether the process has more than `count` descriptors."""
    try:
        return len(os.listdir("/dev/fd")) > count  # noqa: PTH208 (a path for each of 100,000 would be slow)
    except OSError:  # there is no descriptor left to list them
        return True


def end_connections(port: int) -> None:
    """Accept no more connections of the port, and send an end of stream over all that are open.

    A client sees that its calls ended because the connection did, and sends them again. It has received all that was
    sent before. The connections stay open for reading: closing them with unread input would reset them, and what is
    on its way to the client would be lost.
    """
    for found in sockets_of(port):
        with suppress(OSError):  # the client ended it first
            found.shutdown(socket.SHUT_RD if is_listening(found) else socket.SHUT_WR)


def break_connections(peers: set[str]) -> None:
    """Close the connections of these clients, named as the library names them, with all that they have in flight."""
    for found in sockets():
        with suppress(OSError):  # not connected
            if peer_of(found) in peers:
                found.shutdown(socket.SHUT_RDWR)


def peer_of(found: socket.socket) -> str:
    """The other end of a connection, as `ServicerContext.peer` names it. Raises OSError if there is none."""
    host, port = found.getpeername()[:2]
    mapped = host.removeprefix("::ffff:")
    return f"ipv6:%5B{host}%5D:{port}" if ":" in mapped else f"ipv4:{mapped}:{port}"


def connections_of(port: int) -> Iterator[socket.socket]:
    """The connections of the port."""
    return (found for found in sockets_of(port) if not is_listening(found))


def sockets_of(port: int) -> Iterator[socket.socket]:
    """The sockets of the port."""
    for found in sockets():
        with suppress(OSError):  # the library closed it meanwhile
            if found.getsockname()[1] == port:
                yield found


def sockets() -> Iterator[socket.socket]:
    """The TCP sockets of this process. Each is to be used until the next one is asked for: the library owns them."""
    try:
        numbers = list(map(int, os.listdir("/dev/fd")))  # noqa: PTH208 (as above)
    except OSError:  # there is no descriptor left to list them
        return
    for number in numbers:
        try:
            found = socket.socket(fileno=number)
        except OSError:  # no socket, or closed meanwhile
            continue
        try:
            if found.family in {socket.AF_INET, socket.AF_INET6}:
                yield found
        finally:
            found.detach()


def is_listening(found: socket.socket) -> bool:
    """Whether a socket listens for connections."""
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
