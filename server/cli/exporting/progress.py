"""The progress of an export: a bar on a terminal, and nothing in a pipe."""

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm

from server.runtime.logs import announce

BYTES_PER_MB = 1_000_000


class Progress:
    """Counts events and bytes. It is shown if stderr is a terminal, and stdout is none: the events go there."""

    def __init__(self, events: int, *, writes_to_stdout: bool) -> None:
        is_shown = sys.stderr.isatty() and not (writes_to_stdout and sys.stdout.isatty())
        self._bar = tqdm(initial=events, unit=" events", unit_scale=True, disable=not is_shown, file=sys.stderr)
        self._bytes = 0

    def add(self, events: int, size: int) -> None:
        """Count some events, which have `size` bytes."""
        self._bytes += size
        self._bar.set_postfix_str(f"{self._bytes / BYTES_PER_MB:,.1f} MB", refresh=False)
        self._bar.update(events)

    def say(self, text: str) -> None:
        """Write a line on stderr, above the bar."""
        self._bar.clear()
        announce(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
