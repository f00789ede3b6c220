"""Keeps a number of workers alive: one that leaves, for whatever reason, gets a successor at once.

A worker that drains may still be at its last request for 45 s. Its successor starts meanwhile, on the same ports.
"""

import asyncio
import logging
from typing import Never

import msgspec

from server.runtime.loops import forever, until_done
from server.runtime.worker_process import WorkerProcess
from server.settings import Settings

RESTART_DELAY_S = 1.0
"""The time between two attempts to start a process, so that a cause that lasts does not use up the CPU."""

HANDSHAKE_S = 0.5
"""How long a worker that is replaced still accepts connections, once its successor gets all new ones. What had begun to
connect before needs a round trip or two, with TLS."""

SETTLE_S = 0.2
"""How long a successor waits for the supervisor's own signal. Service managers signal all processes at once."""

log = logging.getLogger("sluice")


class Worker:
    """A worker process and its successors, and those before it that still drain."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url
        self._processes: list[WorkerProcess] = []
        self._current: WorkerProcess | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start a process and wait until it accepts requests.

        Raises ConfigurationError and StartError if it ends before that, and OSError.
        """
        self._current = await self._start(self._settings)

    async def replace(self, settings: Settings) -> None:
        """Start a process with these settings. Once it accepts requests, drain the one before it.

        Raises what `start` does. Then the process that runs goes on, and its successors have its settings.
        """
        async with self._starting:
            before, self._current = self._current, await self._start(settings)
            self._settings = settings
        assert before is not None  # noqa: S101
        await asyncio.sleep(HANDSHAKE_S)
        await before.drain()

    async def _start(self, settings: Settings) -> WorkerProcess:
        """A new process that accepts requests. Raises what `start` does."""
        storage = msgspec.structs.replace(settings.storage, mongodb_url=self._url)
        process = await WorkerProcess.spawn(msgspec.structs.replace(settings, storage=storage))
        self._processes = [*(other for other in self._processes if other.status is None), process]
        await process.until_ready()
        return process

    async def keep_alive(self) -> Never:
        """Start a successor whenever the process leaves."""
        await forever("supervision of a worker", self._replace, RESTART_DELAY_S)

    async def _replace(self) -> None:
        """Wait until the process leaves, and start the next, however many attempts that takes."""
        process = self._current
        assert process is not None  # noqa: S101
        await process.leaving.wait()
        await asyncio.sleep(SETTLE_S)
        async with self._starting:
            if process is not self._current:  # `replace` has started its successor
                return
            if process.status is None:
                log.info("worker %d drains: starting its successor", process.pid)
            else:
                log.warning("worker %d ended (status %d): replacing it", process.pid, process.status)
            await until_done("start of a worker", self.start, RESTART_DELAY_S)

    def use_database(self, url: str) -> None:
        """Drain the processes. Their successor uses the database at `url`."""
        self._url = url
        for process in self._processes:
            process.terminate()

    async def drain(self) -> None:
        """Let all processes finish what they accepted, and end them."""
        await asyncio.gather(*(process.drain() for process in self._processes))

    def kill(self) -> None:
        """End all processes at once."""
        for process in self._processes:
            process.kill()
