"""A worker process as the supervisor sees it: started, listened to, replaced if it dies, drained at the end."""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Never

import msgspec

from server.runtime.errors import StartError
from server.runtime.logs import place_of
from server.runtime.loops import forever, until_done
from server.runtime.messages import MAX_LINE_BYTES, Message, Ready, decode_line, read_line
from server.settings import Settings

KILL_AFTER_S = 60
"""A worker that has not drained after 60 s hangs, because its own limit is 45 s (`DRAIN_TIMEOUT_S`)."""

RESTART_DELAY_S = 1.0
"""The time between two attempts to start a process, so that a cause that lasts does not use up the CPU."""

QUIET_GRPC = {"GRPC_VERBOSITY": "NONE"}
"""Without it, gRPC logs a line for every connection that is not HTTP/2. The operator may set the variable."""

PROJECT = str(Path(__file__).parents[2])

log = logging.getLogger("sluice")


class WorkerProcess:
    """One worker process, and its successors."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start a process and wait until it accepts requests. Raises StartError if it ends before that, and OSError."""
        process = await self._spawn()
        self._process, self._ready = process, asyncio.Event()
        self._listening = asyncio.create_task(self._listen(process))
        assert process.stdin is not None  # noqa: S101
        storage = msgspec.structs.replace(self._settings.storage, mongodb_url=self._url)
        process.stdin.write(msgspec.json.encode(msgspec.structs.replace(self._settings, storage=storage)) + b"\n")
        ready, ended = asyncio.ensure_future(self._ready.wait()), asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        if not self._ready.is_set():
            raise StartError(
                f"a worker ended before it was ready (status {process.returncode}): the lines above say why"
            )

    async def _spawn(self) -> asyncio.subprocess.Process:
        path = os.pathsep.join(filter(None, (PROJECT, os.environ.get("PYTHONPATH"))))
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a folder named `server` in the operator's working directory is not ours
            "-m",
            "server.runtime.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**QUIET_GRPC, **os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches the supervisor only, which drains the workers
            limit=MAX_LINE_BYTES,
        )

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Handle the process's messages until its stdout ends. A line that is no message is skipped."""
        assert process.stdout is not None  # noqa: S101
        while line := await read_line(process.stdout):
            try:
                self._handle(decode_line(line))
            except Exception as error:  # noqa: BLE001 (the supervisor goes on to listen)
                log.warning("worker %d: a line of its stdout was skipped: %s", process.pid, place_of(error))

    def _handle(self, message: Message) -> None:
        match message:
            case Ready():
                self._ready.set()

    async def keep_alive(self) -> Never:
        """Replace the process whenever it ends."""
        await forever("supervision of a worker", self._replace, RESTART_DELAY_S)

    async def _replace(self) -> None:
        """Wait for the end of the process, and start the next, however many attempts that takes."""
        assert self._process is not None  # noqa: S101
        status = await self._process.wait()
        log.warning("worker %d ended (status %d): replacing it", self._process.pid, status)
        await until_done("start of a worker", self.start, RESTART_DELAY_S)

    def use_database(self, url: str) -> None:
        """Drain the process, so that it is replaced by one that uses the database at `url`."""
        self._url = url
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    async def drain(self) -> None:
        """Let the process finish what it accepted, and end it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(KILL_AFTER_S):
                await process.wait()
        except TimeoutError:
            log.error("worker %d did not drain in %d s: killing it", process.pid, KILL_AFTER_S)  # noqa: TRY400
            process.kill()
            await process.wait()
