"""Servers for the tests: `sluice serve` as a process, the command line, the database, and good batches."""

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import pymongo
from click.testing import CliRunner

from server.cli.main import cli
from tests.support.commands import run_command

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 90

READY = re.compile(r"ready rest=(?P<rest>\S+) grpc=(?P<grpc>\S+)(?: metrics=(?P<metrics>\S+))?\n")
SECRET = re.compile(r"slc_[A-Za-z0-9_-]{43,}")

IN_PROCESS = threading.Lock()
"""Held while a command runs in this process: it prints on the stdout that all threads have."""

Json = dict[str, Any]
MongoClient = pymongo.MongoClient[Json]


def sluice(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a `sluice` command to its end. What it prints is decoded as `PYTHONIOENCODING` of `env` says."""
    variables = env or {}
    done = run_command(*arguments, variables=variables, timeout_s=START_TIMEOUT_S)
    encoding = variables.get("PYTHONIOENCODING")
    out, error = (io.TextIOWrapper(io.BytesIO(each), encoding).read() for each in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, out, error)


class Server:
    """A `sluice serve` process with its workers."""

    def __init__(self, data_dir: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.options = options
        self.env = env or {}
        self.database_options = ["--data-dir", str(data_dir)]
        if "--mongodb-url" in options:
            self.database_options = ["--mongodb-url", options[options.index("--mongodb-url") + 1]]
        self.output = ""
        self.url = ""
        self.grpc = ""
        self.metrics = ""

    def start(self) -> Self:
        """Start it and wait for its `ready` line."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.log = (self.data_dir / "serve.log").open("ab")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "server",
                "serve",
                "--port",
                "0",
                "--grpc-port",
                "0",
                "--data-dir",
                str(self.data_dir),
                *self.options,
            ],
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **self.env},
        )
        try:
            self.output = read_until(self.process, READY, START_TIMEOUT_S)
            ready = READY.search(self.output)
            assert ready is not None, f"no ready line; stdout: {self.output!r}; stderr: {self.stderr()}"
        except BaseException:  # Ctrl-C too: no server is left behind
            self.stop(signal.SIGKILL)
            raise
        self.url = ready["rest"]
        self.grpc = ready["grpc"]
        self.metrics = ready["metrics"] or ""
        return self

    def stderr(self, since: int = 0) -> str:
        """What the server's processes wrote to stderr: all, or what they added to a log of `since` bytes."""
        with (self.data_dir / "serve.log").open("rb") as log:
            log.seek(since)
            return log.read().decode()

    def log_size(self) -> int:
        """How many bytes the server's processes wrote to stderr."""
        return (self.data_dir / "serve.log").stat().st_size

    @property
    def first_key(self) -> str:
        """The key that a first start printed."""
        match = SECRET.search(self.output)
        assert match is not None, self.output
        return match[0]

    def create_key(self, tenant: str, *options: str) -> Json:
        """Create a key with the command line. `key` of the result is the secret.

        The command runs in this process, since a process for each key takes long.
        """
        arguments = ["keys", "create", "--tenant", tenant, "--json", *options, *self.database_options]
        with IN_PROCESS:
            done = CliRunner().invoke(cli, arguments, standalone_mode=False, catch_exceptions=False)
        key: Json = json.loads(done.stdout)
        return key

    def client(self, secret: str | None = None, **options: Any) -> httpx.Client:
        """An HTTP client with the key."""
        headers = {"X-API-Key": secret} if secret else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, **options)

    @contextmanager
    def mongo(self) -> Iterator[MongoClient]:
        """A client of the embedded database."""
        with pymongo.MongoClient[Json](
            embedded_url(self.data_dir), uuidRepresentation="standard", tz_aware=True
        ) as mongo:
            yield mongo

    def mongod_pids(self) -> list[int]:
        """The process ids of the embedded mongod: one, or none if it does not run."""
        return [pid for pid in children(self.process.pid) if "--replSet" in command_line(pid)]

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that run now."""
        return [pid for pid in children(self.process.pid) if "server.runtime.worker" in command_line(pid)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it, wait for its end, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.log.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def read_until(process: subprocess.Popen[bytes], pattern: re.Pattern[str], timeout_s: float) -> str:
    """What the process writes to stdout until the pattern matches, it ends, or the timeout passes."""
    assert process.stdout is not None
    end = time.monotonic() + timeout_s
    read = ""
    while not pattern.search(read) and (left := end - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            break
        chunk = os.read(process.stdout.fileno(), 65_536)
        if not chunk:
            break
        read += chunk.decode()
    return read


def embedded_url(data_dir: Path) -> str:
    """The URL of the embedded database that runs in the directory."""
    port = json.loads((data_dir / "mongod.json").read_text())["port"]
    password = (data_dir / "password").read_text()
    return f"mongodb://sluice:{password}@127.0.0.1:{port}/?directConnection=true"


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            found += map(int, task.read_text().split())
    return found


def command_line(pid: int) -> str:
    """A process's command line; empty if it has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):  # before or after the file was opened
        return ""


def descriptors(pid: int) -> list[str]:
    """What a process has open, such as `socket:[17]` or the path of a file."""
    found: list[str] = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found.append(str(link.readlink()))
    return found


def is_stopped(pid: int) -> bool:
    """Whether a process is frozen by SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def workers_memory(server: Server) -> int:
    """The resident memory of all workers, in bytes."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in server.worker_pids()]
    return sum(pages) * 4096


def tls_options(certificates: Path) -> list[str]:
    """The options of a server with TLS, whose certificate is in this directory."""
    return ["--tls-cert", str(certificates / "server.pem"), "--tls-key", str(certificates / "server.key")]


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    """Wait until the condition holds. Fails with `what` if that takes longer than `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)


def event(index: int = 0, **fields: Any) -> Json:
    """A good event."""
    return {"type": "purchase", "data": {"index": index, "value": 99.99, "currency": "USD"}, **fields}


def batch(count: int = 1, **fields: Any) -> Json:
    """A good batch."""
    return {"source": "backend", "events": [event(index) for index in range(count)], **fields}
