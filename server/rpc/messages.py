"""Converts messages to batches, and receipts to messages.

The fast path converts each event as it is. If it meets anything unusual, the batch is converted to its JSON form and
goes to the core's slow path, which names every error exactly as it does for REST.
"""

from typing import Any, TypeVar

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.message import DecodeError, Message
from sluice.v1 import event_service_pb2 as pb

from server.core.errors import EventError, InvalidBatch, MalformedJson, PayloadTooLarge
from server.core.events.decode import DOUBTFUL, MAX_WEIGHT, FoundEvents, is_heavy, parse_leniently
from server.core.events.model import (
    MAX_BATCH_EVENTS,
    MAX_BODY_BYTES,
    MAX_LISTED_ERRORS,
    MAX_NAME_CHARS,
    DecodedBatch,
    Event,
    Receipt,
)
from server.core.events.values import find_flaw
from server.core.slow_work import Steps, run_at_once
from server.core.times import MS_PER_S, NS_PER_MS, format_time, from_milliseconds, in_range

M = TypeVar("M", bound=Message)

NS_PER_S = 1_000_000_000


def _make_envelope() -> type[Message]:
    """StreamEventsRequest with its batch as bytes. In a pool of its own, so that reflection does not show it."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="envelope.proto", package="sluice.v1", syntax="proto3")
    message = file.message_type.add(name="StreamEventsRequest")
    message.field.add(name="sequence", number=1, type=field.TYPE_UINT64, label=field.LABEL_OPTIONAL)
    message.field.add(name="batch", number=2, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sluice.v1.StreamEventsRequest"))


Envelope: Any = _make_envelope()

MIN_HEAVY_STRUCT_BYTES = 4 * MAX_WEIGHT
"""A value in a Struct has at least 4 bytes, and takes as long as five in JSON."""

decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class DoubtfulError(Exception):
    """The fast path met something that the slow path must look at."""


def parse_message(kind: type[M], serialized: bytes, name: str | None = None) -> M:
    """The message of a `kind`. Raises InvalidBatch for bytes that are no such message.

    `name` is what the client calls the kind, if that is not its own name.
    """
    try:
        return kind.FromString(serialized)
    except DecodeError:
        raise InvalidBatch(f"The message is not a {name or kind.DESCRIPTOR.full_name}") from None


def parse_stream_request(serialized: bytes) -> tuple[int, pb.EventBatch | InvalidBatch]:
    """The sequence of a StreamEventsRequest, and its batch or why that cannot be parsed.

    Raises InvalidBatch if not even the sequence can be parsed.
    """
    try:
        request = parse_message(pb.StreamEventsRequest, serialized)
    except InvalidBatch:
        detail = "batch: not a sluice.v1.EventBatch, or text that is not UTF-8, or nested over 100 levels"
        error = InvalidBatch(detail, field="batch")
        return parse_message(Envelope, serialized).sequence, error
    return request.sequence, request.batch


def sequence_of(serialized: bytes) -> int | None:
    """The sequence of a StreamEventsRequest, whatever its batch is; None if it cannot be parsed."""
    try:
        sequence: int = parse_message(Envelope, serialized).sequence
    except InvalidBatch:
        return None
    return sequence


def check_size(size: int) -> None:
    """Raises PayloadTooLarge for a message of more than the bytes allowed."""
    if size > MAX_BODY_BYTES:
        raise PayloadTooLarge(f"The message is over {MAX_BODY_BYTES >> 20} MiB: send fewer events at a time")


def decode_batch(batch: pb.EventBatch, message: bytes) -> DecodedBatch | None:
    """Decode the batch of a message fast. Returns None if `decoding` must do it, which may take seconds."""
    if is_heavy(message) or has_heavy_structs(batch, message):
        return None
    try:
        return decode_good_batch(batch)
    except (DoubtfulError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def has_heavy_structs(batch: pb.EventBatch, message: bytes) -> bool:
    """Whether it would take too long to decode the Structs of a batch in one call."""
    if len(message) < MIN_HEAVY_STRUCT_BYTES:
        return False
    return sum(event.data.ByteSize() for event in batch.events) >= MIN_HEAVY_STRUCT_BYTES


def decode_slowly(batch: pb.EventBatch) -> DecodedBatch:
    """What `decoding` returns. Raises InvalidBatch."""
    return run_at_once(decoding(batch.SerializeToString()))


def decoding(serialized: bytes) -> Steps[DecodedBatch]:
    """Decode an EventBatch event by event. Raises InvalidBatch for errors of the batch as a whole.

    Errors of single events are not raised. They are in the result's `errors`.
    """
    batch, found = parse_message(pb.EventBatch, serialized), FoundEvents()
    checked = batch.events if len(batch.events) <= MAX_BATCH_EVENTS else ()
    for index, event in enumerate(checked):
        try:
            found.add_good(index, *decode_plain_event(event))
        except (DoubtfulError, ValueError, RecursionError):
            found.add(index, json_of_event(event, index))
        yield
    value: dict[str, Any] = {"source": batch.source, "events": [None] * len(batch.events)}
    if batch.HasField("source_id"):
        value["source_id"] = batch.source_id
    return found.batch(value)


def decode_good_batch(batch: pb.EventBatch) -> DecodedBatch:
    """Decode a batch with no errors. Raises DoubtfulError, or what JSON decoding raises, for any other."""
    source_id = batch.source_id if batch.HasField("source_id") else None
    fine = 0 < len(batch.source) <= MAX_NAME_CHARS and len(source_id or "") <= MAX_NAME_CHARS
    if not fine or not 0 < len(batch.events) <= MAX_BATCH_EVENTS:
        raise DoubtfulError
    messages = list(batch.events)
    events = list(map(decode_event, messages))
    times = [decode_time(event.timestamp) if event.HasField("timestamp") else None for event in messages]
    return DecodedBatch(batch.source, source_id, events, times, range(len(events)), [])


def decode_event(event: pb.Event) -> Event:
    """Decode an event with no errors, but not its time. Raises as `decode_good_batch` does."""
    event_type = event.type
    if not 0 < len(event_type) <= MAX_NAME_CHARS:
        raise DoubtfulError
    if data_json := event.data_json:
        data = decode_object(data_json)
    elif event.HasField("data"):
        data = object_of(event.data)
        if find_flaw(data, ""):
            raise DoubtfulError
    else:
        raise DoubtfulError
    metadata_json = event.metadata_json
    return Event(event_type, data, None, decode_object(metadata_json) if metadata_json else None)


def decode_plain_event(event: pb.Event) -> tuple[Event, int | None]:
    """Decode an event with no errors, and its time. Raises as `decode_good_batch` does."""
    if DOUBTFUL.search(event.data_json) or DOUBTFUL.search(event.metadata_json):
        raise DoubtfulError
    return decode_event(event), decode_time(event.timestamp) if event.HasField("timestamp") else None


def decode_time(timestamp: timestamp_pb2.Timestamp) -> int:
    """A timestamp in milliseconds since 1970. Raises DoubtfulError, with a message, if it is out of range."""
    nanos = timestamp.nanos
    if not 0 <= nanos < NS_PER_S:
        raise DoubtfulError(f"nanos: may be 0 to {NS_PER_S - 1}")
    try:
        return in_range(timestamp.seconds * MS_PER_S + nanos // NS_PER_MS)
    except ValueError as error:
        raise DoubtfulError(str(error)) from None


def object_of(struct: struct_pb2.Struct) -> dict[str, Any]:
    """The JSON object that a Struct is, with its keys sorted: a Struct has no order, and each process has another."""
    return {key: value_of(struct.fields[key]) for key in sorted(struct.fields)}


def value_of(value: struct_pb2.Value) -> Any:
    """The JSON value that a Value is. An unset one is null."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return object_of(value.struct_value)
        case "list_value":
            return [value_of(item) for item in value.list_value.values]
        case None | "null_value":
            return None
        case kind:
            return getattr(value, kind)


def json_of_event(event: pb.Event, index: int) -> dict[str, Any] | EventError:
    """An event in its JSON form, or why it has none."""
    value: dict[str, Any] = {"type": event.type}
    field = "data"
    try:
        match event.WhichOneof("payload"):
            case "data_json":
                value["data"] = parse_leniently(event.data_json)
            case "data":
                value["data"] = object_of(event.data)
        field = "metadata"
        if event.metadata_json:
            value["metadata"] = parse_leniently(event.metadata_json)
        if event.HasField("timestamp"):
            value["timestamp"] = format_time(from_milliseconds(decode_time(event.timestamp)))
    except MalformedJson as error:
        return EventError(index, f"events[{index}].{field}", error.detail)
    except DoubtfulError as error:
        return EventError(index, f"events[{index}].timestamp", str(error))
    return value


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
