"""Starts and ends a `mongod` process that never outlives the process that started it."""

import asyncio
import ctypes
import os
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path

from server.core.errors import ConfigurationError
from storage.embedded.data_directory import DATABASE_FOLDER, LOG_FILE, PASSWORD_FILE, PORTS

GIB = 2**30

MIN_CACHE_GIB, MAX_CACHE_GIB = 0.25, 1.0
"""Bounds of mongod's cache: the least that it accepts, and a size that leaves memory to the server."""

CACHE_SHARE = 0.25
"""The cache's share of the machine's memory, between those bounds."""

OPLOG_MIB = 512
"""The size of mongod's log of writes. A reader of changes may be behind by that much. It fits on a small disk."""

LOGGED_NEVER_MS = 2**31 - 1
"""mongod logs the text of an operation slower than this, including event bodies. No operation takes 24 days."""

START_TIMEOUT_S = 300
"""The longest time from the start of mongod to a primary. Usually it is 1 s; after a crash, writes are replayed."""

STOP_TIMEOUT_S = 30
"""The longest wait for a clean stop, which writes a checkpoint. Then mongod is killed: its journal has every write."""

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>: the signal that the kernel sends to a process when its parent dies."""


async def spawn_mongod(binary: Path, data_dir: Path, port: int, lock: int) -> asyncio.subprocess.Process:
    """Start a mongod on the files in `data_dir`. It inherits `lock`, and stops when this process ends."""
    options = {
        "--dbpath": data_dir / DATABASE_FOLDER,
        "--port": port,
        "--bind_ip": "127.0.0.1",
        "--replSet": "sluice",
        "--keyFile": data_dir / PASSWORD_FILE,  # turns authentication on
        "--wiredTigerCacheSizeGB": cache_size_gib(),
        "--oplogSize": OPLOG_MIB,
        "--networkMessageCompressors": "snappy,zstd",  # not zlib, which is vulnerable in the 6.0 of sluice[embedded]
        "--logpath": data_dir / LOG_FILE,
        "--slowms": LOGGED_NEVER_MS,
    }
    parameters = {
        "diagnosticDataCollectionEnabled": "false",
        "enableLocalhostAuthBypass": "false",  # else any user of this machine could create the first user before us
        "shutdownTimeoutMillisForSignaledShutdown": 1000,  # of the 15 s that it would wait for another node
    }
    return await asyncio.create_subprocess_exec(
        binary,
        *("--nounixsocket", "--logappend", "--quiet"),
        *(str(word) for option in options.items() for word in option),
        *(word for name, value in parameters.items() for word in ("--setParameter", f"{name}={value}")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=[lock],
        start_new_session=True,  # Ctrl-C reaches this process only, which drains before it stops mongod
        preexec_fn=stop_with_parent(),
    )


def cache_size_gib() -> float:
    """The size of mongod's cache, in GiB."""
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return round(max(MIN_CACHE_GIB, min(MAX_CACHE_GIB, memory_gib * CACHE_SHARE)), 2)


def stop_with_parent() -> Callable[[], None]:
    """A function that the child runs first. Then it gets SIGTERM when this process ends, even by `kill -9`."""
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up here: few calls are safe between fork and exec

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    return in_child


async def wait_until_ready(
    process: asyncio.subprocess.Process, preparation: Coroutine[None, None, None], log: Path
) -> None:
    """Return when `preparation` is done. Raises ConfigurationError if `process` ends first, or it takes too long."""
    preparing, ending = asyncio.ensure_future(preparation), asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({preparing, ending}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            raise ConfigurationError(f"mongod ended with status {ending.result()} as it started: {log} says why")
        if not preparing.done():
            raise ConfigurationError(f"mongod was not ready after {START_TIMEOUT_S} s: {log} says why")
        preparing.result()
    finally:
        preparing.cancel()
        ending.cancel()
        await asyncio.gather(preparing, ending, return_exceptions=True)


async def end_process(process: asyncio.subprocess.Process) -> None:
    """End a process with SIGTERM or, after STOP_TIMEOUT_S, with SIGKILL. Return when it has ended."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def find_free_port(wanted: int) -> int:
    """The port `wanted` or, if another process listens on it, a random one of PORTS."""
    port = wanted
    while not is_free(port):
        port = secrets.choice(PORTS)
    return port


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as mongod does: closed connections do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
