"""gRPC as a caller sees it: streams and calls, their errors and limits, health and reflection."""

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import (
    OWN_CONNECTION,
    TIMEOUT_S,
    Stream,
    channel_to,
    code_of,
    details_of,
    good_batch,
    health_of,
    metadata,
    reason_of,
    stub_of,
)
from tests.support.harness import Json, MongoClient, Server, sluice, wait_until

SERVICE = "sluice.v1.EventService"
UNARY = f"/{SERVICE}/IngestEvents"
STREAM = f"/{SERVICE}/StreamEvents"
MIB = 1024 * 1024


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    """A channel to the server."""
    with channel_to(server.grpc) as opened:
        yield opened


def stored_marks(mongo: MongoClient, key: Json) -> list[int]:
    """The marks of the tenant's events, in order."""
    found = mongo.sluice.events.find({"tenant_id": uuid.UUID(key["tenant_id"])}, {"data.mark": 1})
    return sorted(document["data"]["mark"] for document in found)


def ingest(channel: grpc.Channel, secret: str | None, **batch: Any) -> pb.IngestEventsResponse:
    """Send one batch by itself."""
    request = pb.IngestEventsRequest(batch=pb.EventBatch(**batch) if batch else good_batch())
    response: pb.IngestEventsResponse = stub_of(channel).IngestEvents(
        request, metadata=metadata(secret), timeout=TIMEOUT_S
    )
    return response


def requests(count: int, size: int = 1) -> Iterator[pb.StreamEventsRequest]:
    """Batches of one tiny stream, numbered; their marks too."""
    for sequence in range(count):
        marks = range(sequence * size, (sequence + 1) * size)
        yield pb.StreamEventsRequest(sequence=sequence, batch=good_batch(marks))


def raw_unary(channel: grpc.Channel, method: str) -> Any:
    """A method from bytes to bytes."""
    return channel.unary_unary(method)


def raw_stream(channel: grpc.Channel) -> Any:
    """StreamEvents from bytes to bytes."""
    return channel.stream_stream(STREAM)


def ending(stream: Stream) -> grpc.RpcError:
    """The error with which a stream ends now."""
    with pytest.raises(grpc.RpcError) as caught:
        stream.receive()
    return caught.value


def test_stream_outlives_bad_batches_and_answers_in_order(channel: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    def with_bad_ones() -> Iterator[pb.StreamEventsRequest]:
        for request in requests(1000, 3):
            if request.sequence % 10 == 3:
                request.batch.events[1].ClearField("type")
            yield request

    call = stub_of(channel).StreamEvents(with_bad_ones(), metadata=metadata(key["key"]), timeout=TIMEOUT_S)
    good: list[int] = []
    for place, response in enumerate(call):
        assert response.sequence == place
        if place % 10 == 3:
            error = response.error
            assert error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            assert [item.field for item in details_of(error)["BadRequest"].field_violations] == ["events[1].type"]
            assert reason_of(error) == "INVALID_BATCH"
        else:
            receipt = response.receipt
            assert (receipt.events_received, len(set(receipt.event_ids)), receipt.source) == (3, 3, "stream")
            assert receipt.tenant_id == key["tenant_id"]
            good += range(place * 3, place * 3 + 3)
    assert call.code() == grpc.StatusCode.OK
    assert place == 999
    assert len(good) == 2700
    assert stored_marks(mongo, key) == good


def test_half_close_answers_everything_before_ok(channel: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    with Stream(channel, key["key"]) as stream:
        for request in requests(50):
            stream.send(request.sequence, request.batch)
        stream.half_close()
        assert [response.sequence for response in stream.call if response.HasField("receipt")] == list(range(50))
        assert stream.call.code() == grpc.StatusCode.OK
    assert stored_marks(mongo, key) == list(range(50))


def test_empty_stream_ends_well(channel: grpc.Channel, key: Json) -> None:
    call = stub_of(channel).StreamEvents(iter(()), metadata=metadata(key["key"]), timeout=TIMEOUT_S)
    assert list(call) == []
    assert call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("secret", [None, "", "slc_" + "A" * 43, "nonsense"])
def test_wrong_key_ends_the_call(channel: grpc.Channel, secret: str | None) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, secret)
    for error in (caught.value, ending_of_a_stream(channel, secret)):
        assert (code_of(error), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert isinstance(error, grpc.Call)
        assert error.details() == "Invalid or missing API key"


def ending_of_a_stream(channel: grpc.Channel, secret: str | None) -> grpc.RpcError:
    """The error with which a stream ends before it has sent anything."""
    with Stream(channel, secret) as stream:
        return ending(stream)


def test_key_that_may_only_read(server: Server, channel: grpc.Channel) -> None:
    secret = server.create_key("reader", "--scope", "events:read")["key"]
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, secret)
    for error in (caught.value, ending_of_a_stream(channel, secret)):
        assert (code_of(error), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "INSUFFICIENT_SCOPE")


def test_key_revoked_in_mid_stream(server: Server, channel: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    with Stream(channel, key["key"]) as stream:
        for request in requests(5):
            stream.send(request.sequence, request.batch)
        assert all(stream.receive().HasField("receipt") for _ in range(5))
        assert sluice("keys", "revoke", key["id"], *server.database_options).returncode == 0
        stream.send(5, good_batch([5]))
        error = ending(stream)
    assert (code_of(error), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert stored_marks(mongo, key) == list(range(5))


def big_batch(size: int) -> pb.EventBatch:
    """A batch of about `size` bytes."""
    data = json.dumps({"mark": 0, "text": "x" * 1000}).encode()
    padding = [pb.Event(type="big", data_json=data[:-1] + b" " * 100_000 + b"}")] * (size // 100_000)
    return pb.EventBatch(source="big", events=padding)


def test_message_over_10_mib_is_refused_and_the_stream_goes_on(
    channel: grpc.Channel, key: Json, mongo: MongoClient
) -> None:
    large = big_batch(11 * MIB)
    with Stream(channel, key["key"]) as stream:
        stream.send(1, large)
        stream.send(2, good_batch([7]))
        refused = stream.receive()
        assert (refused.sequence, reason_of(refused.error)) == (1, "PAYLOAD_TOO_LARGE")
        assert refused.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert "10 MiB" in refused.error.message
        assert stream.receive().receipt.events_received == 1
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, key["key"], source="big", events=large.events)
    assert (code_of(caught.value), reason_of(caught.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE")
    assert stored_marks(mongo, key) == [7]


def test_refused_batches_leave_nothing_in_memory(server: Server, channel: grpc.Channel, key: Json) -> None:
    padded = pb.Event(type="big", data_json=b'{"mark":0' + b" " * MIB + b"}")
    events = [*[padded] * 9, pb.Event(type="no data")]
    before = memory(server)
    for _ in range(40):
        with pytest.raises(grpc.RpcError) as caught:
            ingest(channel, key["key"], source="big", events=events)
        assert reason_of(caught.value) == "INVALID_BATCH"
    assert memory(server) - before < 100 * MIB, "much of what was sent is still there"


def test_message_over_16_mib_is_not_received(channel: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    huge = big_batch(17 * MIB)
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, key["key"], source="big", events=huge.events)
    assert code_of(caught.value) == grpc.StatusCode.RESOURCE_EXHAUSTED
    with Stream(channel, key["key"]) as stream:
        stream.send(1, good_batch([1]))
        assert stream.receive().HasField("receipt")
        stream.send(2, huge)
        assert code_of(ending(stream)) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ingest(channel, key["key"]).receipt.events_received == 1
    assert stored_marks(mongo, key) == [0, 1]


def test_bytes_that_are_no_message(server: Server, channel: grpc.Channel, key: Json) -> None:
    before = len(server.stderr())
    with pytest.raises(grpc.RpcError) as caught:
        raw_unary(channel, UNARY)(b"\xff\xff\xff", metadata=metadata(key["key"]), timeout=TIMEOUT_S)
    stream = raw_stream(channel)(iter([b"\xff\xff\xff"]), metadata=metadata(key["key"]), timeout=TIMEOUT_S)
    with pytest.raises(grpc.RpcError) as ended:
        list(stream)
    for error, name in ((caught.value, "IngestEventsRequest"), (ended.value, "StreamEventsRequest")):
        assert (code_of(error), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_BATCH")
        assert isinstance(error, grpc.Call)
        assert error.details() == f"The message is not a sluice.v1.{name}"
    assert server.stderr()[before:] == ""


def test_what_came_before_bytes_that_are_no_message_is_answered(channel: grpc.Channel, key: Json) -> None:
    sent = [request.SerializeToString() for request in requests(5)]
    call = raw_stream(channel)(iter([*sent, b"\xff"]), metadata=metadata(key["key"]), timeout=TIMEOUT_S)
    answers: list[pb.StreamEventsResponse] = []
    with pytest.raises(grpc.RpcError) as ended:
        answers.extend(pb.StreamEventsResponse.FromString(answer) for answer in call)
    assert code_of(ended.value) == grpc.StatusCode.INVALID_ARGUMENT
    assert [answer.sequence for answer in answers if answer.HasField("receipt")] == list(range(5))


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
    assert ingest(channel, key["key"]).receipt.events_received == 1
    assert "internal error" not in server.stderr()[before:]  # grpc.aio logs a race with the deadline now and then


def test_200_streams_at_once(server: Server, key: Json, mongo: MongoClient) -> None:
    async def stream(channel: grpc.aio.Channel, number: int) -> None:
        call = stub_of(channel).StreamEvents(metadata=metadata(key["key"]), timeout=TIMEOUT_S)
        for sequence in range(5):
            await call.write(pb.StreamEventsRequest(sequence=sequence, batch=good_batch([number * 5 + sequence])))
        await call.done_writing()
        assert [answer.sequence async for answer in call if answer.HasField("receipt")] == list(range(5))
        assert await call.code() == grpc.StatusCode.OK

    async def all_streams() -> None:
        async with AsyncExitStack() as stack:
            opened = [grpc.aio.insecure_channel(server.grpc, options=OWN_CONNECTION) for _ in range(10)]
            channels = [await stack.enter_async_context(channel) for channel in opened]
            async with asyncio.TaskGroup() as streams:
                for number in range(200):
                    streams.create_task(stream(channels[number % 10], number))

    asyncio.run(all_streams())
    assert stored_marks(mongo, key) == list(range(1000))


class SlowReader:
    """A stream of `total` batches of 200 kB that reads no answer until it is asked to."""

    def __init__(self, channel: grpc.Channel, secret: str, total: int) -> None:
        self._total = total
        self._taken = threading.Semaphore(0)
        self.taken = 0
        self.call = stub_of(channel).StreamEvents(self._requests(), metadata=metadata(secret), timeout=TIMEOUT_S)
        while self._taken.acquire(timeout=1):
            self.taken += 1

    def _requests(self) -> Iterator[pb.StreamEventsRequest]:
        for sequence in range(self._total):
            event = pb.Event(type="big", data_json=b'{"mark": %d, "text": "%b"}' % (sequence, b"x" * 2000))
            yield pb.StreamEventsRequest(sequence=sequence, batch=pb.EventBatch(source="slow", events=[event] * 100))
            self._taken.release()


@pytest.fixture
def narrow(server: Server) -> Iterator[grpc.Channel]:
    """A channel that keeps little of what its user does not read."""
    small_window = [("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(server.grpc, options=[*OWN_CONNECTION, *small_window]) as opened:
        yield opened


def test_slow_reader_is_not_read_ahead_of(server: Server, narrow: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    total = 400
    before = memory(server)
    slow = SlowReader(narrow, key["key"], total)
    assert 16 <= slow.taken < total // 2, "the server read on without being read"
    assert len(stored_marks(mongo, key)) <= slow.taken * 100
    assert memory(server) - before < 100 * MIB
    assert [answer.sequence for answer in slow.call if answer.receipt.events_received == 100] == list(range(total))
    assert slow.call.code() == grpc.StatusCode.OK
    assert memory(server) - before < 100 * MIB
    assert len(stored_marks(mongo, key)) == total * 100


def test_client_that_vanishes_in_mid_answer_is_no_fault(server: Server, narrow: grpc.Channel, key: Json) -> None:
    before = len(server.stderr())
    slow = SlowReader(narrow, key["key"], 400)
    assert slow.taken < 400
    slow.call.cancel()
    for _ in range(4):  # either worker
        with channel_to(server.grpc) as fresh:
            assert ingest(fresh, key["key"]).receipt.events_received == 1
    assert server.stderr()[before:] == ""


def memory(server: Server) -> int:
    """The resident bytes of all workers."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in server.worker_pids()]
    return sum(pages) * 4096


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
    answers: Any = channel.stream_stream(STREAM, item_kind.SerializeToString, answer_kind.FromString)(
        iter([item_kind(sequence=9, batch=batch)]), metadata=metadata(key["key"]), timeout=TIMEOUT_S
    )
    assert [(answer.sequence, answer.receipt.events_received) for answer in answers] == [(9, 1)]
    assert stored_marks(mongo, key) == [1, 1]
