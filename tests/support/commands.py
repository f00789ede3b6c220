"""Runs `sluice` commands as forks of a command server. A command then takes a tenth of the CPU time."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]

PYTHON = sys.executable
"""Some tests replace it, to run commands with fewer rights."""

MAX_STATUS_BYTES = 100


class CommandServer:
    """A process that runs commands. See `tests/support/command_server.py`."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [PYTHON, "-m", "tests.support.command_server"],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,  # a command's streams are pipes too
                stderr=subprocess.PIPE,
                cwd=ROOT,
            )

    def run(
        self, arguments: Sequence[str], variables: Mapping[str, str], stdin: bytes, timeout_s: float
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end. Raises `TimeoutExpired` if that takes longer, as `subprocess.run` does."""
        request = {"arguments": arguments, "environment": {**os.environ, **variables}, "directory": str(Path.cwd())}
        input_end, write_end = os.pipe()
        out, out_end = os.pipe()
        error, error_end = os.pipe()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ends = [input_end, out_end, error_end]
        try:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [*ends, theirs.fileno()])
        finally:
            theirs.close()
            for end in ends:
                os.close(end)
        with ours, open(out, "rb") as stdout, open(error, "rb") as stderr, ThreadPoolExecutor(3) as threads:  # noqa: PTH123
            pid = int(ours.recv(MAX_STATUS_BYTES))
            threads.submit(write_all, write_end, stdin)
            read = [threads.submit(stream.read) for stream in (stdout, stderr)]
            ours.settimeout(timeout_s)
            try:
                status = int(ours.recv(MAX_STATUS_BYTES))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout_s) from None
            return subprocess.CompletedProcess(list(arguments), status, *(each.result() for each in read))

    def close(self) -> None:
        """End it. Commands that run go on."""
        self._requests.close()
        self._process.communicate()


def write_all(descriptor: int, data: bytes) -> None:
    """Write to a pipe and close it. A command may end without reading all."""
    with suppress(BrokenPipeError), open(descriptor, "wb") as stream:
        stream.write(data)


STARTING = threading.Lock()
SERVERS: list[CommandServer] = []
"""None before the first command, and one then."""


def command_server() -> CommandServer:
    """The command server of this process."""
    with STARTING:
        if not SERVERS:
            SERVERS.append(CommandServer())
            atexit.register(SERVERS[0].close)
        return SERVERS[0]


def run_command(
    *arguments: str, variables: Mapping[str, str], stdin: bytes = b"", timeout_s: float
) -> subprocess.CompletedProcess[bytes]:
    """Run a `sluice` command to its end.

    It is a process with an interpreter of its own if a fork would not do: for variables that Python reads when it
    starts, and for another interpreter.
    """
    if sys.executable == PYTHON and all(name.startswith("SLUICE_") for name in variables):
        return command_server().run(arguments, variables, stdin, timeout_s)
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
        env={**os.environ, **variables},
        check=False,
    )
