"""Shows how far an import is: events that the server has acknowledged, their rate, and the time that is left.

The bar is by bytes of the files, since nobody knows the number of events. Off a terminal nothing is shown.
"""

import sys
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from server.cli.counts import counted
from server.runtime.line_writer import write_line

BAR = "{percentage:3.0f}% |{bar}| {desc} [{elapsed}<{remaining}]"
NO_BAR = "{desc} [{elapsed}]"
"""Without a known size there is no time left to tell."""


class Progress:
    """A line on a terminal."""

    def __init__(self, total_bytes: int) -> None:
        """`total_bytes` is the size of all files; 0 if it is not known."""
        self._bar: tqdm[Any] = tqdm(
            total=total_bytes or None,
            bar_format=BAR if total_bytes else NO_BAR,
            disable=not sys.stderr.isatty(),
            leave=False,
            file=sys.stderr,
        )
        self._events = 0
        self._before = 0

    def show(self, position: int, events: int) -> None:
        """The present file is stored up to `position`, with `events` more than before."""
        self._events += events
        if self._bar.disable:
            return
        elapsed_s = self._bar.format_dict["elapsed"] or 1
        self._bar.set_description_str(
            f"{counted(self._events, 'event')}, {self._events / elapsed_s:,.0f}/s", refresh=False
        )
        self._bar.update(self._before + position - self._bar.n)

    def say(self, text: str) -> None:
        """Write a line on stderr, above the bar."""
        with self._bar.external_write_mode(sys.stderr):
            write_line(text)

    def next_file(self, size: int) -> None:
        """The present file, of `size` bytes, is done."""
        self._before += size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
