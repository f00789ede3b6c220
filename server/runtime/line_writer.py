"""Writes lines to stderr from a thread of its own, so that a reader of stderr that stops reading stops no request.

A pipe holds 64 KiB. If its reader hangs, a write to it blocks for as long. So lines wait in a queue of limited length,
and lines past its end are dropped and counted.
"""

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

MAX_WAITING_LINES = 1_000
"""Lines that wait to be written: some 200 kB. More would only be older when they are read."""

STDERR = 2
"""The file descriptor. It is written to directly: one call for a line, so lines of several processes stay whole."""

FLUSH_TIMEOUT_S = 1.0
"""How long the end of a process waits for its last lines to be written."""

POLL_S = 0.01
"""The pause between two looks at whether they are."""


class LineWriter:
    """The queue and its thread. `dropped_line` makes the line that tells how many lines were dropped."""

    def __init__(self, dropped_line: Callable[[int], str]) -> None:
        self._dropped_line = dropped_line
        self._dropped = 0
        self._lines: queue.Queue[str] = queue.Queue(MAX_WAITING_LINES)
        threading.Thread(target=self._write_lines, name="log", daemon=True).start()

    def put(self, line: str) -> None:
        """Write a line soon. Never blocks, and drops the line if too many wait."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Wait until all lines are written, for FLUSH_TIMEOUT_S at most."""
        end = time.monotonic() + FLUSH_TIMEOUT_S
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(POLL_S)

    def _write_lines(self) -> None:
        while True:
            write_line(self._lines.get())
            if dropped := self._dropped:
                write_line(self._dropped_line(dropped))
                self._dropped -= dropped
            self._lines.task_done()


def write_line(line: str) -> None:
    """Write a line to stderr, whole if it can be. A stderr that is closed or full loses it: there is no other place."""
    rest = line.encode(errors="backslashreplace") + b"\n"
    with suppress(OSError):
        while rest:
            rest = rest[os.write(STDERR, rest) :]
