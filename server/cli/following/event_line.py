"""Shows an event as one line of a terminal: time, source, type and data, cut to the width of the terminal.

Clients choose all of these texts. So no character reaches the terminal that could move its cursor, change its colors
or the order of what it shows: such a character is shown as its escape.
"""

import unicodedata

import msgspec

TIME_CHARS = len("2026-01-31T12:00:00")
"""Whole seconds. The time can be given to --since as it is shown."""

NAME_COLUMNS = 16
"""What a source or a type takes at least, so that most lines are aligned."""

CUT = "..."


class ShownEvent(msgspec.Struct):
    """What is shown of an event."""

    received_at: str
    source: str
    event_type: str
    data: msgspec.Raw


def event_line(event: bytes, columns: int) -> str:
    """An event, as it is sent, in at most this many columns. Raises msgspec.DecodeError if it is none."""
    shown = msgspec.json.decode(event, type=ShownEvent)
    names = (padded(printable(name)) for name in (shown.source, shown.event_type))
    data = bytes(shown.data)[: 4 * columns].decode(errors="ignore")  # a character has at most 4 bytes, and may be cut
    return fitted("  ".join((shown.received_at[:TIME_CHARS], *names, printable(data))), columns)


def printable(text: str) -> str:
    """A text in which escapes stand for characters that cannot be seen, or change how others are shown."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def padded(name: str) -> str:
    """A name with spaces after it, if it is short."""
    return name + " " * max(0, NAME_COLUMNS - sum(map(width, name)))


def fitted(text: str, columns: int) -> str:
    """The text, cut if it is wider than the terminal."""
    used = 0
    for index, char in enumerate(text):
        used += width(char)
        if used > columns:
            while index and sum(map(width, text[:index])) > columns - len(CUT):
                index -= 1
            return text[:index] + CUT
    return text


def width(char: str) -> int:
    """The columns that a character takes."""
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
