"""Reads the lines of a stream with their places, in bounded memory."""

from hashlib import sha256
from typing import BinaryIO, NamedTuple

import msgspec

MAX_LINE_BYTES = 13 * 512 * 1024
"""The longest line that is read as a whole, 6.5 MiB. An event of 1 MiB as BSON is at most 6 MiB of JSON, if it is all
control characters, which take 6 bytes each."""

SKIPPED_BYTES = 256 * 1024
"""What is read at a time of what is not kept."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

SPACE = b" \t\r\n"
"""What JSON may have around a value."""

is_json = msgspec.json.Decoder(msgspec.Raw).decode


class Line(NamedTuple):
    """A line that is not blank."""

    number: int
    """From 1."""
    start: int
    """The place of its first byte."""
    text: bytes
    """Without its line feed. Only the beginning, if it is too long."""
    is_too_long: bool = False


class LineReader:
    """Reads lines one after the other, and hashes what it has passed over."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.offset = 0
        """How many bytes are passed over."""
        self.line_feeds = 0
        """How many of these are line feeds."""
        self.hash = sha256()
        """Of these bytes."""
        self.is_incomplete = False
        """Whether the stream ends within a line. It is not passed over: whoever writes it may go on."""

    def skip(self, end: int) -> bool:
        """Pass over the bytes up to `end`. Returns whether there are that many."""
        while self.offset < end:
            data = self._stream.read(min(SKIPPED_BYTES, end - self.offset))
            if not data:
                return False
            self._pass_over(data)
        return True

    def take(self, most: int, most_bytes: int, end: int | None = None) -> list[Line]:
        """The next lines, at most `most`, and no more once they have `most_bytes`; or those up to the place `end`.

        Blank lines count. They are left out of the result.
        """
        lines, count, first = list[Line](), 0, self.offset
        while (count < most and self.offset - first < most_bytes) if end is None else self.offset < end:
            number, start = self.line_feeds + 1, self.offset
            text = self._stream.readline(MAX_LINE_BYTES if end is None else min(MAX_LINE_BYTES, end - start))
            if not text or not self._is_whole(text, end):
                break
            is_too_long = len(text) == MAX_LINE_BYTES and not text.endswith(b"\n")
            self._pass_over(text)
            if is_too_long:
                self._pass_over_rest(end)
            count += 1
            text = (text if start else text.removeprefix(BYTE_ORDER_MARK)).strip(SPACE)
            if text:
                lines.append(Line(number, start, text, is_too_long))
        return lines

    def first(self) -> Line | None:
        """The first line that is not blank; None if there is none, or if it is incomplete."""
        passed = -1
        while self.offset > passed:
            passed = self.offset
            if lines := self.take(1, MAX_LINE_BYTES):
                return lines[0]
        return None

    def _is_whole(self, text: bytes, end: int | None) -> bool:
        """Whether the line is complete. The last one may lack its line feed: what is JSON is not cut."""
        if text.endswith(b"\n") or len(text) == MAX_LINE_BYTES or end is not None or is_value(text):
            return True
        self.is_incomplete = True
        return False

    def _pass_over(self, data: bytes) -> None:
        self.hash.update(data)
        self.offset += len(data)
        self.line_feeds += data.count(b"\n")

    def _pass_over_rest(self, end: int | None) -> None:
        """Pass over what is left of a line that is too long."""
        text = b""
        while not text.endswith(b"\n") and self.offset != end:
            left = SKIPPED_BYTES if end is None else end - self.offset
            text = self._stream.readline(min(SKIPPED_BYTES, left))
            if not text:
                return
            self._pass_over(text)


def is_value(text: bytes) -> bool:
    """Whether a line is a JSON object, or blank. No beginning of an object is one."""
    text = text.strip(SPACE)
    if not text.startswith(b"{"):
        return not text
    try:
        is_json(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
