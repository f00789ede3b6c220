"""Ports that several processes share: reserved by the supervisor, bound by each worker. Imports the errors only."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from server.core.errors import ConfigurationError


@contextmanager
def reserved_port(host: str, port: int, option: str) -> Iterator[int]:
    """Hold `port` for the workers, or a free one where it is 0. Raises ConfigurationError, naming the option.

    The socket that holds it does not listen: it only keeps the port from being given away.
    """
    try:
        with bound_socket(host, port) as probe:  # workers share the port with each other; with a stranger it fails
            port = probe.getsockname()[1]
        holder = bound_socket(host, port, socket.SO_REUSEPORT)
    except OSError as error:
        raise ConfigurationError(port_problem(host, port, option, error)) from None
    with holder:
        yield port


def bound_socket(host: str, port: int, *options: int) -> socket.socket:
    """A socket with that address, and the socket options set. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    for option in (socket.SO_REUSEADDR, *options):
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def port_problem(host: str, port: int, option: str, error: OSError) -> str:
    """Why a port cannot be had, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken: stop what listens there, or choose another with {option}"
    return f"cannot listen on {host} port {port} ({error.strerror}): choose others with --host and {option}"
