"""Faults of the disk under an embedded database: it is full, or read-only, and is good again in the end.

They need a file system of their own, a small one in memory. So they are no part of a seed's plan, whose site has other
databases.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.harness import Server, wait_until

DISK_MIB = 700
"""The size of the disk: what an embedded database takes with a full oplog, and little more."""

FULL_S = 10
"""How long the disk is full. mongod is killed after half of it, if it has not died by then."""

READ_ONLY_S = 5

CHUNK = bytes(2**20)


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A small file system, mounted in `directory`. Skips the test if none can be mounted here."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextmanager
def full_disk(server: Server, disk: Path) -> Iterator[None]:
    """Not a byte is free."""
    (mongod,) = server.mongod_pids()
    filler = disk / "filler"
    keep_full(filler, FULL_S / 2)
    with suppress(ProcessLookupError):
        os.kill(mongod, signal.SIGKILL)
    keep_full(filler, FULL_S / 2)
    yield
    filler.unlink()


def keep_full(filler: Path, duration_s: float) -> None:
    """Let nobody find a free byte for `seconds`."""
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        fill(filler)
        time.sleep(0.1)


def fill(path: Path) -> None:
    """Append to the file until the disk is full."""
    for chunk in (CHUNK, bytes(4_096)):
        with suppress(OSError), path.open("ab", buffering=0) as file:
            while file.write(chunk):
                pass


@contextmanager
def read_only_disk(server: Server, disk: Path) -> Iterator[None]:
    """mongod dies, and the disk is read-only before it can be restarted."""
    (mongod,) = server.mongod_pids()
    server.process.send_signal(signal.SIGSTOP)  # else it restarts mongod, and no disk with open files becomes read-only
    os.kill(mongod, signal.SIGKILL)
    wait_until(lambda: remount(disk, "ro") == 0, "a read-only disk")
    server.process.send_signal(signal.SIGCONT)
    time.sleep(READ_ONLY_S)
    yield
    assert remount(disk, "rw") == 0


def remount(disk: Path, mode: str) -> int:
    """Make the disk read-only or writable. Returns the status of `mount`."""
    command = ["mount", "-o", f"remount,{mode}", str(disk)]
    return subprocess.run(command, capture_output=True, check=False).returncode
