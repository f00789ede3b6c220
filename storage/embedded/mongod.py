"""Runs `mongod` in a data directory, for `serve` or for a command.

A data directory has at most one `mongod`. If `serve` runs one already, a command uses that; else it starts its own.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import msgspec

from server.core.errors import ConfigurationError
from storage.embedded.binary import find_mongod
from storage.embedded.data_directory import (
    LOG_FILE,
    Holder,
    State,
    finish_first_start,
    lock_directory,
    prepare_database_folder,
    read_password,
)
from storage.embedded.process import end_process, find_free_port, spawn_mongod, wait_until_ready
from storage.embedded.replica_set import prepare_replica_set


class EmbeddedMongod:
    """A running mongod and the lock of its data directory. `start` makes one; `stop` must end it."""

    url: str
    """The URL of the database, including the password. It is the same after every start, unless the port was taken."""

    _binary: Path
    _process: asyncio.subprocess.Process

    def __init__(self, data_dir: Path, lock: int, holder: Holder) -> None:
        self._data_dir = data_dir
        self._lock = lock
        self._state = State(State.load(data_dir).port, holder, os.getpid())

    @classmethod
    async def start(cls, data_dir: Path) -> Self:
        """Lock `data_dir` for `serve` and start mongod there. Returns when it takes writes.

        Raises ConfigurationError if no mongod is installed, it does not start, or another `serve` runs it.
        """
        lock_or_state = await lock_directory(data_dir, "serve")
        if isinstance(lock_or_state, State):
            raise ConfigurationError(
                f"another sluice serve (process {lock_or_state.holder_pid}) uses the data directory {data_dir}: "
                "stop it, or give this one another --data-dir"
            )
        return await cls.start_locked(data_dir, lock_or_state, "serve")

    @classmethod
    async def start_locked(cls, data_dir: Path, lock: int, holder: Holder) -> Self:
        """Start mongod in `data_dir`, for the holder of its `lock`. Returns when it takes writes.

        The lock is released by `stop`, or by an error here. Raises ConfigurationError as `start` does.
        """
        mongod = cls(data_dir, lock, holder)
        try:
            mongod._binary = await find_mongod()
            await mongod._launch()
        except BaseException:
            mongod._release()
            raise
        return mongod

    @property
    def pid(self) -> int:
        """The process id of mongod."""
        return self._process.pid

    async def wait(self) -> int:
        """Return when mongod has ended: its exit status, or minus the number of the signal that ended it."""
        return await self._process.wait()

    async def restart(self) -> None:
        """Start mongod again after it died. Returns when it takes writes. After an error, `stop` must still be called.

        Raises ConfigurationError if it does not start.
        """
        await self._process.wait()
        await self._launch()

    async def stop(self) -> None:
        """End mongod, cleanly if that takes no longer than 30 s, and release the lock of the data directory."""
        try:
            await end_process(self._process)
        finally:
            self._release()

    async def _launch(self) -> None:
        port, password = find_free_port(self._state.port), read_password(self._data_dir)
        self._state = msgspec.structs.replace(self._state, port=port, pid=None)
        self._state.save(self._data_dir)
        prepare_database_folder(self._data_dir)
        process = await spawn_mongod(self._binary, self._data_dir, port, self._lock)
        try:
            await wait_until_ready(process, prepare_replica_set(port, password), self._data_dir / LOG_FILE)
            finish_first_start(self._data_dir)
        except BaseException:
            await end_process(process)
            raise
        self._process = process
        self._state = msgspec.structs.replace(self._state, pid=process.pid)
        self._state.save(self._data_dir)
        self.url = self._state.url(self._data_dir)

    def _release(self) -> None:
        try:
            State(self._state.port).save(self._data_dir)
        finally:
            os.close(self._lock)


@asynccontextmanager
async def embedded_database(data_dir: Path) -> AsyncIterator[str]:
    """The URL of the database in `data_dir`, for a command. It is the one that `serve` runs, or one started here.

    Raises ConfigurationError if no mongod is installed, it does not start, or others hold the lock for too long.
    """
    lock_or_state = await lock_directory(data_dir, "command")
    if isinstance(lock_or_state, State):
        yield lock_or_state.url(data_dir)
        return
    mongod = await EmbeddedMongod.start_locked(data_dir, lock_or_state, "command")
    try:
        yield mongod.url
    finally:
        await mongod.stop()
