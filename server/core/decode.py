"""From the bytes of a request to a `Candidate` batch. Imports the structs, times, values, the errors and msgspec.

The fast path decodes the whole batch in one call. It stops at the first thing it does not like; only then does the
slow path read the body again, leniently, and look at each event on its own, so that every bad one is named. What the
slow path finds is the truth: a body it has no complaint about is good.
"""

import json
import re
from typing import Any, NoReturn

import msgspec

from server.core.errors import InvalidBatch, MalformedJson, Problem
from server.core.events import MAX_EVENTS, Batch, Candidate, Event, Name, SourceId
from server.core.times import parse_time
from server.core.values import MAX_INT64, find_flaw, is_text, member

MAX_INT_CHARS = 20
"""Digits and sign of the longest 64-bit integer: longer ones are not worth parsing to be refused."""

MSGSPEC_ERROR = re.compile(r"(?P<message>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
NAMED_FIELD = re.compile(r"(?P<message>Object (?:missing required|contains unknown) field) `(?P<field>.*)`", re.DOTALL)


decode_fast = msgspec.json.Decoder(Batch).decode


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """A batch whose events have not been looked at."""

    source: Name
    events: list[Any]
    source_id: SourceId | None = None


def decode_batch(body: bytes) -> Candidate | None:
    """Read a batch from JSON, fast; None where `decode_slowly` must, which may take a second: not on the loop."""
    try:
        batch = decode_fast(body)
        texts = [event.timestamp for event in batch.events]
        times = [None if text is None else parse_time(text) for text in texts]
    except (msgspec.DecodeError, ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        return None
    return Candidate(batch.source, batch.source_id, batch.events, times, range(len(batch.events)), [])


def decode_slowly(body: bytes) -> Candidate:
    """Read a batch from JSON, event by event. Raises MalformedJson, and InvalidBatch for the batch as a whole.

    What is wrong with single events is not raised: it is in the result's `problems`.
    """
    return decode_value(parse_leniently(body))


def decode_value(value: Any) -> Candidate:
    """Read a batch from its JSON value; an event may be the Problem with it. Raises as `decode_slowly` does."""
    try:
        envelope = msgspec.convert(value, Envelope)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        path, message = explain(error, "")
        raise InvalidBatch(f"{path}: {message}" if path else message) from None
    if not is_text(envelope.source) or not is_text(envelope.source_id or ""):
        raise InvalidBatch("source, source_id: half of a surrogate pair is not a character")
    if not 1 <= len(envelope.events) <= MAX_EVENTS:
        raise InvalidBatch(f"events: {len(envelope.events)} given, 1 to {MAX_EVENTS} allowed")
    events, times, indexes, problems = list[Event](), list[int | None](), list[int](), list[Problem]()
    for index, item in enumerate(envelope.events):
        decoded = decode_event(item, index)
        if isinstance(decoded, Problem):
            problems.append(decoded)
        else:
            event, time = decoded
            events.append(event)
            times.append(time)
            indexes.append(index)
    return Candidate(envelope.source, envelope.source_id, events, times, indexes, problems)


def decode_event(value: Any, index: int) -> tuple[Event, int | None] | Problem:
    """The event that the JSON value is, and its time, or what is wrong with it."""
    if isinstance(value, Problem):
        return value
    text = value.get("timestamp") if isinstance(value, dict) else None
    time = decode_time(text, index) if isinstance(text, str) else None
    if isinstance(time, Problem):  # before what else is wrong, as in a message, which has no order of its own
        return time
    try:
        event = msgspec.convert(value, Event)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        return Problem(index, *explain(error, f"events[{index}]"))
    return find_problem(event, index) or (event, time)


def decode_time(text: str, index: int) -> int | Problem:
    """The time that an event's timestamp names, or what is wrong with it."""
    if not is_text(text):  # any character may stand between a date and a time
        return Problem(index, f"events[{index}].timestamp", "Holds half of a surrogate pair, which is not a character")
    try:
        return parse_time(text)
    except ValueError as error:
        return Problem(index, f"events[{index}].timestamp", str(error))


def find_problem(event: Event, index: int) -> Problem | None:
    """What in the well-formed `event` cannot be stored, or None."""
    for field in ("type", "data", "metadata"):
        if flaw := find_flaw(getattr(event, field), f"events[{index}].{field}"):
            return Problem(index, flaw.path, flaw.message)
    return None


def parse_leniently(text: bytes) -> Any:
    """The JSON value of `text`, values included that no event may hold. Raises MalformedJson where it is not JSON."""
    try:
        return json.loads(text.decode("utf-8"), parse_int=parse_int, parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise MalformedJson(f"JSON is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise MalformedJson("JSON is nested too deeply to parse") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(strict_reason(text) or f"JSON is malformed: {error}") from None


def strict_reason(text: bytes) -> str | None:
    """What the strict parser has against `text`: it counts in bytes, as senders do. None where it names no byte."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return str(error) if "(byte " in str(error) else None
    return None


def parse_int(digits: str) -> int:
    """The integer, or one just as unstorable where it is too long to bother."""
    return int(digits) if len(digits) <= MAX_INT_CHARS else MAX_INT64 + 1


def refuse_constant(name: str) -> NoReturn:
    """Python's parser reads NaN and Infinity; JSON has no such thing."""
    raise MalformedJson(f"JSON is malformed: {name} is not a JSON value")


def explain(error: msgspec.ValidationError | UnicodeEncodeError, base: str) -> tuple[str, str]:
    """The path, below `base`, and the message of a msgspec error."""
    if isinstance(error, UnicodeEncodeError):  # a field's name that is not text, so that msgspec cannot look it up
        return member(base, error.object).removeprefix("."), "Object contains unknown field"
    if named := NAMED_FIELD.fullmatch(str(error)):  # first: a name may hold anything, even what follows here
        return member(base, named["field"]).removeprefix("."), named["message"]
    parts = MSGSPEC_ERROR.fullmatch(str(error))
    assert parts is not None, "the pattern matches any text"  # noqa: S101
    return (base + (parts["path"] or "")).removeprefix("."), parts["message"]
