"""What a check finds: that all is well, something that the operator should know, or what keeps a server from working.

A check is a function. It returns what it found in words if all is well. It raises Concern for a WARN, and
ConfigurationError or Unavailable for a FAIL. The text of an error says what is wrong and how to fix it.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from server.core.errors import ConfigurationError, Unavailable
from server.runtime.errors import UNREACHABLE

Level = Literal["OK", "WARN", "FAIL"]

Check = Callable[[], Awaitable[str]]


class Concern(Exception):
    """It works, and may not for long, or not under load. The text says why, and how to fix it."""


class Finding(NamedTuple):
    """The result of one check."""

    level: Level
    name: str
    text: str


async def find(name: str, check: Check) -> Finding:
    """Run a check."""
    try:
        return Finding("OK", name, await check())
    except Concern as concern:
        return Finding("WARN", name, str(concern))
    except ConfigurationError as error:
        return Finding("FAIL", name, str(error))
    except Unavailable:
        return Finding("FAIL", name, UNREACHABLE)
