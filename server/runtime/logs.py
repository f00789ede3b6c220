"""How the processes log: one line for each record, on stderr, for people or as JSON.

No line holds a stack trace or the text of an exception, because either may quote a key, an event or a connection
string. What is logged of an exception is its type and where it was raised.

A line about a request ends with the fields that `core/request_context.py` knows: its id, tenant, key and trace.

With `--log-format json` every line is an object, also the last one of a command that fails. So a program can read all
of stderr. What libraries write there by themselves is passed on by `stderr_relay.py`.
"""

import asyncio
import errno
import json
import logging
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from server.core.request_context import current_request
from server.runtime.line_writer import LineWriter, write_line
from server.settings import LogFormat, LogLevel

log = logging.getLogger("sluice")


class QueuedHandler(logging.Handler):
    """Hands the line of each record to a LineWriter."""

    def __init__(self, log_format: LogFormat) -> None:
        super().__init__()
        self.formatter = JsonFormatter() if log_format == "json" else ConsoleFormatter()
        self._writer = LineWriter(self._dropped_line)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record soon."""
        self._writer.put(self.format(record))

    def flush(self) -> None:
        """Wait a moment for the lines to be written. Python calls this when the process ends."""
        self._writer.flush()

    def put(self, line: str) -> None:
        """Write a line that is no record soon."""
        self._writer.put(line)

    def write(self, line: str) -> None:
        """Write a line that is no record, and wait a moment for it."""
        self._writer.put(line)
        self._writer.flush()

    def _dropped_line(self, count: int) -> str:
        return self.format(
            new_record(logging.WARNING, f"dropped {count} lines of the log, because stderr was not read")
        )


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """Write what Sluice logs from `level` up, and the warnings of libraries, to stderr."""
    handler = QueuedHandler(log_format)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)  # a driver's debug log quotes documents
    logging.captureWarnings(True)
    log.setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of all bytes that are no request
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it logs clients that left as its own errors
    sys.excepthook = _on_uncaught
    threading.excepthook = _on_lost_in_thread
    sys.unraisablehook = _on_lost_in_cleanup


def announce(text: str) -> None:
    """Write a line whatever the log level is. A command other than `serve` writes the text alone."""
    if queued_handler() is None:
        write_line(text)
    else:
        log.handle(new_record(logging.INFO, text))


def print_failure(reason: str, log_format: LogFormat) -> None:
    """Write why a command failed, as the last line on stderr."""
    line = f"sluice: {reason}"
    if log_format == "json":
        line = JsonFormatter().format(new_record(logging.ERROR, line))
    handler = queued_handler()
    if handler is None:
        write_line(line)
    else:
        handler.write(line)


def pass_on(line: str) -> None:
    """Write a line of another process soon: as it is if it is an object, and else as the message of one."""
    handler = queued_handler()
    if handler is not None:
        handler.put(line if is_object(line) else handler.format(new_record(logging.WARNING, line)))


def is_object(line: str) -> bool:
    """Whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def queued_handler() -> QueuedHandler | None:
    """The handler that `configure_logging` made; None if it was not called."""
    return next((handler for handler in logging.getLogger().handlers if isinstance(handler, QueuedHandler)), None)


def new_record(level: int, text: str) -> logging.LogRecord:
    """A record of Sluice with this text."""
    return logging.LogRecord(log.name, level, "", 0, "%s", (text,), None)


def log_lost_exceptions(loop: asyncio.AbstractEventLoop) -> None:
    """Log exceptions that no task awaited by type and place. The log line of asyncio itself would quote their text."""
    loop.set_exception_handler(_on_lost_exception)


def _on_lost_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.error("exception in the event loop", exc_info=context.get("exception"))


def _on_uncaught(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    log.critical("uncaught exception", exc_info=error)


def _on_lost_in_thread(lost: threading.ExceptHookArgs) -> None:
    log.error("exception in a thread", exc_info=lost.exc_value)


def _on_lost_in_cleanup(lost: "sys.UnraisableHookArgs") -> None:
    log.error("exception that no code could catch", exc_info=lost.exc_value)


class ConsoleFormatter(logging.Formatter):
    """Lines for people: `2026-01-31 12:00:00.123 warning message (request_id=...)`, in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(" ", "milliseconds")[:23]
        fields = " ".join(f"{name}={value}" for name, value in request_fields().items())
        return f"{moment} {record.levelname.lower():7} {one_line(record)}{f' ({fields})' if fields else ''}"


class JsonFormatter(logging.Formatter):
    """Lines for programs: `{"time", "level", "pid", "logger", "message"}`.

    Those about a request also have `request_id`, `tenant_id`, `key_id` and `trace_id`, as far as they are known.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {"time": moment, "level": record.levelname.lower(), "pid": record.process, "logger": record.name}
        return json.dumps({**fields, "message": one_line(record), **request_fields()})


def request_fields() -> dict[str, str]:
    """The fields of the request that the current task works on; empty if it works on none."""
    request = current_request()
    return {} if request is None else request.fields()


def one_line(record: logging.LogRecord) -> str:
    """The message of a record without line breaks, and type and place of its exception."""
    message = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        message = f"{message}: {place_of(record.exc_info[1])}"
    return " ".join(message.splitlines())


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
