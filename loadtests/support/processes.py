"""Runs `sluice serve` and `sluice keys`, and measures the CPU time and memory of processes. Linux only.

The server runs as its users run it, from its command line. So it can also be one of another checkout.
"""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import click

SLUICE = (sys.executable, "-m", "server")

READY = re.compile(r"ready rest=(?P<rest>\S+) grpc=(?P<grpc>\S+)")

START_TIMEOUT_S = 60
"""The longest wait for the server's line `ready`. A new embedded database takes about 5 s of it."""

WORKER = re.compile(rb"\0server(\.\w+)*\.worker\0")
"""A worker's module on its command line, in this checkout and in those before the regrouping of `server`."""

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

MIB = 2**20


class Key(NamedTuple):
    """An API key: its secret, and the id of its tenant as 32 hexadecimal digits."""

    secret: str
    tenant_id: str


class Server(NamedTuple):
    """A running `sluice serve`: its addresses, its supervisor's process id, and those of its workers."""

    url: str
    grpc: str
    pid: int
    worker_pids: list[int]


@asynccontextmanager
async def serving(log: Path, env: dict[str, str], *options: str, checkout: Path | None = None) -> AsyncIterator[Server]:
    """Run `sluice serve` on free ports, with the code of `checkout` if there is one. Its stderr goes to `log`.

    Raises ClickException if the server does not start.
    """
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(*SLUICE, "serve", "--port", "0", "--grpc-port", "0", *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=checkout,
            env={**os.environ, **env, **code_of(checkout)},
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


def code_of(checkout: Path | None) -> dict[str, str]:
    """Return the environment that makes Python import `server` from `checkout`; empty for the installed one.

    Generated code is imported as `sluice.v1`, from `proto/`. Earlier checkouts import it as `proto.sluice.v1`.
    """
    return {} if checkout is None else {"PYTHONPATH": f"{checkout}{os.pathsep}{checkout / 'proto'}"}


async def ready_line(process: asyncio.subprocess.Process) -> re.Match[str] | None:
    """Wait for the line that names the server's addresses. Returns None if the server ends before it."""
    assert process.stdout is not None
    async with asyncio.timeout(START_TIMEOUT_S):
        async for line in process.stdout:
            if match := READY.match(line.decode()):
                return match
    return None


async def create_key(env: dict[str, str], tenant: str, rate_limit: int = 0, *, checkout: Path | None = None) -> Key:
    """Create a key. `rate_limit` is in requests a minute, 0 for none. Raises ClickException if that fails."""
    process = await asyncio.create_subprocess_exec(
        *(*SLUICE, "keys", "create", "--tenant", tenant, "--rate-limit", str(rate_limit), "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=checkout,
        env={**os.environ, **env, **code_of(checkout)},
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise click.ClickException(f"sluice keys create failed: {errors.decode()}")
    created: dict[str, Any] = json.loads(output)
    return Key(created["key"], created["tenant_id"].replace("-", ""))


@contextmanager
def reserved_port() -> Iterator[int]:
    """Hold a port of this machine: the kernel gives it to no one. A program that sets SO_REUSEADDR may listen on it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def worker_pids(pid: int) -> list[int]:
    """Return the process ids of a server's workers, given that of its supervisor."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            children += map(int, task.read_text().split())
    return [child for child in children if WORKER.search(Path(f"/proc/{child}/cmdline").read_bytes())]


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds that the processes have used together, in user mode and in the kernel."""
    # utime and stime are the 12th and 13th field after the name in parentheses, which may contain spaces.
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / CLOCK_TICKS_PER_S


def machine_cpu_s() -> float:
    """Return the CPU seconds that all processes of the machine have used since it started."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / CLOCK_TICKS_PER_S


def resident_mib(pids: Iterable[int]) -> float:
    """Return the resident memory of the processes together, in MiB. Shared libraries count once for each."""
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / MIB
