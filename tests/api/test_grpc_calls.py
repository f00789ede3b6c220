"""gRPC calls: keys, message sizes, bytes that are no message, deadlines, health and reflection."""

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from sluice.v1 import event_service_pb2 as pb

from tests.support.bodies import MIB
from tests.support.grpc_client import (
    SERVICE,
    STREAM,
    TIMEOUT_S,
    UNARY,
    Stream,
    big_batch,
    code_of,
    error_that_ends,
    good_batch,
    health_of,
    ingest,
    metadata,
    raw_stream,
    raw_unary,
    reason_of,
    stored_marks,
    stub_of,
)
from tests.support.harness import Json, MongoClient, Server, wait_until, workers_memory
from tests.support.logs import without_rejections


@pytest.mark.parametrize("secret", [None, "", "slc_" + "A" * 43, "nonsense"])
def test_wrong_key_ends_the_call(channel: grpc.Channel, secret: str | None) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, secret)
    for error in (caught.value, error_of_a_new_stream(channel, secret)):
        assert (code_of(error), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert isinstance(error, grpc.Call)
        assert error.details() == "Invalid or missing API key"


def error_of_a_new_stream(channel: grpc.Channel, secret: str | None) -> grpc.RpcError:
    """The error with which a stream ends before it has sent anything."""
    with Stream(channel, secret) as stream:
        return error_that_ends(stream)


def test_key_that_may_only_read(server: Server, channel: grpc.Channel) -> None:
    secret = server.create_key("reader", "--scope", "events:read")["key"]
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, secret)
    for error in (caught.value, error_of_a_new_stream(channel, secret)):
        assert (code_of(error), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "INSUFFICIENT_SCOPE")


def test_rejected_batches_leave_nothing_in_memory(server: Server, channel: grpc.Channel, key: Json) -> None:
    padded = pb.Event(type="big", data_json=b'{"mark":0' + b" " * MIB + b"}")
    events = [*[padded] * 9, pb.Event(type="no data")]
    before = workers_memory(server)
    for _ in range(40):
        with pytest.raises(grpc.RpcError) as caught:
            ingest(channel, key["key"], pb.EventBatch(source="big", events=events))
        assert reason_of(caught.value) == "INVALID_BATCH"
    assert workers_memory(server) - before < 100 * MIB, "much of what was sent is still there"


def test_message_over_17_mib_is_not_received(channel: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    huge = big_batch(18 * MIB)
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, key["key"], huge)
    assert code_of(caught.value) == grpc.StatusCode.RESOURCE_EXHAUSTED
    with Stream(channel, key["key"]) as stream:
        stream.send(1, good_batch([1]))
        assert stream.receive().HasField("receipt")
        stream.send(2, huge)
        assert code_of(error_that_ends(stream)) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ingest(channel, key["key"]).events_received == 1
    assert stored_marks(mongo, key) == [0, 1]


def test_bytes_that_are_no_message(server: Server, channel: grpc.Channel, key: Json) -> None:
    before = len(server.stderr())
    with pytest.raises(grpc.RpcError) as caught:
        raw_unary(channel)(b"\xff\xff\xff", metadata=metadata(key["key"]), timeout=TIMEOUT_S)
    stream = raw_stream(channel)(iter([b"\xff\xff\xff"]), metadata=metadata(key["key"]), timeout=TIMEOUT_S)
    with pytest.raises(grpc.RpcError) as ended:
        list(stream)
    for error, name in ((caught.value, "IngestEventsRequest"), (ended.value, "StreamEventsRequest")):
        assert (code_of(error), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_BATCH")
        assert isinstance(error, grpc.Call)
        assert error.details() == f"The message is not a sluice.v1.{name}"
    assert without_rejections(server.stderr()[before:]) == []


@pytest.mark.parametrize("method", [f"/{SERVICE}/Nothing", "/no.such.Service/IngestEvents"])
def test_unknown_method(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw_unary(channel, method)(b"", timeout=TIMEOUT_S)
    assert code_of(caught.value) == grpc.StatusCode.UNIMPLEMENTED


def test_deadline_of_a_call(server: Server, channel: grpc.Channel, key: Json) -> None:
    ingest(channel, key["key"])
    before = len(server.stderr())
    request = pb.IngestEventsRequest(batch=good_batch(range(1000)))
    codes = set()
    for milliseconds in range(1, 15):
        timeout_s = milliseconds / 1000
        call = stub_of(channel).IngestEvents.future(request, metadata=metadata(key["key"]), timeout=timeout_s)
        codes.add(call.code())
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
    assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK}
    assert ingest(channel, key["key"]).events_received == 1
    assert "internal error" not in server.stderr()[before:]  # grpc.aio logs a race with the deadline now and then


def test_health_needs_no_key(channel: grpc.Channel) -> None:
    health = health_of(channel)
    for name in ("", SERVICE):
        request = health_pb2.HealthCheckRequest(service=name)

        def serving(request: health_pb2.HealthCheckRequest = request) -> object:
            return health.Check(request, timeout=TIMEOUT_S).status == health_pb2.HealthCheckResponse.SERVING

        wait_until(serving, "SERVING")
        watch = health.Watch(request, timeout=TIMEOUT_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=TIMEOUT_S)
    assert code_of(caught.value) == grpc.StatusCode.NOT_FOUND


def test_reflection_alone_is_enough_for_a_client(channel: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= set(
        database.get_services()
    )
    service = descriptor_pool.DescriptorPool(database).FindServiceByName(SERVICE)
    unary, stream = service.methods_by_name["IngestEvents"], service.methods_by_name["StreamEvents"]
    kinds = [
        message_factory.GetMessageClass(kind)
        for method in (unary, stream)
        for kind in (method.input_type, method.output_type)
    ]
    request_kind, response_kind, item_kind, answer_kind = kinds
    assert not isinstance(request_kind(), pb.IngestEventsRequest)
    batch = {"source": "reflected", "events": [{"type": "a", "data_json": b'{"mark": 1}'}]}
    response: Any = channel.unary_unary(UNARY, request_kind.SerializeToString, response_kind.FromString)(
        request_kind(batch=batch), metadata=metadata(key["key"]), timeout=TIMEOUT_S
    )
    assert response.receipt.events_received == 1
    responses: Any = channel.stream_stream(STREAM, item_kind.SerializeToString, answer_kind.FromString)(
        iter([item_kind(sequence=9, batch=batch)]), metadata=metadata(key["key"]), timeout=TIMEOUT_S
    )
    assert [(response.sequence, response.receipt.events_received) for response in responses] == [(9, 1)]
    assert stored_marks(mongo, key) == [1, 1]
