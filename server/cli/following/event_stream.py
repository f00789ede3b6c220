"""Parses Server-Sent Events, which arrive in chunks of any length.

The form is that of https://html.spec.whatwg.org/multipage/server-sent-events.html, without what only browsers need.
"""

import re
from typing import NamedTuple

LINE_END = re.compile(rb"\r\n|\n|\r")


class Message(NamedTuple):
    """One message. Its data is whole, and an empty `token` means that the message before had the last one."""

    kind: str
    token: str
    data: bytes


class EventStream:
    """The messages of one response."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._is_after_cr = False
        self._fields: dict[bytes, bytes] = {}
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that are whole with this chunk. A message that is not when the response ends is dropped."""
        if self._is_after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # it ends the same line
            self._is_after_cr = False
        if chunk.endswith(b"\r"):
            self._is_after_cr = True
        *lines, rest = LINE_END.split(chunk)
        messages = []
        for line in lines:
            if self._rest:
                line, self._rest = bytes(self._rest) + line, bytearray()
            if line:
                self._add(line)
            elif message := self._take():
                messages.append(message)
        self._rest += rest
        return messages

    def _add(self, line: bytes) -> None:
        """Take in a line. One that begins with a colon is a comment, and other fields mean nothing here."""
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name in (b"event", b"id"):
            self._fields[name] = value

    def _take(self) -> Message | None:
        """The message that an empty line ends; None if it has no data."""
        fields, data = self._fields, self._data
        self._fields, self._data = {}, []
        if not data:
            return None
        kind = fields.get(b"event", b"message").decode(errors="replace")
        return Message(kind, fields.get(b"id", b"").decode(errors="replace"), b"\n".join(data))
