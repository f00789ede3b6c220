"""Starts generator processes, starts their jobs and reads their results.

Generators are processes of their own, because one interpreter could be what limits the figures.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
import msgspec

from loadtests.benchmark.jobs import Job, Result

MAX_RESULT_BYTES = 2**26
"""The longest result: one line of JSON, with a latency for each request."""


@asynccontextmanager
async def ready_generator(job: Job) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a generator and send it its job. It ends with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.benchmark.generator"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MAX_RESULT_BYTES,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        yield process
        await process.wait()  # it ends after its result
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def wait_until_ready(generator: asyncio.subprocess.Process) -> None:
    """Wait until a generator has made its requests."""
    await line_of(generator)


async def result_of(generator: asyncio.subprocess.Process) -> Result:
    """Start the job of a generator, and wait for its result."""
    assert generator.stdin is not None
    generator.stdin.write(b"go\n")
    return msgspec.json.decode(await line_of(generator), type=Result)


async def line_of(generator: asyncio.subprocess.Process) -> bytes:
    """Read a line from a generator. Raises ClickException if it has ended."""
    assert generator.stdout is not None
    line = await generator.stdout.readline()
    if not line:
        raise click.ClickException("a generator failed: the lines above say why")
    return line


async def run(job: Job) -> Result:
    """Run a job in a generator of its own. Raises ClickException if a request is rejected."""
    async with ready_generator(job) as generator:
        await wait_until_ready(generator)
        result = await result_of(generator)
    if result.rejections:
        raise click.ClickException(f"a request was rejected: {result.rejections[0]}")
    return result
