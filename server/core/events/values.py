"""Finds the JSON value in an event that cannot be stored, and its path.

This walk is slow and careful. It runs only for events that failed the fast path.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from server.core.events.model import MAX_NESTING

MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1

MAX_PATH_CHARS = 1_000
"""The length of a path in an error. People read it, and a key may be as long as the body."""

PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Flaw(NamedTuple):
    """A value that cannot be stored: the `path` to it and what is wrong with it."""

    path: str
    message: str


def join_path(path: str, key: str) -> str:
    """The path of `key` in the object at `path`: `data.price`, or `data["a.b"]` if the key has special characters."""
    return truncate_path(f"{path}.{key}" if PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key)}]")


def truncate_path(path: str) -> str:
    """The path, or its beginning if it is too long. A truncated path stays the same if more is joined to it."""
    return path if len(path) <= MAX_PATH_CHARS else path[: MAX_PATH_CHARS - 1] + "…"


def find_flaw(value: Any, path: str) -> Flaw | None:
    """The first part of the JSON value `value` that MongoDB cannot hold exactly, or None if it can hold all of it.

    `value` may hold what a lenient JSON parser accepts: infinities, lone surrogates, integers of any size.
    """
    found = _find(value, 1)
    if found is None:
        return None
    for key in reversed(found.keys):
        path = join_path(path, key) if isinstance(key, str) else truncate_path(f"{path}[{key}]")
    return Flaw(path, found.message)


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


class _Found(NamedTuple):
    """A flaw, and the keys and indexes that lead to it, the innermost first.

    A walk may pass millions of values, so only the path to the flaw is put together.
    """

    keys: list[str | int]
    message: str


def _find(value: Any, level: int) -> _Found | None:
    kind = type(value)
    if kind is dict or kind is list:
        return _find_inside(value, level)
    if kind is int:
        fine = MIN_INT64 <= value <= MAX_INT64
        return None if fine else _Found([], "Integer does not fit in 64 bits: send it as a string")
    if kind is str:
        return None if is_text(value) else _Found([], "Holds half of a surrogate pair, which is not a character")
    if kind is float and not math.isfinite(value):
        return _Found([], "Number is too large for a double, or none: send it as a string")
    return None


def _find_inside(value: dict[str, Any] | list[Any], level: int) -> _Found | None:
    if level > MAX_NESTING:
        return _Found([], f"Nested deeper than {MAX_NESTING} levels")
    items: Iterable[tuple[str | int, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found = (_find_in_key(key) if isinstance(key, str) else None) or _find(item, level + 1)
        if found:
            found.keys.append(key)
            return found
    return None


def _find_in_key(key: str) -> _Found | None:
    if not is_text(key):
        return _Found([], "Key holds half of a surrogate pair, which is not a character")
    if "\0" in key:
        return _Found([], "Key holds a NUL character, which MongoDB cannot store")
    return None
