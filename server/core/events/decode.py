"""Decodes the bytes of a request into a batch.

The fast path decodes the whole batch in one call. It stops at the first thing that is wrong. Only then does the slow
path parse the body again, leniently, and look at each event on its own, so that it names every bad one. The slow path
decides: if it finds nothing wrong, the batch is good. It is work for `slow_work.py`, and has the values of one event at
a time. A batch with very many values takes the slow path too.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from random import random
from typing import Any, NoReturn

import msgspec

from server.core.errors import EventError, InvalidBatch, MalformedJson
from server.core.events.model import MAX_BATCH_EVENTS, Batch, DecodedBatch, Event, Name, PackedEvents, SourceId
from server.core.events.model import decode_event as decode_good_event
from server.core.events.split import parse_batch
from server.core.events.values import MAX_INT64, find_flaw, is_text, join_path
from server.core.slow_work import Steps, run_at_once
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


class RawEnvelope(msgspec.Struct, forbid_unknown_fields=True):
    """A batch whose events are JSON that has not been decoded."""

    source: Name
    events: list[msgspec.Raw]
    source_id: SourceId | None = None


decode_envelope = msgspec.json.Decoder(RawEnvelope).decode

MAX_WEIGHT = 500_000
"""Values that are decoded in one call, which takes some 50 ms: as many as 10 MiB of usual events have. The event loop
can do nothing else meanwhile."""

CONTAINER_WEIGHT = 5
"""What an object or a list counts for, in values. It takes that much more memory and time."""

MIN_HEAVY_BYTES = 512 * 1024
"""A shorter text is decoded in one call, whatever it holds: that takes 0.1 s at most."""

SAMPLES = 16
SAMPLE_BYTES = 1024
"""What a text is weighed by: to look at all of it would cost a tenth of its decoding. The places are random, so that
no client can hide what is heavy. A text that is 10 times too heavy is found out with a chance of 99 %."""

DOUBTFUL = re.compile(rb"\\u0000|[0-9]{19}")
"""JSON that may have a key or an integer that cannot be stored. What else cannot be is found when it is encoded."""


def is_heavy(text: bytes) -> bool:
    """Whether decoding JSON in one call would take too long, by samples of it."""
    if len(text) < MIN_HEAVY_BYTES:
        return False
    starts = [int(random() * (len(text) - SAMPLE_BYTES)) for _ in range(SAMPLES)]  # noqa: S311 (nothing secret)
    sample = b"".join([text[start : start + SAMPLE_BYTES] for start in starts])
    weight = sample.count(b",") + CONTAINER_WEIGHT * (sample.count(b"[") + sample.count(b"{"))
    return weight * len(text) > MAX_WEIGHT * len(sample)


def decode_batch(body: bytes) -> DecodedBatch | None:
    """Decode a batch fast. Returns None if `decoding` must do it, which may take seconds."""
    if is_heavy(body):
        return None
    try:
        batch = decode_fast(body)
        texts = [event.timestamp for event in batch.events]
        times = [None if text is None else parse_time(text) for text in texts]
    except (msgspec.DecodeError, ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        return None
    return DecodedBatch(batch.source, batch.source_id, batch.events, times, range(len(batch.events)), [])


def decode_slowly(body: bytes) -> DecodedBatch:
    """What `decoding` returns. Raises what it does."""
    return run_at_once(decoding(body))


def decoding(body: bytes) -> Steps[DecodedBatch]:
    """Decode a batch event by event. Raises MalformedJson, and InvalidBatch for errors of the batch as a whole.

    Errors of single events are not raised. They are in the result's `errors`.
    """
    found = FoundEvents()
    try:
        envelope = decode_envelope(body)
        yield
        if len(envelope.events) <= MAX_BATCH_EVENTS:
            for index, event in enumerate(envelope.events):
                found.add_json(index, bytes(event))
                yield
    except (ValueError, RecursionError, MalformedJson):
        return (yield from decoding_leniently(body))
    value = {"source": envelope.source, "events": envelope.events, "source_id": envelope.source_id}
    return found.batch(value)


def decoding_leniently(body: bytes) -> Steps[DecodedBatch]:
    """The same for any body. It takes several times as long."""
    found = FoundEvents()
    with malformed_json(body):
        value = yield from parse_batch(body.decode("utf-8"), LENIENT, found.add)
    return found.batch(value)


class FoundEvents:
    """The events of a batch, which are decoded one after the other."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._events, self._times = PackedEvents(), list[int | None]()
        self._indexes, self._errors = list[int](), list[EventError]()

    def add(self, index: int, value: Any) -> None:
        """Decode the event at `index`, from its JSON value or from an EventError. The first one has the index 0."""
        if index == 0:
            self._start()
        if index >= MAX_BATCH_EVENTS:  # the batch is rejected as a whole
            return
        decoded = decode_event(value, index)
        if isinstance(decoded, EventError):
            self._errors.append(decoded)
        else:
            self.add_good(index, *decoded)

    def add_good(self, index: int, event: Event, time: int | None) -> None:
        """Add the event at `index`, which is well-formed, and its time."""
        self._events.append(event)
        self._times.append(time)
        self._indexes.append(index)

    def add_json(self, index: int, text: bytes) -> None:
        """Decode the event at `index` from JSON. Raises MalformedJson if `text` is not JSON."""
        try:
            event = decode_good_event(text)
            time = None if event.timestamp is None else parse_time(event.timestamp)
        except (ValueError, RecursionError):
            event, time = None, None
        if event is None or DOUBTFUL.search(text):
            self.add(index, parse_leniently(text))
            return
        self._events.append_json(text)
        self._times.append(time)
        self._indexes.append(index)

    def batch(self, value: Any) -> DecodedBatch:
        """The batch with the events that were added. `value` is its JSON value with any value for each event.

        Raises InvalidBatch.
        """
        try:
            envelope = msgspec.convert(value, Envelope)
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            path, message = explain(error, "")
            raise InvalidBatch(f"{path}: {message}" if path else message, field=path) from None
        if not is_text(envelope.source) or not is_text(envelope.source_id or ""):
            raise InvalidBatch("source, source_id: half of a surrogate pair is not a character", field="source")
        if not 1 <= len(envelope.events) <= MAX_BATCH_EVENTS:
            raise InvalidBatch(f"events: {len(envelope.events)} given, 1 to {MAX_BATCH_EVENTS} allowed", field="events")
        return DecodedBatch(envelope.source, envelope.source_id, self._events, self._times, self._indexes, self._errors)


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
    with malformed_json(text):
        return LENIENT.decode(text.decode("utf-8"))


@contextmanager
def malformed_json(text: bytes) -> Iterator[None]:
    """Raises MalformedJson if Python's parser, inside, finds that `text` is not JSON."""
    try:
        yield
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


LENIENT = json.JSONDecoder(parse_int=parse_int, parse_constant=refuse_constant)


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
