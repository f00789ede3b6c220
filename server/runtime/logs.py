"""How the processes log: one line for each record, on stderr, for people or as JSON.

No line holds a stack trace or the text of an exception, because either may quote a key, an event or a connection
string. What is logged of an exception is its type and where it was raised.
"""

import asyncio
import errno
import json
import logging
import os
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from server.settings import LogFormat, LogLevel

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

log = logging.getLogger("sluice")


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """Write what Sluice logs from `level` up, and the warnings of libraries, to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)  # a driver's debug log quotes documents
    log.setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of all bytes that are no request
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it logs clients that left as its own errors


def log_lost_exceptions(loop: asyncio.AbstractEventLoop) -> None:
    """Log exceptions that no task awaited by type and place. The log line of asyncio itself would quote their text."""
    loop.set_exception_handler(_on_lost_exception)


def _on_lost_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.error("exception in the event loop", exc_info=context.get("exception"))


class ConsoleFormatter(logging.Formatter):
    """Lines for people: `12:00:00.123 warning message`, in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[11:23]
        return f"{moment} {record.levelname.lower():7} {one_line(record)}"


class JsonFormatter(logging.Formatter):
    """Lines for programs: `{"time", "level", "pid", "logger", "message"}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {"time": moment, "level": record.levelname.lower(), "pid": record.process, "logger": record.name}
        return json.dumps({**fields, "message": one_line(record)})


def one_line(record: logging.LogRecord) -> str:
    """The message of a record without line breaks, and type and place of its exception."""
    message = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        message = f"{message}: {place_of(record.exc_info[1])}"
    return message.replace("\n", " ")


def place_of(error: BaseException) -> str:
    """The type of an exception and the line that raised it: `KeyError at storage/keys.py:40`.

    For an error of the operating system, also its reason: `PermissionError (Permission denied) at ...`.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {'/'.join(frames[-1].filename.split('/')[-2:])}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + system_reason(error) + place


def system_reason(error: BaseException) -> str:
    """Why the operating system refused a call, in parentheses; empty if `error` is no error of it.

    Subclasses from libraries, such as SSLError, have numbers of their own.
    """
    number = error.errno if isinstance(error, OSError) and type(error).__module__ == "builtins" else None
    return f" ({os.strerror(number)})" if number is not None and number in errno.errorcode else ""
