"""Decodes the bytes of a request into a batch.

The fast path decodes the whole batch in one call. It stops at the first thing that is wrong. Only then does the slow
path split the body into its events and look at each on its own, so that it names every bad one. The slow path decides:
if it finds nothing wrong, the batch is good. It is work for `slow_work.py`, and has the values of one event at a time.
A batch with very many values takes the slow path too.
"""

from random import random
from typing import Any

import msgspec

from server.core.errors import EventError, InvalidBatch, MalformedJson
from server.core.events.explain import explain
from server.core.events.json_text import TOO_DEEP, check_json, parse_leniently, show_surrogates
from server.core.events.model import (
    MAX_BATCH_EVENTS,
    MAX_EVENT_BYTES,
    Batch,
    DecodedBatch,
    Event,
    EventList,
    Name,
    PackedEvents,
    SourceId,
    encode_event,
)
from server.core.events.model import decode_event as decode_good_event
from server.core.events.split import BatchParts, having_more_values, split_batch
from server.core.events.values import find_flaw, is_text
from server.core.slow_work import Steps, run_at_once
from server.core.times import parse_time

HALF_A_CHARACTER = "Holds half of a surrogate pair, which is not a character"

decode_fast = msgspec.json.Decoder(Batch).decode


MAX_EVENT_VALUES = MAX_EVENT_BYTES // 3
"""A value has at least 3 bytes as BSON: null in a list of few. So an event with more values is too large."""

TOO_MANY = f"events: over {MAX_BATCH_EVENTS} given, 1 to {MAX_BATCH_EVENTS} allowed"

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

SAME_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)

LONG_INT = b"0" * 19
"""Digits of an integer that may not fit in 64 bits, as SAME_DIGITS makes them."""


def is_doubtful(text: bytes) -> bool:
    """Whether JSON may have a key or an integer that cannot be stored. What else cannot be shows as it is encoded."""
    return rb"\u0000" in text or LONG_INT in text.translate(SAME_DIGITS)


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
    hidden = check_json(body)
    yield
    parts = batch_parts(hidden)
    del hidden  # the parts hold it as long as it is needed
    source = decode_name(parts.source, Name, "source")
    source_id = decode_name(parts.source_id, SourceId | None, "source_id")
    if len(parts.events) > MAX_BATCH_EVENTS:
        raise InvalidBatch(TOO_MANY, field="events")
    found = FoundEvents(PackedEvents())
    for index, event in enumerate(parts.events):
        yield
        yield from found.adding(index, show_surrogates(bytes(event)))
    return found.batch(source, source_id)


class FoundEvents:
    """The events of a batch, which are decoded one after the other."""

    def __init__(self, events: PackedEvents | EventList) -> None:
        self._events, self._times = events, list[int | None]()
        self._indexes, self._errors = list[int](), list[EventError]()

    def adding(self, index: int, text: bytes) -> Steps[None]:
        """Decode the event at `index` from text that `check_json` found to be JSON. Raises MalformedJson."""
        if (yield from having_more_values(text, MAX_EVENT_VALUES, has_equal_keys=True)):
            self.add(index, too_large(index))
            return
        event, time = decode_good(text)
        short = text
        if event is not None and len(text) > MAX_EVENT_VALUES:
            short = encode_shortly(event)
            if (yield from having_more_values(short, MAX_EVENT_VALUES, has_equal_keys=False)):
                self.add(index, too_large(index))
                return
        if event is None or is_doubtful(text):
            event = None  # its memory is needed
            self.add(index, parse_leniently(text))
        else:
            self._events.append_json(short)
            self._times.append(time)
            self._indexes.append(index)

    def add(self, index: int, value: Any) -> None:
        """Decode the event at `index`, from its JSON value or from an EventError."""
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

    def batch(self, source: str, source_id: str | None) -> DecodedBatch:
        """The batch of the events that were added. Raises InvalidBatch if they are none."""
        if not self._indexes and not self._errors:
            raise InvalidBatch(f"events: 0 given, 1 to {MAX_BATCH_EVENTS} allowed", field="events")
        return DecodedBatch(source, source_id, self._events, self._times, self._indexes, self._errors)


def decode_good(text: bytes) -> tuple[Event | None, int | None]:
    """The event that the JSON `text` is, and its time; no event if anything is wrong with it."""
    try:
        event = decode_good_event(text)
        return event, None if event.timestamp is None else parse_time(event.timestamp)
    except (ValueError, RecursionError):
        return None, None


def encode_shortly(event: Event) -> bytes:
    """The event as JSON without white space and with each key once. Raises MalformedJson if it is nested too deeply."""
    try:
        return encode_event(event)
    except RecursionError:
        raise MalformedJson(TOO_DEEP) from None


def too_large(index: int) -> EventError:
    """The error for the event at `index` if it has more values than fit."""
    return EventError(index, f"events[{index}]", f"More than {MAX_EVENT_BYTES} bytes as BSON")


def batch_parts(hidden: bytes) -> BatchParts:
    """The parts of a batch, from JSON whose surrogates are hidden. Raises InvalidBatch and MalformedJson."""
    try:
        return split_batch(hidden)
    except UnicodeDecodeError:  # a name in which something was hidden
        raise InvalidBatch("Object contains unknown field") from None
    except RecursionError:
        raise MalformedJson(TOO_DEEP) from None
    except msgspec.ValidationError as error:
        raise invalid_field(error, "") from None


def decode_name(part: msgspec.Raw, kind: Any, field: str) -> Any:
    """The text that a part of a batch is. Raises InvalidBatch."""
    try:
        return msgspec.json.decode(show_surrogates(bytes(part)), type=kind)
    except msgspec.ValidationError as error:
        raise invalid_field(error, field) from None
    except msgspec.DecodeError:
        raise InvalidBatch(f"{field}: {HALF_A_CHARACTER}", field=field) from None


def check_name(text: str | None, kind: Any, field: str) -> None:
    """Raises InvalidBatch if `text` is not of this kind."""
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError as error:
        raise invalid_field(error, field) from None


def invalid_field(error: msgspec.ValidationError, field: str) -> InvalidBatch:
    """The error for a batch of which `field`, or its fields as a whole, does not decode."""
    path, message = explain(error, field)
    return InvalidBatch(f"{path}: {message}" if path else message, field=path)


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
