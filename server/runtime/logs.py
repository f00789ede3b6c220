"""How the processes log: one line an event, on stderr, for people or for machines. Imports the standard library.

No log line holds a stack trace or the text of an exception: either may quote a key, an event or a connection string.
What is logged of an exception is its type and where it was raised.
"""

import asyncio
import json
import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from server.settings import LogFormat, LogLevel

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

log = logging.getLogger("sluice")


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """Send what Sluice logs from `level` up, and the warnings of libraries, to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)  # a driver's debug log quotes documents
    log.setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of every request that is none, from anyone
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it reports clients that are gone as errors of its own


def log_lost_exceptions(loop: asyncio.AbstractEventLoop) -> None:
    """Log what no task awaited by its type and place; asyncio's own message would quote it."""
    loop.set_exception_handler(_on_lost_exception)


def _on_lost_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.error("exception in the event loop", exc_info=context.get("exception"))


class ConsoleFormatter(logging.Formatter):
    """`12:00:00.123 warning message`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[11:23]
        return f"{moment} {record.levelname.lower():7} {one_line(record)}"


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "pid", "logger", "message"}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {"time": moment, "level": record.levelname.lower(), "pid": record.process, "logger": record.name}
        return json.dumps({**fields, "message": one_line(record)})


def one_line(record: logging.LogRecord) -> str:
    """The record's message, and what is safe to say of its exception."""
    message = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        message = f"{message}: {place_of(record.exc_info[1])}"
    return message.replace("\n", " ")


def place_of(error: BaseException) -> str:
    """The type of an exception and the line that raised it: `KeyError at storage/keys.py:40`."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {'/'.join(frames[-1].filename.split('/')[-2:])}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where
