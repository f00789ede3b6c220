"""Decodes the batch of a message.

A large message is first looked at without parsing its events: parsed, they may take 30 times the memory. Then its size
and the number of its events are known, and what its client asks for. If its events are heavy, they are parsed and
decoded one after the other, in steps.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
from google.protobuf.message import DecodeError
from msgspec import Struct
from sluice.v1 import event_service_pb2 as pb

from server.core.errors import InvalidBatch
from server.core.events.decode import MIN_HEAVY_BYTES, FoundEvents, check_name, is_heavy, too_large
from server.core.events.model import MAX_EVENT_BYTES, DecodedBatch, Name, PackedEvents, SourceId
from server.core.slow_work import Steps
from server.rpc.events import DoubtfulError, adding, decode_good_batch
from server.rpc.messages import envelope_of
from server.rpc.wire import MalformedMessageError, split_batch, struct_size

MIN_WEIGHED_BYTES = 2 * 1024 * 1024
"""The size of a message from which its Structs are weighed before it is parsed: a smaller one takes 70 MB, parsed."""

MIN_WEIGHED_EVENT_BYTES = 1_000
"""The size of an event from which its Struct is weighed then. Without this, it would cost a usual batch 5 % more."""

MAX_STRUCT_BYTES = 4 * MAX_EVENT_BYTES
"""A value in a Struct has at most 4 times the bytes that it has as BSON. So an event with a larger Struct is too large.
Example: null with an empty key has 8 bytes, and 2 as BSON."""

NO_BATCH = pb.EventBatch()


class MessageKind(NamedTuple):
    """A kind of messages with a batch."""

    message: Any
    batch_number: int
    """The number of the field `batch`."""
    malformed: str
    """What is said of bytes that are no such message."""
    malformed_field: str

    def error(self) -> InvalidBatch:
        """The error for bytes that are no such message."""
        return InvalidBatch(self.malformed, field=self.malformed_field)


UNARY = MessageKind(
    pb.IngestEventsRequest,
    pb.IngestEventsRequest.BATCH_FIELD_NUMBER,
    "The message is not a sluice.v1.IngestEventsRequest",
    "",
)
STREAMED = MessageKind(
    pb.StreamEventsRequest,
    pb.StreamEventsRequest.BATCH_FIELD_NUMBER,
    "batch: not a sluice.v1.EventBatch, or text that is not UTF-8, or nested over 100 levels",
    "batch",
)


class ReceivedBatch(Struct):
    """What is known of a batch before its events are decoded."""

    message: bytes
    kind: MessageKind
    batch: pb.EventBatch
    """Without its events if the message is large."""
    event_count: int
    """Of too many, only MAX_BATCH_EVENTS + 1 are counted."""
    sequence: int | None
    """The client's number for the batch; None for a kind of messages that has none."""
    traceparent: str = ""
    """The trace that the client says the batch belongs to."""
    is_large: bool = False
    is_heavy: bool = False
    """Whether it would take too long to decode it in one call."""


def look_at_batch(message: bytes, kind: MessageKind) -> ReceivedBatch:
    """What is known of the batch of a message. Raises InvalidBatch."""
    if len(message) < MIN_HEAVY_BYTES:
        request = parse_request(message, kind)
        batch = request.batch
        sequence, traceparent = getattr(request, "sequence", None), getattr(request, "traceparent", "")
        return ReceivedBatch(message, kind, batch, len(batch.events), sequence, traceparent)
    with malformed_as_error(kind):
        split = split_batch(message, kind.batch_number)
        rest, heavy = pb.EventBatch.FromString(split.rest), is_heavy(message) or has_heavy_structs(split.events)
        received = ReceivedBatch(message, kind, rest, len(split.events), None, is_large=True, is_heavy=heavy)
        if kind is STREAMED:
            envelope = envelope_of(message)
            if envelope is None:
                raise MalformedMessageError
            received.sequence, received.traceparent = envelope
        return received


def parse_request(message: bytes, kind: MessageKind) -> Any:
    """The request that a message is. Raises InvalidBatch."""
    try:
        return kind.message.FromString(message)
    except DecodeError:
        raise kind.error() from None


@contextmanager
def malformed_as_error(kind: MessageKind) -> Iterator[None]:
    """Raises InvalidBatch if what is parsed inside is no message of this kind."""
    try:
        yield
    except (DecodeError, MalformedMessageError):
        raise kind.error() from None


def has_heavy_structs(events: list[bytes]) -> bool:
    """Whether serialized events have Structs that are too large to be parsed together."""
    large = [event for event in events if len(event) >= MIN_WEIGHED_EVENT_BYTES]
    return sum(map(len, large)) >= MIN_WEIGHED_BYTES and struct_size(large) >= MIN_HEAVY_BYTES


def decode_fast(received: ReceivedBatch) -> DecodedBatch | None:
    """Decode a batch fast. Returns None if `decoding` must do it, which may take seconds."""
    if received.is_heavy:
        return None
    batch = parse_request(received.message, received.kind).batch if received.is_large else received.batch
    received.batch = NO_BATCH  # its memory is not needed while the batch waits
    if (
        received.is_large
        and sum(event.data.ByteSize() for event in batch.events if event.HasField("data")) >= MIN_HEAVY_BYTES
    ):
        return None
    try:
        return decode_good_batch(batch)
    except (DoubtfulError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decoding(message: bytes, kind: MessageKind) -> Steps[DecodedBatch]:
    """Decode the batch of a message event by event. Raises InvalidBatch for errors of the batch as a whole.

    Errors of single events are not raised. They are in the result's `errors`.
    """
    found = FoundEvents(PackedEvents())
    with malformed_as_error(kind):
        split = split_batch(message, kind.batch_number)
        batch = pb.EventBatch.FromString(split.rest)
        source_id = batch.source_id if batch.HasField("source_id") else None
        check_name(batch.source, Name, "source")
        check_name(source_id, SourceId | None, "source_id")
        for index, event in enumerate(split.events):
            yield
            if len(event) > MAX_STRUCT_BYTES and struct_size([event]) > MAX_STRUCT_BYTES:
                found.add(index, too_large(index))
            else:
                yield from adding(found, index, pb.Event.FromString(event), len(event))
    return found.batch(batch.source, source_id)
