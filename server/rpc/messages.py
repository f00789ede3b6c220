"""Messages <-> what the core knows. Imports the generated code and the core; it decides nothing.

The fast path takes each event as it is. Where it meets anything it does not like, the batch is put into the form it has
in JSON and goes to the core's slow path, which names every fault just as it does for REST.
"""

from typing import Any, TypeVar

import msgspec
from google.protobuf import struct_pb2, timestamp_pb2
from google.protobuf.message import DecodeError, Message

from proto.sluice.v1 import event_service_pb2 as pb
from server.core.decode import decode_value, parse_leniently
from server.core.errors import InvalidBatch, MalformedJson, PayloadTooLarge, Problem
from server.core.events import MAX_BODY_BYTES, MAX_EVENTS, MAX_NAME_CHARS, MAX_PROBLEMS, Candidate, Event, Receipt
from server.core.times import MS_PER_S, NS_PER_MS, format_time, from_milliseconds, in_range
from server.core.values import find_flaw

M = TypeVar("M", bound=Message)

NS_PER_S = 1_000_000_000

decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class DoubtfulError(Exception):
    """The fast path met something that the slow path must judge."""


def parse_message(kind: type[M], serialized: bytes) -> M:
    """The message of a `kind`. Raises InvalidBatch for bytes that are no such message."""
    try:
        return kind.FromString(serialized)
    except DecodeError:
        raise InvalidBatch(f"The message is not a {kind.DESCRIPTOR.full_name}") from None


def check_size(size: int) -> None:
    """Raises PayloadTooLarge for a message of more than the bytes allowed."""
    if size > MAX_BODY_BYTES:
        raise PayloadTooLarge(f"The message is over {MAX_BODY_BYTES >> 20} MiB: send fewer events at a time")


def read_batch(batch: pb.EventBatch) -> Candidate | None:
    """The batch of a message, fast; None where `read_slowly` must, which may take a second: not on the loop."""
    try:
        return read_good_batch(batch)
    except (DoubtfulError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_slowly(batch: pb.EventBatch) -> Candidate:
    """The batch of a message, event by event. Raises InvalidBatch for what is wrong with the batch as a whole.

    What is wrong with single events is not raised: it is in the result's `problems`.
    """
    return decode_value(json_of_batch(batch))


def read_good_batch(batch: pb.EventBatch) -> Candidate:
    """The batch of a message with nothing wrong in it. Raises DoubtfulError, or what decoding raises, for any other."""
    source_id = batch.source_id if batch.HasField("source_id") else None
    fine = 0 < len(batch.source) <= MAX_NAME_CHARS and len(source_id or "") <= MAX_NAME_CHARS
    if not fine or not 0 < len(batch.events) <= MAX_EVENTS:
        raise DoubtfulError
    messages = list(batch.events)
    events = list(map(read_event, messages))
    times = [read_time(event.timestamp) if event.HasField("timestamp") else None for event in messages]
    return Candidate(batch.source, source_id, events, times, range(len(events)), [])


def read_event(event: pb.Event) -> Event:
    """A good event, but for its time. Raises DoubtfulError, or what decoding raises, for any other."""
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


def read_time(timestamp: timestamp_pb2.Timestamp) -> int:
    """The moment of a timestamp, as milliseconds since 1970.

    Raises DoubtfulError, with a message, for one out of range.
    """
    nanos = timestamp.nanos
    if not 0 <= nanos < NS_PER_S:
        raise DoubtfulError(f"nanos: may be 0 to {NS_PER_S - 1}")
    try:
        return in_range(timestamp.seconds * MS_PER_S + nanos // NS_PER_MS)
    except ValueError as error:
        raise DoubtfulError(str(error)) from None


def object_of(struct: struct_pb2.Struct) -> dict[str, Any]:
    """The JSON object that a Struct is."""
    return {key: value_of(value) for key, value in struct.fields.items()}


def value_of(value: struct_pb2.Value) -> Any:
    """The JSON value that a Value is; one that says nothing is null."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return object_of(value.struct_value)
        case "list_value":
            return [value_of(item) for item in value.list_value.values]
        case None | "null_value":
            return None
        case kind:
            return getattr(value, kind)


def json_of_batch(batch: pb.EventBatch) -> dict[str, Any]:
    """A batch in the form it has in JSON. An event that has none is the Problem with it."""
    value: dict[str, Any] = {"source": batch.source}
    if batch.HasField("source_id"):
        value["source_id"] = batch.source_id
    return {**value, "events": [json_of_event(event, index) for index, event in enumerate(batch.events)]}


def json_of_event(event: pb.Event, index: int) -> dict[str, Any] | Problem:
    """An event in the form it has in JSON, or what keeps it from having one."""
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
            value["timestamp"] = format_time(from_milliseconds(read_time(event.timestamp)))
    except MalformedJson as error:
        return Problem(index, f"events[{index}].{field}", error.detail)
    except DoubtfulError as error:
        return Problem(index, f"events[{index}].timestamp", str(error))
    return value


def receipt_message(receipt: Receipt) -> pb.Receipt:
    """The receipt as a message."""
    header = receipt.header
    seconds, milliseconds = divmod(header.received_at_ms, MS_PER_S)
    return pb.Receipt(
        events_received=len(receipt.ids),
        tenant_id=str(header.tenant_id),
        source=header.source,
        received_at=timestamp_pb2.Timestamp(seconds=seconds, nanos=milliseconds * NS_PER_MS),
        event_ids=receipt.ids,
        replayed=receipt.replayed,
        rejections=[
            pb.Rejection(index=problem.index, path=problem.path, message=problem.message)
            for problem in receipt.rejected[:MAX_PROBLEMS]
        ],
    )
