"""Starts and ends a `mongod` process that never outlives the process that started it."""

import asyncio
import ctypes
import os
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from server.core.errors import ConfigurationError
from storage.embedded.binary import Binary
from storage.embedded.data_directory import DATABASE_FOLDER, LOG_FILE, PASSWORD_FILE, PORTS
from storage.embedded.limits import memory_bytes

Result = TypeVar("Result")

GIB = 2**30

MIN_CACHE_GIB, MAX_CACHE_GIB = 0.25, 1.0
"""Bounds of mongod's cache: the least that it accepts, and a size that leaves memory to the server."""

CACHE_SHARE = 0.25
"""The cache's share of the memory of the machine, or of the container, between those bounds."""

OPLOG_MIB = 512
"""The size of mongod's log of writes. A reader of changes may be behind by that much. It fits on a small disk."""

JOURNAL_OPTIONS = "log=(prealloc=false,file_max=32MB)"
"""mongod's journal grows in files of 32 MiB, made when they are needed. By default it takes 300 MB from the start."""

LOGGED_NEVER_MS = 2**31 - 1
"""mongod logs the text of an operation slower than this, including event bodies. No operation takes 24 days."""

START_TIMEOUT_S = 300
"""The longest time from the start of mongod to a primary. Usually it is 1 s; after a crash, writes are replayed."""

STOP_TIMEOUT_S = 30
"""The longest wait for a clean stop, which writes a checkpoint. Then mongod is killed: its journal has every write."""

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>: the signal that the kernel sends to a process when its parent dies."""


async def spawn_mongod(binary: Binary, data_dir: Path, port: int, lock: int, output: int) -> asyncio.subprocess.Process:
    """Start a mongod on the files in `data_dir`. It inherits `lock`, and stops when this process ends.

    What it says outside its log goes to the file `output`. Raises ConfigurationError if it cannot be run.
    """
    options = {
        "--dbpath": data_dir / DATABASE_FOLDER,
        "--port": port,
        "--bind_ip": "127.0.0.1",
        "--replSet": "sluice",
        "--keyFile": data_dir / PASSWORD_FILE,  # turns authentication on
        "--wiredTigerCacheSizeGB": cache_size_gib(),
        "--wiredTigerEngineConfigString": JOURNAL_OPTIONS,
        "--oplogSize": OPLOG_MIB,
        "--networkMessageCompressors": "snappy,zstd",  # not zlib, which is vulnerable in the 6.0 of sluice[embedded]
        "--logpath": data_dir / LOG_FILE,
        "--logRotate": "reopen",  # on SIGUSR1, after we have renamed it
        "--slowms": LOGGED_NEVER_MS,
    }
    parameters = {
        "diagnosticDataCollectionEnabled": "false",
        "enableLocalhostAuthBypass": "false",  # else any user of this machine could create the first user before us
        "shutdownTimeoutMillisForSignaledShutdown": 1000,  # of the 15 s that it would wait for another node
    }
    words = [str(word) for option in options.items() for word in option]
    words += [word for name, value in parameters.items() for word in ("--setParameter", f"{name}={value}")]
    try:
        return await asyncio.create_subprocess_exec(
            binary.path,
            *("--nounixsocket", "--logappend", "--quiet"),
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **binary.environment},
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C reaches this process only, which drains before it stops mongod
            preexec_fn=stop_with_parent(),
        )
    except OSError as error:
        raise ConfigurationError(f"{binary.path} cannot be run ({error.strerror or type(error).__name__})") from None


def cache_size_gib() -> float:
    """The size of mongod's cache, in GiB."""
    return round(max(MIN_CACHE_GIB, min(MAX_CACHE_GIB, memory_bytes() / GIB * CACHE_SHARE)), 2)


def stop_with_parent() -> Callable[[], None]:
    """A function that the child runs first. Then it gets SIGTERM when this process ends, even by `kill -9`."""
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up here: few calls are safe between fork and exec

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    return in_child


async def wait_until_ready(
    process: asyncio.subprocess.Process,
    preparation: Coroutine[None, None, Result],
    log: Path,
    explain: Callable[[int], str],
) -> Result:
    """Return the result of `preparation`. Raises ConfigurationError if `process` ends first, or it takes too long.

    `explain` makes a line of the exit status of a process that ended.
    """
    preparing, ending = asyncio.ensure_future(preparation), asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({preparing, ending}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            raise ConfigurationError(explain(ending.result()))
        if not preparing.done():
            raise ConfigurationError(f"mongod was not ready after {START_TIMEOUT_S} s: {log} says why")
        return preparing.result()
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


@contextmanager
def reserved_port(wanted: int) -> Iterator[int]:
    """The port `wanted` or, if another process listens on it or reserves it, a random one of PORTS.

    mongod listens on it a second after it was chosen. Until then, no other start may choose it: one of them would fail.
    So it has a lock, which is a socket of its name. The kernel removes it when this process ends.
    """
    with ExitStack() as stack:
        port = wanted
        while not (has_locked(port, stack) and is_free(port)):
            port = secrets.choice(PORTS)
        yield port


def has_locked(port: int, stack: ExitStack) -> bool:
    """Lock `port` until `stack` is closed. Returns False if another process has locked it."""
    lock = stack.enter_context(socket.socket(socket.AF_UNIX))
    try:
        lock.bind(f"\0sluice-mongod-port-{port}")
    except OSError:
        return False
    return True


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as mongod does: closed connections do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
