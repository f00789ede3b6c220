"""A load test from its options to its exit status. The tests themselves say what to run and how to judge it."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from loadtests.support.options import Options
from loadtests.support.run_locust import Place, place
from loadtests.support.verdict import Verdict

LoadTest = Callable[[Options, Place, Path], Awaitable[Verdict]]
"""Runs Locust in directories below the path, and judges what came of it."""


def carry_out(test: LoadTest, options: Options) -> None:
    """Run a load test, publish its verdict, and end with status 1 where it failed.

    The server's data is in a temporary directory; TMPDIR says where: on a disk, for the journal's sake.
    """
    with tempfile.TemporaryDirectory(prefix="sluice-loadtest-") as directory:
        verdict = asyncio.run(run_until_terminated(test, options, Path(directory)))
        verdict.publish(sorted(Path(directory).glob("*/locust.html")))
    if not verdict.passed:
        sys.exit(1)


async def run_until_terminated(test: LoadTest, options: Options, directory: Path) -> Verdict:
    """Run; on SIGTERM too, end what was started."""
    running = asyncio.ensure_future(run(test, options, directory))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        raise click.Abort from None


async def run(test: LoadTest, options: Options, directory: Path) -> Verdict:
    """Run the test at its place."""
    async with place(options, directory) as where:
        return await test(options, where, directory)
