"""Waits for the workers of a server that was killed: they drain by themselves, and hold their ports until then.

Without the wait, a server that is started again at once would find its own ports taken.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from server.runtime.ports import bound_socket

ORPHANS_TIMEOUT_S = 60
"""The longest wait. A worker drains in 45 s (`DRAIN_TIMEOUT_S`), or hangs."""

POLL_S = 0.1
"""The pause between two looks at the ports. The kernel sends no notification when one becomes free."""

WORKER_MODULE = b"server.runtime.worker"

LISTENING = "0A"
"""The state of a socket that listens, as the kernel's tables write it."""

log = logging.getLogger("sluice")


async def wait_for_orphans(host: str, ports: Sequence[int]) -> None:
    """Return when the ports are free, or no orphaned worker is left, or after ORPHANS_TIMEOUT_S."""
    is_told = False
    with suppress(TimeoutError):
        async with asyncio.timeout(ORPHANS_TIMEOUT_S):
            while (taken := [port for port in ports if is_taken(host, port)]) and (pids := orphans_that_listen(taken)):
                if not is_told:
                    log.warning("waiting for the workers of a server that was killed: processes %s", pids)
                    is_told = True
                await asyncio.sleep(POLL_S)


def is_taken(host: str, port: int) -> bool:
    """Whether another process has the port. Port 0 is never taken."""
    try:
        bound_socket(host, port, socket.SO_REUSEADDR).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def orphans_that_listen(ports: Collection[int]) -> list[int]:
    """The process ids of orphaned workers that listen on one of the ports. Others drain for another server."""
    sockets = set(listening_sockets(ports))
    return [pid for pid in orphaned_workers() if not sockets.isdisjoint(files_of(pid))]


def listening_sockets(ports: Collection[int]) -> Iterator[str]:
    """The sockets that listen on one of the ports, as `files_of` names them."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with suppress(OSError):  # a kernel without IPv6
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) in ports:
                    yield f"socket:[{fields[9]}]"


def files_of(pid: int) -> Iterator[str]:
    """What the file descriptors of a process are open for. Nothing if the process has ended or is another user's."""
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since
                yield str(descriptor.readlink())


def orphaned_workers() -> Iterator[int]:
    """The process ids of workers whose supervisor is gone, so that another process is their parent now."""
    for folder in Path("/proc").iterdir():
        with suppress(OSError):  # a process that has just ended, or another user's
            if folder.name.isdigit() and WORKER_MODULE in words_of(folder) and not is_supervised(folder):
                yield int(folder.name)


def is_supervised(worker: Path) -> bool:
    """Whether the parent of the worker, a folder of /proc, is a supervisor: `serve`, run by the same Python."""
    parent = worker.with_name((worker / "stat").read_text().rpartition(")")[2].split()[1])
    try:
        return b"serve" in words_of(parent) and (parent / "exe").readlink() == (worker / "exe").readlink()
    except OSError:  # another user's, who started no worker of ours
        return False


def words_of(process: Path) -> list[bytes]:
    """The command line of a process, a folder of /proc. Raises OSError."""
    return (process / "cmdline").read_bytes().split(b"\0")
