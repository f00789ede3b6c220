"""Generator processes, from the benchmark's side: start one, let it begin, take its result. Imports the job only."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
import msgspec

from loadtests.benchmark.jobs import Job, Result

MAX_RESULT_BYTES = 2**26
"""A generator's result is one line, with a latency for each request."""


@asynccontextmanager
async def ready_generator(job: Job) -> AsyncIterator[asyncio.subprocess.Process]:
    """A generator that has made all it needs and waits for the word to begin."""
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
        await process.wait()  # its result is its last word
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def readiness_of(generator: asyncio.subprocess.Process) -> None:
    """Wait until a generator can begin."""
    await line_of(generator)


async def result_of(generator: asyncio.subprocess.Process) -> Result:
    """Let a generator begin, and wait for what comes of it."""
    assert generator.stdin is not None
    generator.stdin.write(b"go\n")
    return msgspec.json.decode(await line_of(generator), type=Result)


async def line_of(generator: asyncio.subprocess.Process) -> bytes:
    """What a generator says next."""
    assert generator.stdout is not None
    line = await generator.stdout.readline()
    if not line:
        raise click.ClickException("a generator failed: the lines above say why")
    return line
