"""Prints on stdout, which may be closed, full, or a pipe that is not read any more."""

import os
import sys

from server.runtime.logs import system_reason


class OutputError(Exception):
    """A line could not be printed on stdout. The text says why."""


def print_line(line: str) -> None:
    """Print a line. Raises OutputError if that fails; then nothing more can be printed."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError as error:
        discard_stdout()
        raise OutputError(f"stdout cannot be written to{system_reason(error)}") from None


def discard_stdout() -> None:
    """Let stdout lead nowhere. Else Python would, when it ends, try again to write what could not be written."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
