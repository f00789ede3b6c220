"""Where a load test runs, and Locust's processes: what all load tests have in common. Imports no Locust.

By default a test starts a server of its own, as a user would. With `--target` it aims at one that runs.
"""

import asyncio
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import click

from loadtests.support.options import Options
from loadtests.support.plan import PLAN_VARIABLE, Lane, Plan
from loadtests.support.processes import Key, create_key, free_port, serving
from loadtests.support.records import Record, done_path, failures_path, read_records
from loadtests.support.verify import Findings, stored_events, verify
from storage.embedded import State

LOCUSTFILE = Path(__file__).parents[1] / "users" / "locustfile.py"

LOCUST_PROCESSES = 2
"""With one, Locust's interpreter would be what is measured."""

MAX_ANSWER_S = 30.0
"""A caller gives up after so long: three times what the server has for a request."""

LOCUST_GRACE_S = 300
"""Locust ends by itself so long after the last due time, whatever hangs: longer than all waits and answers."""

POLL_S = 0.1
"""Between two looks at whether all users are done."""

STOP_TIMEOUT_S = 30
"""For Locust to write its report."""

LOG_CHARACTERS = 2_000
"""Of a log, where something failed."""


class Place:
    """A server to send to, and its database."""

    def __init__(
        self,
        options: Options,
        url: str,
        grpc: str,
        mongodb_url: str,
        env: dict[str, str] | None = None,
        worker_pids: Sequence[int] = (),
    ) -> None:
        self.url = url
        self.grpc = grpc
        self.worker_pids = worker_pids
        self.run_id = uuid.uuid4().hex[:8]
        self._mongodb_url = mongodb_url
        self._options = options
        self._env = env

    async def keys(self, tenants: Sequence[str], rate_limit: int = 0) -> list[Key]:
        """A key for each tenant: a new one, or those that were given, in turn."""
        if self._env is None:
            given = self._options.key
            return [Key(given[index % len(given)], "") for index in range(len(tenants))]
        return [await create_key(self._env, tenant, rate_limit) for tenant in tenants]

    def source(self, name: str) -> str:
        """A source that no other run has."""
        return f"loadtest-{self.run_id}-{name}"

    def verify(self, records: Sequence[Record], lanes: Sequence[Lane]) -> Findings:
        """Compare what is stored with what was acknowledged."""
        say("verify: reading the database")
        sources = {lane.source for lane in lanes} if self._env is None else None
        return verify(records, lanes, stored_events(self._mongodb_url, self._options.database, sources))


@asynccontextmanager
async def place(options: Options, directory: Path) -> AsyncIterator[Place]:
    """Where the test runs: its own server, or the user's."""
    if options.target and options.grpc_target and options.mongodb_url:
        yield Place(options, options.target.rstrip("/"), options.grpc_target, options.mongodb_url)
        return
    data = directory / "data"
    env = {"SLUICE_DATA_DIR": str(data), "SLUICE_DATABASE": options.database, "SLUICE_MONGODB_URL": ""}
    say(f"starting a server with {options.workers} workers")
    async with serving(directory / "serve.log", env, "--workers", str(options.workers)) as server:
        yield Place(options, server.url, server.grpc, State.load(data).url(data), env, server.worker_pids)


async def run_locust(plan: Plan, directory: Path, options: Options) -> list[Record]:
    """Run a plan to its end and return its ledger. Locust's own report is left in the directory as `locust.html`."""
    directory.mkdir()
    plan.save(directory)
    say(f"running Locust: {plan.users} users, the last request is due after {plan.seconds:.0f} s")
    with (directory / "locust.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", *locust_options(plan, directory, options)),
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the command, which ends Locust in its own time
            env={**locust_env(), PLAN_VARIABLE: str(directory)},
        )
        try:
            await users_done(process, directory, plan.users)
            if options.web:
                await interrupted(process)
        finally:
            await stop(process)
    if not is_done(directory, plan.users) or failures_path(directory).exists():
        raise click.ClickException(f"Locust itself failed: {complaint(directory)}")
    return list(read_records(directory))


def locust_options(plan: Plan, directory: Path, options: Options) -> list[str]:
    """Locust's command line."""
    users, seconds = str(plan.users), f"{plan.seconds + LOCUST_GRACE_S:.0f}s"
    line = ["-f", str(LOCUSTFILE), "--users", users, "--spawn-rate", users, "--host", plan.url]
    line += ["--html", str(directory / "locust.html"), "--exit-code-on-error", "0", "--only-summary"]
    if options.web:
        port = str(free_port())
        say(f"Locust's page: http://127.0.0.1:{port}")
        line += ["--web-host", "127.0.0.1", "--web-port", port, "--autostart"]
    else:
        line += ["--headless", "--run-time", seconds]
    port = str(free_port())  # of Locust's own, so that two load tests can run side by side
    line += ["--processes", str(LOCUST_PROCESSES), "--master-bind-host", "127.0.0.1"]
    return [*line, "--master-bind-port", port, "--master-port", port]


def locust_env() -> dict[str, str]:
    """The environment of Locust: ours, but for what would set its options."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}


def is_done(directory: Path, users: int) -> bool:
    """Whether all users came to their end."""
    path = done_path(directory)
    return path.exists() and path.stat().st_size == users


async def users_done(process: asyncio.subprocess.Process, directory: Path, users: int) -> None:
    """Wait until all users are done, one has failed, or Locust has ended."""
    failures = failures_path(directory)
    while process.returncode is None and not is_done(directory, users) and not failures.exists():
        await asyncio.sleep(POLL_S)


async def interrupted(process: asyncio.subprocess.Process) -> None:
    """Wait for Ctrl-C while Locust's page can be looked at, or for the end of Locust."""
    say("all requests are answered; the page stays until Ctrl-C, and then comes the verdict")
    event, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, event.set)
    waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(process.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    loop.remove_signal_handler(signal.SIGINT)


async def stop(process: asyncio.subprocess.Process) -> None:
    """End Locust, with its report written."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def complaint(directory: Path) -> str:
    """Why Locust failed."""
    failures = failures_path(directory)
    path = failures if failures.exists() else directory / "locust.log"
    return path.read_text()[-LOG_CHARACTERS:]


def say(line: str) -> None:
    """Show progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
