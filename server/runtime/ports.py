"""Ports that several processes share: the supervisor reserves them, and each worker binds them.

So no other program can get a port while a worker is replaced, and a taken port is one clear line at the start.

The kernel spreads new connections over the sockets that listen on a port. It resets those that a socket was given and
that its process has not accepted when it closes. So before a worker is replaced on SIGHUP, it must get no more
connections: `prefer_newest` lets the kernel give them all to a socket beyond the number of workers, which is that of a
successor. Example with 2 workers: the sockets 0 and 1 share the connections. Socket 2 of a successor gets all, as soon
as it listens. The worker of socket 0 ends, and sockets 1 and 2 share the connections.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from server.core.errors import ConfigurationError
from server.rpc.connections import is_listening, sockets_of

SHARED = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
"""The options with which workers bind a port: with each other, and as soon as an earlier server has closed it."""

SO_ATTACH_REUSEPORT_CBPF = 51
"""From <asm-generic/socket.h>: a program that chooses a socket of those that listen on a port."""

BPF_RETURN = 0x06
"""From <linux/bpf_common.h>: the instruction that returns a constant."""


def resolve_host(host: str) -> str:
    """The one address that both ports listen on: the first of the name. Raises ConfigurationError."""
    if "%" in host:  # an address with its interface, which the result would lack
        return host
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:  # a name may be too long to be encoded
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConfigurationError(
            f"--host {host} has no address ({reason}): give a name or address of this machine"
        ) from None


@contextmanager
def reserved_port(host: str, port: int, option: str) -> Iterator[int]:
    """Hold `port` for the workers, or a free port if it is 0. Raises ConfigurationError, which names the option.

    The socket that holds it does not listen, so the kernel gives it no connections.
    """
    try:
        with bound_socket(host, port, socket.SO_REUSEADDR) as probe:  # it fails if any program has the port
            port = probe.getsockname()[1]
        holder = holding_socket(host, port)
    except OSError as error:
        raise ConfigurationError(port_problem(host, port, option, error)) from None
    with holder:
        yield port


def holding_socket(host: str, port: int) -> socket.socket:
    """A socket that keeps all but our workers from binding a port, also while no worker listens. Raises OSError.

    So it does not set SO_REUSEADDR: if both sockets set it, and neither listens, Linux lets another program bind the
    port too. But if another program has just closed its connections at the port, Linux refuses it without this option.
    """
    try:
        return bound_socket(host, port, socket.SO_REUSEPORT)
    except OSError:
        return bound_socket(host, port, *SHARED)


def prefer_newest(ports: tuple[int, ...], workers: int) -> None:
    """Let the kernel give all new connections of these ports to the newest socket, if it is one more than `workers`.

    The program names the socket with the number `workers`, counted from 0 in the order of their start. If there is
    none, the kernel spreads connections as it does without a program. So it is never taken away again.
    """
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, workers))
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    for port in ports:
        for found in sockets_of(port):
            if is_listening(found):
                with suppress(OSError):  # a kernel without it may reset a few connections when a worker is replaced
                    found.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)


def bound_socket(host: str, port: int, *options: int) -> socket.socket:
    """A TCP socket that is bound to the address, with these options of SOL_SOCKET turned on. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    for option in options:
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
    if host == "::":  # every address, IPv4 too, whatever the system's default is: gRPC does the same
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def port_problem(host: str, port: int, option: str, error: OSError) -> str:
    """Why a port cannot be used, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken: stop what listens there, or choose another with {option}"
    return f"cannot listen on {host} port {port} ({error.strerror}): choose others with --host and {option}"
