"""Runs a load test from its options to its exit status. Each load test adds what to send and how to judge it."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from loadtests.support.deployment import Deployment, open_deployment
from loadtests.support.options import Options
from loadtests.support.verdict import Verdict

LoadTest = Callable[[Options, Deployment, Path], Awaitable[Verdict]]
"""Runs Locust in directories below the path. Returns the verdict on what was measured."""


def run_command(test: LoadTest, options: Options) -> None:
    """Run a load test and publish its verdict. Exit with status 1 if it failed.

    The server's data is in a temporary directory. TMPDIR should be on a disk, because journal writes are part of what
    is measured.
    """
    with tempfile.TemporaryDirectory(prefix="sluice-loadtest-") as directory:
        verdict = asyncio.run(run_until_terminated(test, options, Path(directory)))
        verdict.publish(sorted(Path(directory).glob("*/locust.html")))
    if not verdict.passed:
        sys.exit(1)


async def run_until_terminated(test: LoadTest, options: Options, directory: Path) -> Verdict:
    """Run the test. On SIGTERM, stop the processes that it started, and raise Abort."""
    running = asyncio.ensure_future(run(test, options, directory))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        raise click.Abort from None


async def run(test: LoadTest, options: Options, directory: Path) -> Verdict:
    """Run the test against the deployment that the options name."""
    async with open_deployment(options, directory) as deployment:
        return await test(options, deployment, directory)
