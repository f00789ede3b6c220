"""Ports of 127.0.0.1 for programs that bind them later, or again after a restart.

A port that the kernel has given out, and that is closed again, may be given to another process before the program has
it: other tests run at the same time. So these are below those that the kernel gives out, and each has a lock.
"""

import random
import socket

PORTS = range(10_000, 20_000)
"""Below those that the kernel gives out, and below those of embedded databases."""

_locks: list[socket.socket] = []
"""Of the ports of this process. The kernel releases them when it ends."""


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, and that no other test process gets until this one has ended."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(PORTS)
        if has_locked(port):
            found.append(port)
    return found


def free_port() -> int:
    """One such port."""
    (port,) = free_ports(1)
    return port


def has_locked(port: int) -> bool:
    """Lock a port, which is a socket of its name. Returns False if it is locked or in use."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0sluice-test-port-{port}")
        with socket.create_server(("127.0.0.1", port)):
            _locks.append(lock)
    except OSError:
        lock.close()
        return False
    return True
