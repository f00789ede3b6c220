"""Decodes the bytes of a request into a batch.

The fast path decodes the whole batch in one call. It stops at the first thing that is wrong. Only then does the slow
path parse the body again, leniently, and look at each event on its own, so that it names every bad one. The slow path
decides: if it finds nothing wrong, the batch is good.
"""

import json
import re
from typing import Any, NoReturn

import msgspec

from server.core.errors import EventError, InvalidBatch, MalformedJson
from server.core.events.model import MAX_BATCH_EVENTS, Batch, DecodedBatch, Event, Name, SourceId
from server.core.events.values import MAX_INT64, find_flaw, is_text, join_path
from server.core.times import parse_time

MAX_INT_CHARS = 20
"""Digits and sign of the longest 64-bit integer. A longer one is rejected without parsing it."""

HALF_A_CHARACTER = "Holds half of a surrogate pair, which is not a character"

MSGSPEC_ERROR = re.compile(r"(?P<message>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
TYPES = re.compile(r"`[^`]*`")
"""msgspec's names of types in a message."""

JSON_WORDS = {"str": "string", "int": "number", "float": "number", "bool": "boolean"}
"""What JSON calls these types of Python. Others have the same name."""

WANTED = {".timestamp": ": an ISO 8601 date or date-time as text, such as 2026-03-01T12:00:00Z"}
"""What a field of an event should hold, if its type does not say it."""

NAMED_FIELD = re.compile(r"(?P<message>Object (?:missing required|contains unknown) field) `(?P<field>.*)`", re.DOTALL)


decode_fast = msgspec.json.Decoder(Batch).decode


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """A batch whose events have not been looked at."""

    source: Name
    events: list[Any]
    source_id: SourceId | None = None


def decode_batch(body: bytes) -> DecodedBatch | None:
    """Decode a batch fast. Returns None if `decode_slowly` must do it.

    That may take a second, so it must not run on the event loop.
    """
    try:
        batch = decode_fast(body)
        texts = [event.timestamp for event in batch.events]
        times = [None if text is None else parse_time(text) for text in texts]
    except (msgspec.DecodeError, ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        return None
    return DecodedBatch(batch.source, batch.source_id, batch.events, times, range(len(batch.events)), [])


def decode_slowly(body: bytes) -> DecodedBatch:
    """Decode a batch event by event. Raises MalformedJson, and InvalidBatch for errors of the batch as a whole.

    Errors of single events are not raised. They are in the result's `errors`.
    """
    return decode_value(parse_leniently(body))


def decode_value(value: Any) -> DecodedBatch:
    """Decode a batch from its JSON value, in which an event may already be an EventError. Raises InvalidBatch."""
    try:
        envelope = msgspec.convert(value, Envelope)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        path, message = explain(error, "")
        raise InvalidBatch(f"{path}: {message}" if path else message, field=path) from None
    if not is_text(envelope.source) or not is_text(envelope.source_id or ""):
        raise InvalidBatch("source, source_id: half of a surrogate pair is not a character", field="source")
    if not 1 <= len(envelope.events) <= MAX_BATCH_EVENTS:
        raise InvalidBatch(f"events: {len(envelope.events)} given, 1 to {MAX_BATCH_EVENTS} allowed", field="events")
    events, times, indexes, errors = list[Event](), list[int | None](), list[int](), list[EventError]()
    for index, item in enumerate(envelope.events):
        decoded = decode_event(item, index)
        if isinstance(decoded, EventError):
            errors.append(decoded)
        else:
            event, time = decoded
            events.append(event)
            times.append(time)
            indexes.append(index)
    return DecodedBatch(envelope.source, envelope.source_id, events, times, indexes, errors)


def decode_event(value: Any, index: int) -> tuple[Event, int | None] | EventError:
    """The event that the JSON value is, and its time, or what is wrong with it."""
    if isinstance(value, EventError):
        return value
    text = value.get("timestamp") if isinstance(value, dict) else None
    time = decode_time(text, index) if isinstance(text, str) else None
    if isinstance(time, EventError):  # before other errors, because gRPC messages are checked in this order
        return time
    try:
        event = msgspec.convert(value, Event)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        return EventError(index, *explain(error, f"events[{index}]"))
    return find_event_error(event, index) or (event, time)


def decode_time(text: str, index: int) -> int | EventError:
    """The time that an event's timestamp names, or what is wrong with it."""
    if not is_text(text):  # any character may stand between a date and a time
        return EventError(index, f"events[{index}].timestamp", HALF_A_CHARACTER)
    try:
        return parse_time(text)
    except ValueError as error:
        return EventError(index, f"events[{index}].timestamp", str(error))


def find_event_error(event: Event, index: int) -> EventError | None:
    """What in the well-formed `event` cannot be stored, or None."""
    for field in ("type", "data", "metadata"):
        if flaw := find_flaw(getattr(event, field), f"events[{index}].{field}"):
            return EventError(index, flaw.path, flaw.message)
    return None


def parse_leniently(text: bytes) -> Any:
    """The JSON value of `text`, also if no event may hold it. Raises MalformedJson if `text` is not JSON."""
    try:
        return json.loads(text.decode("utf-8"), parse_int=parse_int, parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise MalformedJson(f"JSON is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise MalformedJson("JSON is nested too deeply to parse") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(strict_reason(text) or f"JSON is malformed: {error}") from None


def strict_reason(text: bytes) -> str | None:
    """The strict parser's message about `text`. It counts in bytes, as clients do. None if it names no byte."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return str(error) if "(byte " in str(error) else None
    return None


def parse_int(digits: str) -> int:
    """The integer; or, if it is too long to be stored, another one that cannot be stored."""
    return int(digits) if len(digits) <= MAX_INT_CHARS else MAX_INT64 + 1


def refuse_constant(name: str) -> NoReturn:
    """Reject NaN and Infinity, which Python's parser reads and JSON does not have."""
    raise MalformedJson(f"JSON is malformed: {name} is not a JSON value")


def explain(error: msgspec.ValidationError | UnicodeEncodeError, base: str) -> tuple[str, str]:
    """The path, below `base`, and the message of a msgspec error."""
    if isinstance(error, UnicodeEncodeError):  # the name of a field holds half a surrogate pair
        return join_path(base, error.object).removeprefix("."), "Object contains unknown field"
    if named := NAMED_FIELD.fullmatch(str(error)):  # first, because a field's name may look like the next pattern
        return join_path(base, named["field"]).removeprefix("."), named["message"]
    parts = MSGSPEC_ERROR.fullmatch(str(error))
    assert parts is not None, "the pattern matches any text"  # noqa: S101
    path = parts["path"] or ""
    return (base + path).removeprefix("."), TYPES.sub(in_json_words, parts["message"]) + WANTED.get(path, "")


def in_json_words(types: re.Match[str]) -> str:
    """A match of TYPES in JSON's words: `str | null` becomes `string | null`."""
    return "`" + " | ".join(JSON_WORDS.get(word, word) for word in types[0].strip("`").split(" | ")) + "`"
