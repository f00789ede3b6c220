"""The processes of a load test: `sluice serve` and its workers, the command line, and what a process costs. Linux only.

Imports nothing of the server: it is run as its users run it.
"""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

SLUICE = (sys.executable, "-m", "server")

READY = re.compile(r"ready rest=(?P<rest>\S+) grpc=(?P<grpc>\S+)")

START_TIMEOUT_S = 60

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

MIB = 2**20


class Key(NamedTuple):
    """An API key: its secret, and the id of its tenant in hexadecimal."""

    secret: str
    tenant_id: str


class Server(NamedTuple):
    """A running `sluice serve`."""

    url: str
    grpc: str
    pid: int
    worker_pids: list[int]


@asynccontextmanager
async def serving(log: Path, env: dict[str, str], *options: str) -> AsyncIterator[Server]:
    """A `sluice serve` with these options and environment variables on a free port. Its stderr goes to `log`."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(*SLUICE, "serve", "--port", "0", "--grpc-port", "0", *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **env},
        )
    try:
        ready = await ready_line(process)
        if ready is None:
            raise click.ClickException(f"sluice serve did not start: {log.read_text()}")
        yield Server(ready["rest"], ready["grpc"], process.pid, worker_pids(process.pid))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def ready_line(process: asyncio.subprocess.Process) -> re.Match[str] | None:
    """Where the server answers, once it does; None where it ends before that."""
    assert process.stdout is not None
    async with asyncio.timeout(START_TIMEOUT_S):
        async for line in process.stdout:
            if match := READY.match(line.decode()):
                return match
    return None


async def create_key(env: dict[str, str], tenant: str, rate_limit: int = 0) -> Key:
    """A new key that may make so many requests a minute; any number where it is 0."""
    process = await asyncio.create_subprocess_exec(
        *(*SLUICE, "keys", "create", "--tenant", tenant, "--rate-limit", str(rate_limit), "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **env},
    )
    output, complaint = await process.communicate()
    if process.returncode != 0:
        raise click.ClickException(f"sluice keys create failed: {complaint.decode()}")
    answer: dict[str, Any] = json.loads(output)
    return Key(answer["key"], answer["tenant_id"].replace("-", ""))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def worker_pids(pid: int) -> list[int]:
    """The process ids of a server's workers."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return [child for child in children if b"server.runtime.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def cpu_s(pids: Iterable[int]) -> float:
    """The CPU seconds, of the processes and the kernel for them, that the processes have used."""
    # Behind the name in parentheses, which may hold spaces, utime and stime are the 12th and 13th field.
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / CLOCK_TICKS_PER_S


def machine_cpu_s() -> float:
    """The CPU seconds that all processes of the machine have used."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / CLOCK_TICKS_PER_S


def resident_mib(pids: Iterable[int]) -> float:
    """The memory that the processes hold now."""
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / MIB
