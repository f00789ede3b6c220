"""Splits a serialized message into its events, without parsing them: parsed, they may take 30 times the memory.

The library parses a message as a whole only. The format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sluice.v1 import event_service_pb2 as pb

from server.core.events.model import MAX_BATCH_EVENTS
from server.rpc.budget import Budget

EVENTS = pb.EventBatch.EVENTS_FIELD_NUMBER
DATA = pb.Event.DATA_FIELD_NUMBER

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
"""Types of fields on the wire. Others have not been in use since 2008."""

MAX_NUMBER = 2**29 - 1
"""Of a field."""

MAX_VARINT_BYTES = 10
MAX_SHORT_VARINT_BYTES = 5
"""A tag or a length."""

MAX_FIELDS = 2 * MAX_BATCH_EVENTS
"""Fields of a message and its batch: the events that are allowed, and far more others than any client sends."""

MAX_EVENT_FIELDS = 20 * MAX_BATCH_EVENTS
"""Fields of all events of a message: four times what the largest batch has."""


class MalformedMessageError(Exception):
    """Bytes that are no message, or one with too many fields."""


class Field(NamedTuple):
    """Where a field of a message is."""

    number: int
    kind: int
    start: int
    """Where its tag begins."""
    content: int
    """Where its content begins: after its length, if it has one."""
    end: int


class SplitBatch(NamedTuple):
    """A batch in two parts."""

    rest: bytes
    """The batch without its events."""
    events: list[bytes]


def split_batch(message: bytes, batch_number: int) -> SplitBatch:
    """The batch in the field `batch_number` of a message. Of too many events it has the first MAX_BATCH_EVENTS + 1.

    Raises MalformedMessageError.
    """
    rest, events, budget = list[bytes](), list[bytes](), Budget(MAX_FIELDS, MalformedMessageError)
    for outer in fields(message, 0, len(message), budget):
        if (outer.number, outer.kind) != (batch_number, BYTES):
            continue
        for field in fields(message, outer.content, outer.end, budget):
            if (field.number, field.kind) == (EVENTS, BYTES):
                events.append(message[field.content : field.end])
                if len(events) > MAX_BATCH_EVENTS:
                    return SplitBatch(b"".join(rest), events)
            else:
                rest.append(message[field.start : field.end])
    return SplitBatch(b"".join(rest), events)


def struct_size(events: Iterable[bytes]) -> int:
    """How many bytes of serialized events are their Structs. Raises MalformedMessageError."""
    budget = Budget(MAX_EVENT_FIELDS, MalformedMessageError)
    found = (field for event in events for field in fields(event, 0, len(event), budget))
    return sum(field.end - field.content for field in found if (field.number, field.kind) == (DATA, BYTES))


def fields(message: bytes, at: int, end: int, budget: Budget) -> Iterator[Field]:
    """The fields of the message between `at` and `end`. Raises MalformedMessageError, also if the budget is spent."""
    while at < end:
        budget.spend()
        start = at
        tag, at = varint(message, at, end, MAX_SHORT_VARINT_BYTES)
        number, kind = tag >> 3, tag & 7
        content = at
        if kind == VARINT:
            _, at = varint(message, at, end, MAX_VARINT_BYTES)
        elif kind == BYTES:
            size, content = varint(message, at, end, MAX_SHORT_VARINT_BYTES)
            at = content + size
        elif kind in (FIXED_32, FIXED_64):
            at += 4 if kind == FIXED_32 else 8
        else:
            raise MalformedMessageError
        if at > end or not 0 < number <= MAX_NUMBER:
            raise MalformedMessageError
        yield Field(number, kind, start, content, at)


def varint(message: bytes, at: int, end: int, max_bytes: int) -> tuple[int, int]:
    """The number at `at`, which uses 7 bits of each byte, and where it ends. Raises MalformedMessageError."""
    number = 0
    for shift in range(0, 7 * max_bytes, 7):
        if at >= end:
            raise MalformedMessageError
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise MalformedMessageError
