"""Checks and parses JSON, and says what is wrong with it.

The strict parser, msgspec's, is fast, and it can check a text without making values. The lenient one, Python's, parses
what no event may hold too, such as an integer of 30 digits, so that the error can name its path.
"""

import json
import re
from typing import Any

import msgspec

from server.core.errors import MalformedJson
from server.core.events.values import MAX_INT64

MAX_INT_CHARS = 20
"""Digits and sign of the longest 64-bit integer. A longer one is rejected without parsing it."""

TOO_DEEP = "JSON is nested too deeply to parse"

EMPTY = "JSON is malformed: it is empty"

NO_NUMBER = re.compile(rb"NaN|-?Infinity")
"""What some JSON libraries write for a double that is no number."""

NO_JSON = {
    b"\xef\xbb\xbf": "a byte order mark may only be at the start of a body",
    b"\x1e": "a record separator (0x1E, as in RFC 7464) is not JSON",
}
"""What some tools write before JSON, and what a client is told about it."""

PLACE = re.compile(r" \(byte (\d+)\)$")
"""Where the strict parser's messages say where the error is."""

SURROGATES = [(rb"\ud", b"\\n\xff"), (rb"\uD", b"\\n\xfe")]
"""How the escape of a surrogate begins, and what hides it from the strict parser, which rejects half of a pair: that is
JSON, though no event may hold it. It is hidden by an escape and a byte that UTF-8 does not have. They have the same
length, so places stay right; and they do no harm where a backslash comes before, which makes `ud` plain text."""

WRONG_SURROGATE = re.compile(rb"\\u[dD](?![0-9a-fA-F]{3})")
"""The escape of a surrogate with characters that are no digits. Hidden, it would pass."""

parse_strictly = msgspec.json.Decoder(msgspec.Raw).decode


def hide_surrogates(text: bytes) -> bytes:
    """JSON with its surrogates hidden."""
    for escape, hidden in SURROGATES:
        text = text.replace(escape, hidden)
    return text


def show_surrogates(text: bytes) -> bytes:
    """JSON, or a part of it, with what was hidden as it was."""
    for escape, hidden in SURROGATES:
        text = text.replace(hidden, escape)
    return text


def check_json(text: bytes) -> bytes:
    """The text with its surrogates hidden. Raises MalformedJson if it is not JSON.

    That takes some 5 ms a megabyte. It makes no values.
    """
    hidden = hide_surrogates(text)
    try:
        text.decode("utf-8")
        parse_strictly(hidden)
    except UnicodeDecodeError as error:
        raise MalformedJson(f"JSON is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise MalformedJson(TOO_DEEP) from None
    except msgspec.DecodeError as error:
        raise described(str(error), text) from None
    if hidden is not text:
        escapes = text.replace(rb"\\", b"//")  # so that every backslash begins an escape
        if wrong := WRONG_SURROGATE.search(escapes):
            raise MalformedJson(f"JSON is malformed: invalid character in unicode escape (byte {wrong.start()})")
    return hidden


def described(message: str, text: bytes) -> MalformedJson:
    """The error for a message of the strict parser about `text`."""
    place = PLACE.search(message)
    if place is None:  # the message is that the text ends too early
        return MalformedJson(f"JSON is malformed: it ends too early (byte {len(text)})" if text else EMPTY)
    at = int(place[1])
    if named := NO_NUMBER.match(text, at - (text[at - 1 : at] == b"-")):
        return MalformedJson(f"JSON is malformed: {named[0].decode()} is not a JSON value (byte {named.start()})")
    for text_there, hint in NO_JSON.items():
        if text.startswith(text_there, at):
            return MalformedJson(f"JSON is malformed: {hint} (byte {at})")
    return MalformedJson(message)


def parse_json(text: bytes) -> Any:
    """The JSON value of `text`, also one that no event may hold. Raises MalformedJson."""
    check_json(text)
    return parse_leniently(text)


def parse_leniently(text: bytes) -> Any:
    """The JSON value of a text that was checked. Raises MalformedJson if it is nested too deeply for this parser."""
    try:
        return LENIENT.decode(text.decode("utf-8"))
    except RecursionError:
        raise MalformedJson(TOO_DEEP) from None


def parse_int(digits: str) -> int:
    """The integer; or, if it is too long to be stored, another one that cannot be stored."""
    return int(digits) if len(digits) <= MAX_INT_CHARS else MAX_INT64 + 1


LENIENT = json.JSONDecoder(parse_int=parse_int)
