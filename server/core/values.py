"""Which JSON values can be stored, and where in an event the one stands that cannot. Imports the limits only.

This is the slow, careful walk. It runs only for events that failed the fast path, to say what is wrong and where.
"""

import json
import math
import re
from typing import Any, NamedTuple

from server.core.events import MAX_NESTING

MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1

MAX_PATH_CHARS = 1_000
"""A path is for people to read; a key may be as long as the body."""

PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Flaw(NamedTuple):
    """A value that cannot be stored: the `path` to it and what is wrong with it."""

    path: str
    message: str


def member(path: str, key: str) -> str:
    """The path of `key` in the object at `path`: `data.price`, or `data["a.b"]` where the key would be misread."""
    joined = f"{path}.{key}" if PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key)}]"
    return joined if len(joined) <= MAX_PATH_CHARS else joined[: MAX_PATH_CHARS - 1] + "…"


def find_flaw(value: Any, path: str, level: int = 1) -> Flaw | None:
    """The first part of the JSON value `value` that MongoDB cannot hold exactly, or None where all of it can be.

    `value` may hold what a lax JSON parser lets through: infinities, lone surrogates, integers of any size.
    """
    match value:
        case dict() | list() if level > MAX_NESTING:
            return Flaw(path, f"Nested deeper than {MAX_NESTING} levels")
        case dict():
            return next(filter(None, (_flaw_of_member(path, key, value[key], level) for key in value)), None)
        case list():
            flaws = (find_flaw(item, f"{path}[{index}]", level + 1) for index, item in enumerate(value))
            return next(filter(None, flaws), None)
        case str():
            return None if is_text(value) else Flaw(path, "Holds half of a surrogate pair, which is not a character")
        case int() if not MIN_INT64 <= value <= MAX_INT64:
            return Flaw(path, "Integer does not fit in 64 bits: send it as a string")
        case float() if math.isinf(value):
            return Flaw(path, "Number is too large for a double: send it as a string")
    return None


def nests_too_deep(value: Any) -> bool:
    """Whether the JSON value `value` has more than MAX_NESTING levels of objects and arrays."""
    level, layer = 0, [value]
    while layer := [item for item in layer if isinstance(item, dict | list)]:
        level += 1
        if level > MAX_NESTING:
            return True
        layer = [child for item in layer for child in (item.values() if isinstance(item, dict) else item)]
    return False


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8, which a lone surrogate cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _flaw_of_member(path: str, key: str, value: Any, level: int) -> Flaw | None:
    if not is_text(key):
        return Flaw(member(path, key), "Key holds half of a surrogate pair, which is not a character")
    if "\0" in key:
        return Flaw(member(path, key), "Key holds a NUL character, which MongoDB cannot store")
    return find_flaw(value, member(path, key), level + 1)
