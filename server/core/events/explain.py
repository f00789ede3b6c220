"""Puts the errors of msgspec into the words of JSON, with the path of what is wrong."""

import re

import msgspec

from server.core.events.values import join_path

MSGSPEC_ERROR = re.compile(r"(?P<message>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
TYPES = re.compile(r"`[^`]*`")
"""msgspec's names of types in a message."""

JSON_WORDS = {"str": "string", "int": "number", "float": "number", "bool": "boolean"}
"""What JSON calls these types of Python. Others have the same name."""

WANTED = {".timestamp": ": an ISO 8601 date or date-time as text, such as 2026-03-01T12:00:00Z"}
"""What a field of an event should hold, if its type does not say it."""

NAMED_FIELD = re.compile(r"(?P<message>Object (?:missing required|contains unknown) field) `(?P<field>.*)`", re.DOTALL)


def explain(error: msgspec.ValidationError | UnicodeEncodeError, base: str) -> tuple[str, str]:
    """The path, below `base`, and the message of an error that msgspec raised."""
    if isinstance(error, UnicodeEncodeError):  # the name of a field holds half a surrogate pair
        return join_path(base, error.object).removeprefix("."), "Object contains unknown field"
    if named := NAMED_FIELD.fullmatch(str(error)):  # first, because a field's name may look like the next pattern
        return join_path(base, named["field"]).removeprefix("."), named["message"]
    parts = MSGSPEC_ERROR.fullmatch(str(error))
    assert parts is not None, "the pattern matches any text"  # noqa: S101
    path = parts["path"] or ""
    message = parts["message"]
    if message.endswith("got `float`"):  # JSON has one word for both
        message = message.replace("`int", "`integer")
    return (base + path).removeprefix("."), TYPES.sub(in_json_words, message) + WANTED.get(path, "")


def in_json_words(types: re.Match[str]) -> str:
    """A match of TYPES in JSON's words: `str | null` becomes `string | null`."""
    return "`" + " | ".join(JSON_WORDS.get(word, word) for word in types[0].strip("`").split(" | ")) + "`"
