"""The log of mongod: bounded in size, and read for the reason why mongod ended.

mongod itself never removes an old log.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MAX_LOG_BYTES = 8 * 2**20
"""From this size on, the log is renamed and a new one begun. mongod writes about 50 kB with each start."""

KEPT_LOGS = 2
"""How many older logs are kept. With the current one they take 24 MiB."""

LOG_TAIL_BYTES = 2**20
"""What is read of the end of a log: more than mongod writes in a start that fails."""

MAX_REASON_CHARS = 300
"""The longest reason that is taken from a log, because it becomes a part of one line."""

PLACEHOLDER = re.compile(r"\{(\w+)\}")

SEVERE = ("E", "F")
"""Error and Fatal, as the log has them."""


def rotate_if_large(log: Path) -> bool:
    """Rename the log to `mongod.log.1`, and older ones likewise, if it is large. Returns whether. Raises OSError.

    mongod goes on to write to the renamed file until it is told to reopen its log.
    """
    if not log.exists() or log.stat().st_size < MAX_LOG_BYTES:
        return False
    names = [log, *(log.with_name(f"{log.name}.{number}") for number in range(1, KEPT_LOGS + 1))]
    for older, newer in reversed(list(zip(names[1:], names, strict=False))):
        if newer.exists():
            newer.replace(older)
    return True


def log_size(log: Path) -> int:
    """The size of the log in bytes: where the lines of the next start begin."""
    return log.stat().st_size if log.exists() else 0


def read_lines(log: Path, start: int) -> list[str]:
    """The lines of the log from byte `start` on, the last LOG_TAIL_BYTES of them; none if it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log_size(log) - LOG_TAIL_BYTES))
            return file.read(LOG_TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []


def find_reason(lines: Iterable[str]) -> str | None:
    """Why mongod ended: the first line of severity Error or Fatal that has a reason, else the first one; None if none.

    The later ones follow from it: "the process must exit and restart".
    """
    entries = [entry for entry in map(parse_entry, lines) if entry.get("s") in SEVERE]
    described = [(message_of(entry), describe(entry)) for entry in entries]
    with_reason = [f"{message}: {reason}" for message, reason in described if reason]
    found = with_reason or [message for message, _ in described]
    return truncate(found[0]) if found else None


def parse_entry(line: str) -> dict[str, Any]:
    """A line of the log as an object; empty if it is none."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def message_of(entry: dict[str, Any]) -> str:
    """The message of a line. mongod leaves `{name}` in some of them, which stands for the attribute of that name."""
    attributes = entry.get("attr")
    given = attributes if isinstance(attributes, dict) else {}
    return PLACEHOLDER.sub(lambda found: str(given.get(found[1], found[0])), str(entry.get("msg", "")))


def describe(entry: dict[str, Any]) -> str | None:
    """The reason that a line gives, if any."""
    attributes = entry.get("attr")
    if not isinstance(attributes, dict):
        return None
    for name in ("error", "reason", "message"):
        value = attributes.get(name)
        if isinstance(value, dict):
            value = value.get("errmsg") or value.get("msg")
        if isinstance(value, str) and value and not value.startswith("Got signal"):
            number = attributes.get("error")  # WiredTiger has the system's error as a number beside its text
            return f"{value}: {os.strerror(number)}" if isinstance(number, int) and number > 0 else value
    return None


def truncate(text: str) -> str:
    """The text as one line of at most MAX_REASON_CHARS characters."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 3] + "..."
