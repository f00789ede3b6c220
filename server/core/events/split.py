"""Parses the JSON of a batch event by event, so that the values of only one are in memory.

As Python values JSON may take 30 times its size. The language is that of Python's parser, which is lenient.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from server.core.slow_work import Steps

SPACE = re.compile(r"[ \t\n\r]*")

EVENTS = "events"

EXPECTED = {
    '"': "Expecting property name enclosed in double quotes",
    ":": "Expecting ':' delimiter",
    ",": "Expecting ',' delimiter",
}
"""What Python's parser says where a character is missing."""


def parse_batch(text: str, decoder: json.JSONDecoder, add: Callable[[int, Any], None]) -> Steps[Any]:
    """The JSON value of `text`, with None for each event. `add` is called with the index and the value of each.

    If `text` names `events` twice, the second list begins with index 0 again.

    Raises JSONDecodeError and RecursionError.
    """
    at = after_space(text, 0)
    if text[at : at + 1] == "{":
        value, at = yield from parse_object(text, at, decoder, add)
    else:
        value, at = decoder.raw_decode(text, at)
    at = after_space(text, at)
    if at < len(text):
        raise json.JSONDecodeError("Extra data", text, at)
    return value


def parse_object(
    text: str, at: int, decoder: json.JSONDecoder, add: Callable[[int, Any], None]
) -> Steps[tuple[dict[str, Any], int]]:
    """The object at `at`, and where it ends. See `parse_batch`."""
    value: dict[str, Any] = {}
    at = after_space(text, at + 1)
    if text[at : at + 1] == "}":
        return value, at + 1
    while True:
        expect(text, at, '"')
        key, at = decoder.raw_decode(text, at)
        at = after_space(text, at)
        at = after_space(text, expect(text, at, ":"))
        if key == EVENTS and text[at : at + 1] == "[":
            value[key], at = yield from parse_events(text, at, decoder, add)
        else:
            value[key], at = decoder.raw_decode(text, at)
        yield
        at = after_space(text, at)
        if text[at : at + 1] == "}":
            return value, at + 1
        at = after_space(text, expect(text, at, ","))


def parse_events(
    text: str, at: int, decoder: json.JSONDecoder, add: Callable[[int, Any], None]
) -> Steps[tuple[list[None], int]]:
    """A None for each event of the list at `at`, and where the list ends. See `parse_batch`."""
    count = 0
    at = after_space(text, at + 1)
    if text[at : at + 1] == "]":
        return [], at + 1
    while True:
        event, at = decoder.raw_decode(text, at)
        add(count, event)
        count += 1
        del event  # before the next one is parsed
        yield
        at = after_space(text, at)
        if text[at : at + 1] == "]":
            return [None] * count, at + 1
        at = after_space(text, expect(text, at, ","))


def after_space(text: str, at: int) -> int:
    """Where the white space at `at` ends."""
    found = SPACE.match(text, at)
    return found.end() if found else at


def expect(text: str, at: int, character: str) -> int:
    """Where `character` ends, which must be at `at`. Raises JSONDecodeError."""
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(EXPECTED[character], text, at)
    return at + 1
