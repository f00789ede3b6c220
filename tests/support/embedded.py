"""Processes that own an embedded database, and what tests of it do to them."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from server.core.errors import ConfigurationError
from storage.client import database, opened
from storage.embedded import EmbeddedMongod, State

TIMEOUT_S = 30
"""For something that another process does."""

LOADER_ERROR = "error while loading shared libraries"

OWNER = """
import asyncio, sys
from pathlib import Path
from storage.embedded import EmbeddedMongod

async def main():
    mongod = await EmbeddedMongod.start(Path(sys.argv[1]))
    print(mongod.pid, flush=True)
    await mongod.wait()

asyncio.run(main())
"""


def own(data_dir: Path) -> "subprocess.Popen[str]":
    """A process that owns the database as `serve` does."""
    return subprocess.Popen([sys.executable, "-c", OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True)


def pid_once_ready(owner: "subprocess.Popen[str]") -> int:
    assert owner.stdout is not None
    return int(owner.stdout.readline())


def kill(owner: "subprocess.Popen[str]") -> None:
    assert owner.stdout is not None
    owner.kill()
    owner.wait()
    owner.stdout.close()


def kill_both(owner: "subprocess.Popen[str]") -> list[int]:
    """Kill the owner and mongod at once, as a power cut does: mongod cannot stop cleanly. Returns its process id."""
    owner.send_signal(signal.SIGSTOP)
    children = [int(pid) for pid in Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()]
    for child in children:
        os.kill(child, signal.SIGKILL)
    kill(owner)
    return children


def wait_for_end(pids: Iterable[int]) -> None:
    until(lambda: not any(map(alive, pids)))


def cut_first_start(data_dir: Path, moment: Callable[[], object]) -> None:
    """Kill a first start at a moment. If it was over before the kill came, begin again without its files."""
    while True:
        owner = own(data_dir)
        until(moment)
        wait_for_end(kill_both(owner))  # it may still make the file that it has begun to make
        if State.load(data_dir).made_by is None:
            return
        shutil.rmtree(data_dir)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


async def write(url: str, value: int) -> None:
    async with opened(url, "pymongo") as client:
        await database(client, "sluice")["things"].insert_one({"_id": value})


async def read(url: str) -> list[int]:
    async with opened(url, "pymongo") as client:
        return [thing["_id"] async for thing in database(client, "sluice")["things"].find().sort("_id")]


def fake_mongod(folder: Path, script: str) -> None:
    binary = folder / "mongod"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)


def rejection(data_dir: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(EmbeddedMongod.start(data_dir))
    assert "\n" not in str(caught.value)
    return str(caught.value)
