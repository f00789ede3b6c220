"""How REST and gRPC must differ: in JSON inside a message, and in values that only messages can hold."""

import math
import re
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import timestamp_pb2
from sluice.v1 import event_service_pb2 as pb

from tests.support.harness import Json, MongoClient
from tests.support.parity import EVENTS, Rejected, Stored, by_stream, by_unary, take_stored

MALFORMED = {
    "not JSON": (b"{'a':1}", "data", "JSON is malformed"),
    "empty": (b"", "data", "malformed"),
    "two values": (b"{}{}", "data", "malformed"),
    "not UTF-8": (b'{"a":"\xff"}', "data", "JSON is not UTF-8: invalid start byte at byte 6"),
    "a surrogate in UTF-8": (b'{"a":"\xed\xa0\x80"}', "data", "JSON is not UTF-8"),
    "NaN": (b'{"a":NaN}', "data", "NaN is not a JSON value|byte"),
    "too deep to parse": (b'{"a":' + b"[" * 100_000, "data", "nested too deeply"),
    "metadata not JSON": (b"{", "metadata", "malformed"),
    "metadata not UTF-8": (b"\xff", "metadata", "not UTF-8"),
}


@pytest.mark.parametrize(("text", "field", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_is_a_bad_event_over_grpc_and_a_bad_body_over_rest(
    client: httpx.Client, channel: grpc.Channel, mongo: MongoClient, key: Json, text: bytes, field: str, message: str
) -> None:
    take_stored(mongo, key)
    body = b'{"source":"backend","events":[{"type":"a","data":{}},{"type":"a","data":{},"%s":%s}]}'
    response = client.post(EVENTS, content=body % (field.encode(), text), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, "malformed_json")
    bad = pb.Event(type="a", data_json=text) if field == "data" else pb.Event(type="a", data_json=b"{}")
    if field == "metadata":
        bad.metadata_json = text
    batch = pb.EventBatch(source="backend", events=[pb.Event(type="a", data_json=b"{}"), bad])
    for send in (by_unary, by_stream):
        outcome = send(channel, key["key"], batch)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "invalid_batch"
        ((path, said),) = outcome.violations
        assert path == f"events[1].{field}"
        assert re.search(message, said)
        assert outcome.detail == f"{path}: {said}"
        assert take_stored(mongo, key) == []
    batch.handling = pb.HANDLING_LENIENT
    outcome = by_unary(channel, key["key"], batch)
    assert isinstance(outcome, Stored)
    assert outcome.rejections == [(path, said)]
    assert len(take_stored(mongo, key)) == 1


def timed(**fields: int) -> pb.Event:
    """An event with a timestamp of these fields."""
    return pb.Event(type="a", data_json=b"{}", timestamp=timestamp_pb2.Timestamp(**fields))


def structured(value: Any) -> pb.Event:
    """An event with this value in its Struct."""
    event = pb.Event(type="a")
    event.data.update({"a": value})
    return event


MISFITS: dict[str, tuple[pb.Event, str, str]] = {
    "negative nanos": (timed(nanos=-1), "timestamp", "nanos"),
    "nanos of a second": (timed(nanos=10**9), "timestamp", "nanos"),
    "first second": (timed(seconds=-(2**63)), "timestamp", "years 1 to 9999"),
    "last second": (timed(seconds=2**63 - 1), "timestamp", "years 1 to 9999"),
    "NaN in a Struct": (structured([math.nan]), "data.a[0]", "double"),
    "infinity in a Struct": (structured({"b": -math.inf}), "data.a.b", "double"),
    "no payload": (pb.Event(type="a"), "data", "missing"),
}


@pytest.mark.parametrize(("event", "path", "message"), MISFITS.values(), ids=MISFITS)
def test_what_only_messages_can_hold(
    channel: grpc.Channel, mongo: MongoClient, key: Json, event: pb.Event, path: str, message: str
) -> None:
    take_stored(mongo, key)
    for send in (by_unary, by_stream):
        outcome = send(channel, key["key"], pb.EventBatch(source="backend", events=[event]))
        assert isinstance(outcome, Rejected)
        assert outcome.code == "invalid_batch"
        ((found, said),) = outcome.violations
        assert found == f"events[0].{path}"
        assert message in said
        assert take_stored(mongo, key) == []
