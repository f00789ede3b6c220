"""gRPC streams: order of responses, errors that end a stream or do not, many at once, and clients that do not read."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack

import grpc
import pytest
from sluice.v1 import event_service_pb2 as pb

from server.rpc.stream_window import WINDOW_BATCHES
from tests.support.bodies import MIB
from tests.support.grpc_client import (
    OWN_CONNECTION,
    TIMEOUT_S,
    Stream,
    big_batch,
    channel_to,
    code_of,
    details_of,
    error_that_ends,
    good_batch,
    ingest,
    metadata,
    raw_stream,
    reason_of,
    stored_marks,
    stub_of,
)
from tests.support.harness import Json, MongoClient, Server, sluice, wait_until, workers_memory
from tests.support.logs import without_rejections


def requests(count: int, size: int = 1) -> Iterator[pb.StreamEventsRequest]:
    """Requests of `size` events each. Sequences and marks count up from 0."""
    for sequence in range(count):
        marks = range(sequence * size, (sequence + 1) * size)
        yield pb.StreamEventsRequest(sequence=sequence, batch=good_batch(marks))


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


def test_key_revoked_in_mid_stream(server: Server, channel: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    with Stream(channel, key["key"]) as stream:
        for request in requests(5):
            stream.send(request.sequence, request.batch)
        assert all(stream.receive().HasField("receipt") for _ in range(5))
        assert sluice("keys", "revoke", key["id"], *server.database_options).returncode == 0
        stream.send(5, good_batch([5]))
        error = error_that_ends(stream)
    assert (code_of(error), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert stored_marks(mongo, key) == list(range(5))


def test_message_over_10_mib_is_rejected_and_the_stream_goes_on(
    channel: grpc.Channel, key: Json, mongo: MongoClient
) -> None:
    large = big_batch(11 * MIB)
    with Stream(channel, key["key"]) as stream:
        stream.send(1, large)
        stream.send(2, good_batch([7]))
        rejected = stream.receive()
        assert (rejected.sequence, reason_of(rejected.error)) == (1, "PAYLOAD_TOO_LARGE")
        assert rejected.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert "10 MiB" in rejected.error.message
        assert stream.receive().receipt.events_received == 1
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, key["key"], large)
    assert (code_of(caught.value), reason_of(caught.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE")
    assert stored_marks(mongo, key) == [7]


def test_what_came_before_bytes_that_are_no_message_is_answered(channel: grpc.Channel, key: Json) -> None:
    sent = [request.SerializeToString() for request in requests(5)]
    call = raw_stream(channel)(iter([*sent, b"\xff"]), metadata=metadata(key["key"]), timeout=TIMEOUT_S)
    responses: list[pb.StreamEventsResponse] = []
    with pytest.raises(grpc.RpcError) as ended:
        responses.extend(pb.StreamEventsResponse.FromString(response) for response in call)
    assert code_of(ended.value) == grpc.StatusCode.INVALID_ARGUMENT
    assert [response.sequence for response in responses if response.HasField("receipt")] == list(range(5))


def test_200_streams_at_once(server: Server, key: Json, mongo: MongoClient) -> None:
    async def stream(channel: grpc.aio.Channel, number: int) -> None:
        call = stub_of(channel).StreamEvents(metadata=metadata(key["key"]), timeout=TIMEOUT_S)
        for sequence in range(5):
            await call.write(pb.StreamEventsRequest(sequence=sequence, batch=good_batch([number * 5 + sequence])))
        await call.done_writing()
        assert [response.sequence async for response in call if response.HasField("receipt")] == list(range(5))
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
    """A stream of `total` batches of 200 kB that does not read its responses at first."""

    def __init__(self, channel: grpc.Channel, secret: str, total: int) -> None:
        self._total = total
        self._is_taken = threading.Event()
        self.taken = 0
        """How many batches were sent, with the one that is being sent."""
        self.call = stub_of(channel).StreamEvents(self._requests(), metadata=metadata(secret), timeout=TIMEOUT_S)
        wait_until(lambda: self.taken > WINDOW_BATCHES, "a window of batches")
        while self._is_taken.wait(1):
            self._is_taken.clear()

    def _requests(self) -> Iterator[pb.StreamEventsRequest]:
        for sequence in range(self._total):
            event = pb.Event(type="big", data_json=b'{"mark": %d, "text": "%b"}' % (sequence, b"x" * 2000))
            self.taken += 1
            self._is_taken.set()
            yield pb.StreamEventsRequest(sequence=sequence, batch=pb.EventBatch(source="slow", events=[event] * 100))


@pytest.fixture
def narrow(server: Server) -> Iterator[grpc.Channel]:
    """A channel that buffers little of what its client does not read."""
    small_window = [("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(server.grpc, options=[*OWN_CONNECTION, *small_window]) as opened:
        yield opened


def test_slow_reader_is_not_read_ahead_of(server: Server, narrow: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    total = 400
    before = workers_memory(server)
    slow = SlowReader(narrow, key["key"], total)
    stored = len(stored_marks(mongo, key))
    assert slow.taken < total // 2, "the server read on without being read"
    assert stored <= slow.taken * 100
    assert workers_memory(server) - before < 100 * MIB
    assert [response.sequence for response in slow.call if response.receipt.events_received == 100] == list(
        range(total)
    )
    assert slow.call.code() == grpc.StatusCode.OK
    assert workers_memory(server) - before < 100 * MIB
    assert len(stored_marks(mongo, key)) == total * 100


def test_client_that_vanishes_in_mid_response_is_no_internal_error(
    server: Server, narrow: grpc.Channel, key: Json
) -> None:
    before = len(server.stderr())
    slow = SlowReader(narrow, key["key"], 400)
    assert slow.taken < 400
    slow.call.cancel()
    for _ in range(4):  # on either worker
        with channel_to(server.grpc) as fresh:
            assert ingest(fresh, key["key"]).events_received == 1
    assert without_rejections(server.stderr()[before:]) == []
