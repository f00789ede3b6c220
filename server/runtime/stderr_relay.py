"""Passes on what worker processes write to stderr, so that each line of it is a JSON object.

The lines of Sluice and of Python's libraries are objects already. Libraries in C write what they like, and so does
Python if it breaks down. Nothing within a process can catch its last words, so the supervisor does. If the supervisor
is killed, its workers drain without a log.
"""

import asyncio

from server.runtime.logs import pass_on
from server.runtime.messages import read_line
from server.settings import Settings


def stderr_of(settings: Settings) -> int | None:
    """Where the stderr of a worker goes: to `relay` if the log is JSON, and else where that of this process goes."""
    return asyncio.subprocess.PIPE if settings.log_format == "json" else None


async def relay(stream: asyncio.StreamReader | None) -> None:
    """Pass on the lines of a stream to its end, if there is one."""
    while stream is not None and (line := await read_line(stream)):
        if text := line.decode(errors="backslashreplace").strip():
            pass_on(text)
