"""One worker process as the supervisor sees it: started, listened to, watched, drained.

Everything that its supervisor knows of it comes from its exit status and its messages (`messages.py`).
"""

import asyncio
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from server.core.errors import ConfigurationError
from server.runtime.errors import StartError, WorkerKilled
from server.runtime.logs import place_of
from server.runtime.messages import (
    MAX_LINE_BYTES,
    Draining,
    Heartbeat,
    Message,
    Misconfigured,
    Ready,
    Unloadable,
    decode_line,
    read_line,
)
from server.runtime.stderr_relay import relay, stderr_of
from server.settings import Settings

KILL_AFTER_S = 60
"""A worker that has not drained after 60 s hangs, because its own limit is 45 s (`DRAIN_TIMEOUT_S`)."""

START_TIMEOUT_S = 60
"""A worker that has sent nothing 60 s after its start hangs. Usually it is ready within 2 s."""

MAX_SILENCE_S = 20
"""A worker that has sent nothing for 20 s hangs: it was stopped, or its event loop does not get on. Four heartbeats are
missing then. It holds connections that get no response."""

CHECK_INTERVAL_S = 1
"""How often the silence of a worker is measured. It is counted in these steps, so a supervisor that was itself stopped
for a minute does not take its workers for hanging."""

QUIET_GRPC = {"GRPC_VERBOSITY": "NONE"}
"""Without it, gRPC logs a line for every connection that is not HTTP/2. The operator may set the variable."""

PROJECT = str(Path(__file__).parents[2])

PROGRAM = """
try:
    from server.runtime.worker import main
except BaseException as error:
    import json, sys
    print(json.dumps({"type": "unloadable", "reason": f"{type(error).__name__}: {error}"}))
    sys.exit(1)
main()
"""
"""What a worker runs. It cannot come from a file: the files may have been changed or removed since the start."""

log = logging.getLogger("sluice")


class WorkerProcess:
    """A process that was started. It is over when `leaving` is set: it drains, or has ended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ready = asyncio.Event()
        self._unloadable: str | None = None
        self._misconfigured: str | None = None
        self._silence_s = 0.0
        self._draining_s = 0.0
        self.leaving = asyncio.Event()
        work = (self._listen(), self._watch(), self._wait(), relay(process.stderr))
        self._tasks = [asyncio.create_task(task) for task in work]

    @classmethod
    async def spawn(cls, settings: Settings) -> "WorkerProcess":
        """Start a process with these settings. Raises OSError."""
        path = os.pathsep.join(filter(None, (PROJECT, os.environ.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a folder named `server` in the operator's working directory is not ours
            "-c",
            PROGRAM,
            "server.runtime.worker",  # for people who look at a list of processes, and for the wait for orphans
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr_of(settings),
            env={**QUIET_GRPC, **os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches the supervisor only, which drains the workers
            limit=MAX_LINE_BYTES,
        )
        assert process.stdin is not None  # noqa: S101
        process.stdin.write(msgspec.json.encode(settings) + b"\n")
        return cls(process)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, or minus the number of the signal that ended it; None while it runs."""
        return self._process.returncode

    async def until_ready(self) -> None:
        """Return when the process accepts requests.

        Raises ConfigurationError if it found a setting that is wrong, WorkerKilled if a signal ended it, and StartError
        if it ends otherwise before that.
        """
        ready, leaving = asyncio.ensure_future(self._ready.wait()), asyncio.ensure_future(self.leaving.wait())
        try:
            await asyncio.wait({ready, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            leaving.cancel()
        if self._misconfigured is not None:
            raise ConfigurationError(self._misconfigured)
        if self._unloadable is not None:
            raise StartError(
                f"a worker cannot load Sluice's code ({self._unloadable}): restart the server if the code was changed"
            )
        if self._ready.is_set():
            return
        if self.status is not None and self.status < 0:
            raise WorkerKilled(f"a worker was ended by signal {-self.status} before it was ready")
        raise StartError(f"a worker ended before it was ready (status {self.status}): the lines above say why")

    async def drain(self) -> None:
        """Let the process finish what it accepted, and end it. Return when it has ended."""
        self.terminate()
        await self._process.wait()
        await asyncio.wait(self._tasks[-1:], timeout=CHECK_INTERVAL_S)  # for the last lines of its log

    def terminate(self) -> None:
        """Let the process finish what it accepted, and end."""
        self.leaving.set()
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End the process at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _listen(self) -> None:
        """Handle the process's messages until its stdout ends. A line that is no message is skipped."""
        assert self._process.stdout is not None  # noqa: S101
        while line := await read_line(self._process.stdout):
            try:
                self._handle(decode_line(line))
            except Exception as error:  # noqa: BLE001 (the supervisor goes on to listen)
                log.warning("worker %d: a line of its stdout was skipped: %s", self.pid, place_of(error))

    def _handle(self, message: Message) -> None:
        self._silence_s = 0
        match message:
            case Ready():
                self._ready.set()
            case Unloadable(reason):
                self._unloadable = reason
            case Misconfigured(reason):
                self._misconfigured = reason
            case Draining():
                self.leaving.set()
            case Heartbeat():
                pass

    async def _watch(self) -> None:
        """Kill the process if it hangs."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self._silence_s += CHECK_INTERVAL_S
            if self.leaving.is_set():
                self._draining_s += CHECK_INTERVAL_S
            if self._silence_s > (MAX_SILENCE_S if self._ready.is_set() else START_TIMEOUT_S):
                log.error("worker %d has not responded for %d s: killing it", self.pid, self._silence_s)
            elif self._draining_s > KILL_AFTER_S:
                log.error("worker %d did not drain in %d s: killing it", self.pid, KILL_AFTER_S)
            else:
                continue
            self.kill()
            return

    async def _wait(self) -> None:
        """Note the end of the process."""
        await self._process.wait()
        await asyncio.wait(self._tasks[:1], timeout=CHECK_INTERVAL_S)  # for what it wrote last
        self._tasks[1].cancel()
        self.leaving.set()
