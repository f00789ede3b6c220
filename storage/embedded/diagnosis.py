"""Says why a mongod ended, in one line: from its exit status, its log, or what it wrote to its output.

An exit status alone tells an operator nothing, and the log is long.
"""

import os
import signal
from pathlib import Path

from storage.embedded.log_file import find_reason, read_lines, truncate

SHELL_SIGNAL_BASE = 128
"""A shell, or a container's runtime, reports the end by signal N as status 128 + N."""

OTHER_VERSION_STATUS = 62
"""mongod's exit status if the files were made by a release that it cannot read."""

LINKER_WARNING = "no version information available"
"""The dynamic linker says this of the libcurl from the wheel of pycurl. It is harmless."""

MAX_OUTPUT_BYTES = 64 * 1024
"""What is read of mongod's output, which is empty or a few lines."""


def explain_status(status: int, made_by: str | None = None) -> str | None:
    """What an exit status means, if it says enough. `made_by` is the release of MongoDB that made the files."""
    number = -status if status < 0 else status - SHELL_SIGNAL_BASE
    if number == signal.SIGILL:
        return "the processor lacks AVX, which MongoDB 5.0 and later need: give --mongodb-url, on another machine"
    if number == signal.SIGKILL:
        return "it was killed, perhaps because memory ran out: see `dmesg`, and give it more"
    if status == OTHER_VERSION_STATUS:
        if made_by is None:
            return "its files were made by another version of MongoDB: install that version"
        return f"its files were made by MongoDB {made_by}, which this one cannot read: install MongoDB {made_by}"
    return None


def explain_end(status: int, made_by: str | None, log: Path, log_start: int, output: int) -> str:
    """Why mongod ended: by its status, the lines of `log` from byte `log_start` on, or the file of its output."""
    lines = os.pread(output, MAX_OUTPUT_BYTES, 0).decode(errors="replace").splitlines()
    reason = explain_status(status, made_by) or find_reason(read_lines(log, log_start)) or find_reason(lines)
    if reason is None and (spoken := [line for line in lines if line.strip() and LINKER_WARNING not in line]):
        reason = truncate(spoken[-1])
    told = f": {reason}" if reason else ""
    return f"mongod ended with status {status} as it started{told} (its log is {log})"
