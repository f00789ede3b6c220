"""Runs `mongod` in a data directory, for `serve` or for a command.

A data directory has at most one `mongod`. If `serve` runs one already, a command uses that; else it starts its own.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Never, Self

import msgspec

from server.core.errors import ConfigurationError
from storage.embedded.binary import find_mongod
from storage.embedded.data_directory import (
    LINKS_FOLDER,
    LOG_FILE,
    Holder,
    State,
    directory_errors,
    finish_first_start,
    lock_directory,
    prepare_database_folder,
    read_password,
)
from storage.embedded.diagnosis import explain_end
from storage.embedded.limits import raise_file_limit
from storage.embedded.log_file import log_size, rotate_if_large
from storage.embedded.process import end_process, reserved_port, spawn_mongod, wait_until_ready
from storage.embedded.replica_set import prepare_replica_set

LOG_CHECK_INTERVAL_S = 10
"""How often the size of the log is checked. mongod writes a few lines a minute."""


class EmbeddedMongod:
    """A running mongod and the lock of its data directory. `start` makes one; `stop` must end it."""

    url: str
    """The URL of the database, including the password. It is the same after every start, unless the port was taken."""

    _process: asyncio.subprocess.Process
    _rotation: asyncio.Task[Never]

    def __init__(self, data_dir: Path, lock: int, holder: Holder) -> None:
        self._data_dir = data_dir
        self._lock = lock
        self._state = msgspec.structs.replace(State.load(data_dir), holder=holder, holder_pid=os.getpid(), pid=None)

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
        try:
            with directory_errors(data_dir):
                mongod = cls(data_dir, lock, holder)
        except BaseException:
            os.close(lock)
            raise
        try:
            raise_file_limit()
            await mongod._launch()
        except BaseException:
            mongod._release()
            raise
        mongod._rotation = asyncio.create_task(mongod._keep_log_small())
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
        self._rotation.cancel()
        try:
            await end_process(self._process)
        finally:
            self._release()

    async def _launch(self) -> None:
        with reserved_port(self._state.port) as port:
            await self._launch_at(port)

    async def _launch_at(self, port: int) -> None:
        self._state = msgspec.structs.replace(self._state, pid=None)
        log = self._data_dir / LOG_FILE
        with directory_errors(self._data_dir):
            prepare_database_folder(self._data_dir, is_new=self._state.made_by is None)
            password = read_password(self._data_dir)
            self._state = msgspec.structs.replace(self._state, port=port)
            self._state.save(self._data_dir)
            binary = await find_mongod(self._data_dir / LINKS_FOLDER, self._state.made_by)
            rotate_if_large(log)
            log_start = log_size(log)
        output = os.memfd_create("mongod-output")
        try:
            process = await spawn_mongod(binary, self._data_dir, port, self._lock, output)

            def explain(status: int) -> str:
                return explain_end(status, self._state.made_by, log, log_start, output)

            try:
                made_by = await wait_until_ready(process, prepare_replica_set(port, password), log, explain)
                with directory_errors(self._data_dir):
                    finish_first_start(self._data_dir)
                    self._state = msgspec.structs.replace(self._state, pid=process.pid, made_by=made_by)
                    self._state.save(self._data_dir)
            except BaseException:
                await end_process(process)
                raise
        finally:
            os.close(output)
        self._process = process
        self.url = self._state.url(self._data_dir)

    async def _keep_log_small(self) -> Never:
        """Begin a new log whenever the current one is large, as long as mongod runs."""
        while True:
            await asyncio.sleep(LOG_CHECK_INTERVAL_S)
            with suppress(OSError):  # a full or read-only disk, or mongod has just died: at the next check
                if self._state.pid is not None and rotate_if_large(self._data_dir / LOG_FILE):
                    self._process.send_signal(signal.SIGUSR1)

    def _release(self) -> None:
        """Release the lock, and say so in the state if it can be written. A holder that is dead holds nothing."""
        try:
            with suppress(OSError):
                State(self._state.port, made_by=self._state.made_by).save(self._data_dir)
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
