"""Runs Locust on a plan, in processes of its own, because gevent replaces the sockets of a process that it runs in.

The command and Locust's processes share a directory: the plan, the ledger, and the count of users that are done.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

import click

from loadtests.support.options import Options
from loadtests.support.plan import PLAN_VARIABLE, Plan
from loadtests.support.processes import reserved_port
from loadtests.support.progress import say
from loadtests.support.records import Record, done_path, failures_path, read_records

LOCUSTFILE = Path(__file__).parents[1] / "users" / "locustfile.py"

LOCUST_PROCESSES = 2
"""With one, Locust's own interpreter would limit what is measured."""

RESPONSE_TIMEOUT_S = 30.0
"""The longest that a user waits for a response: three times the deadline that the server gives a request."""

LOCUST_GRACE_S = 300
"""Time from the last due request until Locust ends by itself: longer than all waits and responses together."""

POLL_S = 0.1
"""Time between two checks whether all users are done."""

STOP_TIMEOUT_S = 30
"""The longest wait for Locust to write its report."""

LOG_CHARACTERS = 2_000
"""The end of a log that is shown if Locust failed."""


async def run_locust(plan: Plan, directory: Path, options: Options) -> list[Record]:
    """Run a plan to its end. Returns its ledger, and leaves Locust's own report in `directory` as `locust.html`.

    Raises ClickException if Locust or one of its users failed.
    """
    directory.mkdir()
    plan.save(directory)
    say(f"running Locust: {plan.users} users, the last request is due after {plan.seconds:.0f} s")
    with (directory / "locust.log").open("wb") as log, reserved_port() as port, reserved_port() as web_port:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", *locust_options(plan, directory, options, port, web_port)),
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops Locust
            env={**locust_env(), PLAN_VARIABLE: str(directory)},
        )
        try:
            await users_done(process, directory, plan.users)
            if options.web:
                await interrupted(process)
        finally:
            await stop(process)
    if not is_done(directory, plan.users) or failures_path(directory).exists():
        raise click.ClickException(f"Locust itself failed: {failure_text(directory)}")
    return list(read_records(directory))


def locust_options(plan: Plan, directory: Path, options: Options, port: int, web_port: int) -> list[str]:
    """Return Locust's command line. `port` is not Locust's default, so that two load tests can run at the same time."""
    users, seconds = str(plan.users), f"{plan.seconds + LOCUST_GRACE_S:.0f}s"
    line = ["-f", str(LOCUSTFILE), "--users", users, "--spawn-rate", users, "--host", plan.url]
    line += ["--html", str(directory / "locust.html"), "--exit-code-on-error", "0", "--only-summary"]
    if options.web:
        say(f"Locust's page: http://127.0.0.1:{web_port}")
        line += ["--web-host", "127.0.0.1", "--web-port", str(web_port), "--autostart"]
    else:
        line += ["--headless", "--run-time", seconds]
    line += ["--processes", str(LOCUST_PROCESSES), "--master-bind-host", "127.0.0.1"]
    return [*line, "--master-bind-port", str(port), "--master-port", str(port)]


def locust_env() -> dict[str, str]:
    """Return this process's environment without the variables that would set Locust's options."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}


def is_done(directory: Path, users: int) -> bool:
    """Whether all users have come to their end."""
    path = done_path(directory)
    return path.exists() and path.stat().st_size == users


async def users_done(process: asyncio.subprocess.Process, directory: Path, users: int) -> None:
    """Wait until all users are done, one has failed, or Locust has ended."""
    failures = failures_path(directory)
    while process.returncode is None and not is_done(directory, users) and not failures.exists():
        await asyncio.sleep(POLL_S)


async def interrupted(process: asyncio.subprocess.Process) -> None:
    """Keep Locust's page open until Ctrl-C, or until Locust ends."""
    say("all requests have their responses; press Ctrl-C to close the page and see the verdict")
    event, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, event.set)
    waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(process.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    loop.remove_signal_handler(signal.SIGINT)


async def stop(process: asyncio.subprocess.Process) -> None:
    """Stop Locust, and wait until it has written its report. Kill it if that takes too long."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def failure_text(directory: Path) -> str:
    """Return why Locust failed: what its users reported, or else the end of its log."""
    failures = failures_path(directory)
    path = failures if failures.exists() else directory / "locust.log"
    return path.read_text()[-LOG_CHARACTERS:]
