"""Converts the events of messages.

The fast path converts each event as it is. If it meets anything unusual, the event is converted to its JSON form, in
steps, and goes to the core's slow path, which names every error exactly as it does for REST.
"""

from typing import Any

import msgspec
from google.protobuf import struct_pb2, timestamp_pb2
from sluice.v1 import event_service_pb2 as pb

from server.core.errors import EventError, MalformedJson
from server.core.events.decode import MAX_EVENT_VALUES, FoundEvents, is_doubtful, too_large
from server.core.events.json_text import parse_json
from server.core.events.model import MAX_BATCH_EVENTS, MAX_NAME_CHARS, DecodedBatch, Event
from server.core.events.split import having_more_values
from server.core.events.values import find_flaw
from server.core.slow_work import Steps
from server.core.times import MS_PER_S, NS_PER_MS, format_time, from_milliseconds, in_range
from server.rpc.budget import Budget

NS_PER_S = 1_000_000_000

MAX_ONE_STEP_BYTES = 64 * 1024
"""An event with a Struct that is converted in one step: at most 32,000 values, which take some 30 ms."""

decode_object = msgspec.json.Decoder(dict[str, Any]).decode
decode_metadata = msgspec.json.Decoder(dict[str, Any] | None).decode


class DoubtfulError(Exception):
    """The fast path met something that the slow path must look at."""


class TooManyValuesError(Exception):
    """A Struct has more values than an event of the largest size."""


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
    return Event(event_type, data, None, decode_metadata(metadata_json) if metadata_json else None)


def decode_plain_event(event: pb.Event) -> tuple[Event, int | None]:
    """Decode an event with no errors, and its time. Raises as `decode_good_batch` does."""
    if is_doubtful(event.data_json) or is_doubtful(event.metadata_json):
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


def converting(value: struct_pb2.Value, budget: Budget) -> Steps[Any]:
    """`value_of` in steps. Raises TooManyValuesError if the budget does not last."""
    yield
    match value.WhichOneof("kind"):
        case "struct_value":
            return (yield from converting_object(value.struct_value, budget))
        case "list_value":
            return (yield from converting_list(value.list_value, budget))
        case _:
            return value_of(value)


def converting_list(values: struct_pb2.ListValue, budget: Budget) -> Steps[list[Any]]:
    """The JSON list that a ListValue is, in steps. Raises as `converting` does."""
    budget.spend(1 + len(values.values))
    converted = []
    for item in values.values:
        converted.append((yield from converting(item, budget)))  # noqa: PERF401 (a comprehension cannot yield)
    return converted


def converting_object(struct: struct_pb2.Struct, budget: Budget) -> Steps[dict[str, Any]]:
    """`object_of` in steps. Raises as `converting` does."""
    budget.spend(1 + len(struct.fields))
    converted = {}
    for key in sorted(struct.fields):
        converted[key] = yield from converting(struct.fields[key], budget)
    return converted


def converting_to_json(event: pb.Event, index: int) -> Steps[dict[str, Any] | EventError]:
    """An event in its JSON form, or why it has none."""
    value: dict[str, Any] = {"type": event.type}
    field = "data"
    try:
        match event.WhichOneof("payload"):
            case "data_json":
                value["data"] = parse_json(event.data_json)
            case "data":
                value["data"] = yield from converting_object(event.data, Budget(MAX_EVENT_VALUES, TooManyValuesError))
        field = "metadata"
        if event.metadata_json:
            value["metadata"] = parse_json(event.metadata_json)
        if event.HasField("timestamp"):
            value["timestamp"] = format_time(from_milliseconds(decode_time(event.timestamp)))
    except MalformedJson as error:
        return EventError(index, f"events[{index}].{field}", error.detail)
    except TooManyValuesError:
        return too_large(index)
    except DoubtfulError as error:
        return EventError(index, f"events[{index}].timestamp", str(error))
    return value


def adding(found: FoundEvents, index: int, event: pb.Event, size: int) -> Steps[None]:
    """Decode the event at `index`, good or bad, which has `size` bytes as a message."""
    for text in (event.data_json, event.metadata_json):
        if (yield from having_more_values(text, MAX_EVENT_VALUES, has_equal_keys=True)):
            found.add(index, too_large(index))
            return
    try:
        if size <= MAX_ONE_STEP_BYTES or not event.HasField("data"):
            found.add_good(index, *decode_plain_event(event))
            return
    except (DoubtfulError, ValueError, RecursionError):
        pass
    found.add(index, (yield from converting_to_json(event, index)))
