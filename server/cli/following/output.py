"""Prints the events of a tail: readable lines on a terminal, and the events as they were sent in a pipe."""

import shutil
import sys
from collections.abc import Sequence

from server.cli.following.event_line import event_line
from server.cli.output import Stdout


class TailOutput:
    """Stdout, of which each line is written at once."""

    def __init__(self) -> None:
        self._stdout = Stdout()
        self._is_terminal = sys.stdout.isatty()

    def print_events(self, events: Sequence[bytes]) -> None:
        """Print events, which may be none. Raises ReaderGone, also if there are none, and OutputError."""
        if not events:
            self._stdout.check_reader()
        elif self._is_terminal:
            columns = shutil.get_terminal_size().columns
            lines = "".join(f"{event_line(event, columns)}\n" for event in events)
            self._stdout.write(lines.encode(sys.stdout.encoding, "backslashreplace"))
        else:
            self._stdout.write(b"".join(event + b"\n" for event in events))
