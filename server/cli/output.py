"""What commands print on stdout: JSON for programs, columns for people, and events. They may raise OutputError."""

import json
import os
import select
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from server.runtime.logs import system_reason
from server.runtime.output import OutputError, discard_stdout, print_line

STDOUT = 1
"""The file descriptor. Events are written to it directly, as they are."""


class ReaderGone(Exception):
    """The program that read stdout, such as `head`, has ended. That is no error: it has read enough."""


class Stdout:
    """Events on stdout, a line each."""

    remedy = "With --output the same command would go on with it"

    def __init__(self) -> None:
        self.lines = 0
        """How many there are."""
        self.last = b""
        """The last of them; empty if there is none."""

    def check_reader(self) -> None:
        """Raises ReaderGone if stdout is a pipe that will not be read any more."""
        poll = select.poll()
        poll.register(STDOUT, 0)
        if any(events & select.POLLERR for _, events in poll.poll(0)):
            raise ReaderGone

    def write(self, lines: bytes) -> None:
        """Write whole lines at once. Raises OutputError and ReaderGone."""
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(STDOUT, rest) :]
        except BrokenPipeError:
            discard_stdout()
            raise ReaderGone from None
        except OSError as error:
            discard_stdout()
            raise OutputError(f"stdout cannot be written to{system_reason(error)}") from None


def print_json(value: Any) -> None:
    """Print a value as one line of JSON: in UTF-8, or with escapes if stdout has another encoding."""
    is_utf8 = sys.stdout.encoding.lower() == "utf-8"
    print_line(json.dumps(msgspec.to_builtins(value), ensure_ascii=not is_utf8, separators=(",", ":")))


def print_table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows in columns as wide as their widest cell, under `heads`."""
    table = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
