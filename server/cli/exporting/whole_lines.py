r"""Splits bytes that arrive in chunks of any length into whole lines. Only `\n` ends a line: JSON may hold all others.

It looks at line ends alone, and parses no line. So it takes no time that could be seen beside the network. Empty lines,
which keep a connection alive while no event matches, are left out.
"""

import re

EMPTY_LINES = re.compile(rb"^\n+|(?<=\n)\n+")


class WholeLines:
    """The lines of one stream."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self.last = b""
        """The last whole line, with its end; empty if there was none."""

    @property
    def is_between_lines(self) -> bool:
        """Whether no line has begun that is not whole yet."""
        return not self._rest

    def feed(self, chunk: bytes) -> bytes:
        """The lines that are whole with this chunk, and were not before. There may be none."""
        end = chunk.rfind(b"\n") + 1
        if not end:
            self._rest += chunk
            return b""
        whole = b"".join((self._rest, chunk[:end])) if self._rest else chunk[:end]
        self._rest = bytearray(chunk[end:])
        if whole.startswith(b"\n") or b"\n\n" in whole:
            whole = EMPTY_LINES.sub(b"", whole)
        if whole:
            self.last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
        return whole
