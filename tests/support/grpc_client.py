"""gRPC for the tests: channels, single calls, one open stream, and what a status says."""

import json
import uuid
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status
from sluice.v1 import event_service_pb2 as pb
from sluice.v1.event_service_pb2_grpc import EventServiceStub

from tests.support.harness import Json, MongoClient

SERVICE = "sluice.v1.EventService"
UNARY = f"/{SERVICE}/IngestEvents"
STREAM = f"/{SERVICE}/StreamEvents"

TIMEOUT_S = 60

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""Channels to one address share a connection unless told not to, and so a worker."""

Details = dict[str, Any]

Metadata = tuple[tuple[str, str | bytes], ...]


def channel_to(target: str) -> grpc.Channel:
    """A channel with a connection of its own."""
    return grpc.insecure_channel(target, options=OWN_CONNECTION)


def stub_of(channel: Any) -> Any:
    """The generated stub."""
    return EventServiceStub(channel)  # type: ignore[no-untyped-call]


def health_of(channel: grpc.Channel) -> Any:
    """The stub of the health service."""
    return HealthStub(channel)


def raw_unary(channel: grpc.Channel, method: str = UNARY) -> Any:
    """A unary method that takes and gives bytes."""
    return channel.unary_unary(method)


def raw_stream(channel: grpc.Channel) -> Any:
    """StreamEvents, taking and giving bytes."""
    return channel.stream_stream(STREAM)


def metadata(secret: str | Metadata | None) -> Metadata:
    """The metadata of a call with the key, or with this metadata."""
    if isinstance(secret, tuple):
        return secret
    return () if secret is None else (("x-api-key", secret),)


def good_event(**data: Any) -> pb.Event:
    """An event with this data."""
    return pb.Event(type="purchase", data_json=json.dumps(data).encode())


def good_batch(marks: Iterable[int] = (0,), source: str = "stream") -> pb.EventBatch:
    """A batch with one event for each mark."""
    return pb.EventBatch(source=source, events=[good_event(mark=mark) for mark in marks])


def big_batch(size: int) -> pb.EventBatch:
    """A batch of about `size` bytes."""
    data = json.dumps({"mark": 0, "text": "x" * 1000}).encode()
    padding = [pb.Event(type="big", data_json=data[:-1] + b" " * 100_000 + b"}")] * (size // 100_000)
    return pb.EventBatch(source="big", events=padding)


def ingest(
    channel: grpc.Channel,
    secret: str | Metadata | None,
    batch: pb.EventBatch | None = None,
    wait_for_ready: bool = False,
) -> pb.Receipt:
    """Send one batch, by default a good one, in a unary call. Raises grpc.RpcError."""
    request = pb.IngestEventsRequest(batch=good_batch() if batch is None else batch)
    response = stub_of(channel).IngestEvents(
        request, metadata=metadata(secret), timeout=TIMEOUT_S, wait_for_ready=wait_for_ready
    )
    receipt: pb.Receipt = response.receipt
    return receipt


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The code with which a call ended."""
    assert isinstance(error, grpc.Call)
    code: grpc.StatusCode = error.code()
    return code


def details_of(status: grpc.RpcError | status_pb2.Status) -> Details:
    """The details of a status by their names. Fails if it has no ErrorInfo of Sluice."""
    if isinstance(status, grpc.RpcError):
        assert isinstance(status, grpc.Call)
        found = rpc_status.from_call(status)
        assert found is not None, status
        status = found
    details: dict[str, Message] = {}
    for packed in status.details:
        name = packed.type_url.rpartition(".")[2]
        details[name] = getattr(error_details_pb2, name).FromString(packed.value)
    info: Any = details["ErrorInfo"]
    assert info.domain == "sluice"
    return details


def reason_of(status: grpc.RpcError | status_pb2.Status) -> str:
    """The reason of a status's ErrorInfo."""
    reason: str = details_of(status)["ErrorInfo"].reason
    return reason


class Stream:
    """One open StreamEvents call: `send` and `receive` as the test likes."""

    def __init__(self, channel: grpc.Channel, secret: str | Metadata | None, timeout_s: float = TIMEOUT_S) -> None:
        self._requests: SimpleQueue[pb.StreamEventsRequest | None] = SimpleQueue()
        requests: Iterator[pb.StreamEventsRequest] = iter(self._requests.get, None)
        self.call = stub_of(channel).StreamEvents(requests, metadata=metadata(secret), timeout=timeout_s)

    def send(self, sequence: int, batch: pb.EventBatch, traceparent: str = "") -> None:
        """Send one batch."""
        self._requests.put(pb.StreamEventsRequest(sequence=sequence, batch=batch, traceparent=traceparent))

    def receive(self) -> pb.StreamEventsResponse:
        """The next response. Raises StopIteration at a good end of the stream, and grpc.RpcError at any other."""
        response: pb.StreamEventsResponse = next(self.call)
        return response

    def half_close(self) -> None:
        """Say that no more batches come."""
        self._requests.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.half_close()
        self.call.cancel()


def error_that_ends(stream: Stream) -> grpc.RpcError:
    """The error with which a stream ends now."""
    with pytest.raises(grpc.RpcError) as caught:
        stream.receive()
    return caught.value


def stored_marks(mongo: MongoClient, key: Json) -> list[int]:
    """The marks of the tenant's events, in ascending order."""
    found = mongo.sluice.events.find({"_id.tenant_id": uuid.UUID(key["tenant_id"])}, {"data.mark": 1})
    return sorted(document["data"]["mark"] for document in found)


def marks_stored_once(mongo: MongoClient, key: Json) -> set[int]:
    """The marks of the tenant's events. Fails if one is stored twice."""
    marks = stored_marks(mongo, key)
    assert len(marks) == len(set(marks)), "stored twice"
    return set(marks)
