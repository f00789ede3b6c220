"""Splits a serialized message into its events, without parsing them: parsed, they may take 30 times the memory.

The library parses a message as a whole only. The format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import NamedTuple

from sluice.v1 import event_service_pb2 as pb

from server.core.events.model import MAX_BATCH_EVENTS

EVENTS = pb.EventBatch.EVENTS_FIELD_NUMBER
DATA = pb.Event.DATA_FIELD_NUMBER

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
"""Types of fields on the wire. Others have not been in use since 2008."""

MAX_VARINT_BYTES = 10

MAX_FIELDS = 2 * MAX_BATCH_EVENTS
"""Fields of one message: as many events as are allowed, and far more others than any client sends."""


class MalformedMessage(Exception):
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

    Raises MalformedMessage.
    """
    rest, events = list[bytes](), list[bytes]()
    for outer in fields(message, 0, len(message)):
        if (outer.number, outer.kind) != (batch_number, BYTES):
            continue
        for field in fields(message, outer.content, outer.end):
            if (field.number, field.kind) == (EVENTS, BYTES):
                events.append(message[field.content : field.end])
                if len(events) > MAX_BATCH_EVENTS:
                    return SplitBatch(b"".join(rest), events)
            else:
                rest.append(message[field.start : field.end])
    return SplitBatch(b"".join(rest), events)


def struct_size(event: bytes) -> int:
    """How many bytes of a serialized event are its Struct. Raises MalformedMessage."""
    found = fields(event, 0, len(event))
    return sum(field.end - field.content for field in found if (field.number, field.kind) == (DATA, BYTES))


def fields(message: bytes, at: int, end: int) -> Iterator[Field]:
    """The fields of the message between `at` and `end`. Raises MalformedMessage, also if too many are no events."""
    for _ in range(MAX_FIELDS):
        if at == end:
            return
        start = at
        tag, at = varint(message, at, end)
        number, kind = tag >> 3, tag & 7
        content = at
        if kind == VARINT:
            _, at = varint(message, at, end)
        elif kind == BYTES:
            size, content = varint(message, at, end)
            at = content + size
        elif kind in (FIXED_32, FIXED_64):
            at += 4 if kind == FIXED_32 else 8
        else:
            raise MalformedMessage
        if at > end or number == 0:
            raise MalformedMessage
        yield Field(number, kind, start, content, at)
    raise MalformedMessage


def varint(message: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at `at`, which uses 7 bits of each byte, and where it ends. Raises MalformedMessage."""
    number = 0
    for shift in range(0, 7 * MAX_VARINT_BYTES, 7):
        if at >= end:
            raise MalformedMessage
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise MalformedMessage
