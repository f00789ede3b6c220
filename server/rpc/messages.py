"""Parses the messages of requests, and makes those of responses."""

from typing import Any, NamedTuple, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.message import DecodeError, Message
from msgspec import Raw
from sluice.v1 import event_service_pb2 as pb

from server.core.errors import InvalidBatch
from server.core.events.model import MAX_LISTED_ERRORS, Receipt, StoredEvent, text_of
from server.core.times import MS_PER_S, NS_PER_MS

M = TypeVar("M", bound=Message)


def _make_envelope() -> type[Message]:
    """StreamEventsRequest with bytes for its batch and its text. Its pool is its own: reflection does not show it."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="envelope.proto", package="sluice.v1", syntax="proto3")
    message = file.message_type.add(name="StreamEventsRequest")
    message.field.add(name="sequence", number=1, type=field.TYPE_UINT64, label=field.LABEL_OPTIONAL)
    message.field.add(name="batch", number=2, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    message.field.add(name="traceparent", number=3, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sluice.v1.StreamEventsRequest"))


Envelope: Any = _make_envelope()


class EnvelopeFields(NamedTuple):
    """The fields of a StreamEventsRequest but its batch."""

    sequence: int
    traceparent: str


def parse_message(kind: type[M], serialized: bytes, name: str | None = None) -> M:
    """The message of a `kind`. Raises InvalidBatch for bytes that are no such message.

    `name` is what the client calls the kind, if that is not its own name.
    """
    try:
        return kind.FromString(serialized)
    except DecodeError:
        raise InvalidBatch(f"The message is not a {name or kind.DESCRIPTOR.full_name}") from None


def envelope_of(message: bytes) -> EnvelopeFields | None:
    """The fields of a StreamEventsRequest, whatever its batch is; None if it cannot be parsed."""
    try:
        envelope = parse_message(Envelope, message)
    except InvalidBatch:
        return None
    return EnvelopeFields(envelope.sequence, envelope.traceparent.decode("latin-1"))


def receipt_message(receipt: Receipt) -> pb.Receipt:
    """The receipt as a message."""
    info = receipt.info
    seconds, milliseconds = divmod(info.received_at_ms, MS_PER_S)
    return pb.Receipt(
        events_received=len(receipt.ids),
        tenant_id=str(info.tenant_id),
        source=info.source,
        received_at=timestamp_pb2.Timestamp(seconds=seconds, nanos=milliseconds * NS_PER_MS),
        event_ids=receipt.ids,
        replayed=receipt.replayed,
        rejections=[
            pb.Rejection(index=error.index, path=error.path, message=error.message)
            for error in receipt.rejected[:MAX_LISTED_ERRORS]
        ],
    )


def event_message(event: StoredEvent) -> pb.StoredEvent:
    """A stored event as a message. What is not of its field's type is left out, or is JSON in a field of text."""
    metadata = bytes(event.metadata)
    return pb.StoredEvent(
        id=plain_text(event.id),
        tenant_id=plain_text(event.tenant_id),
        source=plain_text(event.source),
        source_id=plain_text(event.source_id),
        event_type=plain_text(event.event_type),
        data_json=bytes(event.data),
        timestamp=None if isinstance(event.timestamp, Raw) else event.timestamp,
        received_at=None if isinstance(event.received_at, Raw) else event.received_at,
        metadata_json=b"" if metadata == b"null" else metadata,
    )


def plain_text(value: Any) -> str | None:
    """A value as text; None for null."""
    shown = text_of(value)
    if isinstance(shown, Raw):
        json = bytes(shown).decode()
        return None if json == "null" else json
    return str(shown)
