"""gRPC for the tests: channels, one open stream, load over streams, and what a status says."""

import json
import sys
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status
from sluice.v1 import event_service_pb2 as pb
from sluice.v1.event_service_pb2_grpc import EventServiceStub

from tests.support.load import Callers

TIMEOUT_S = 60

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""Channels to one address share a connection unless told not to, and so a worker."""

Details = dict[str, Any]


def channel_to(target: str) -> grpc.Channel:
    """A channel with a connection of its own."""
    return grpc.insecure_channel(target, options=OWN_CONNECTION)


def stub_of(channel: Any) -> Any:
    """The generated stub."""
    return EventServiceStub(channel)  # type: ignore[no-untyped-call]


def health_of(channel: grpc.Channel) -> Any:
    """The stub of the health service."""
    return HealthStub(channel)


def metadata(secret: str | None) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata of a call with the key."""
    return () if secret is None else (("x-api-key", secret),)


def good_event(**data: Any) -> pb.Event:
    """An event."""
    return pb.Event(type="purchase", data_json=json.dumps(data).encode())


def good_batch(marks: Iterable[int] = (0,), source: str = "stream") -> pb.EventBatch:
    """A batch of an event for each mark."""
    return pb.EventBatch(source=source, events=[good_event(mark=mark) for mark in marks])


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """With which code a call ended."""
    assert isinstance(error, grpc.Call)
    code: grpc.StatusCode = error.code()
    return code


def details_of(status: grpc.RpcError | status_pb2.Status) -> Details:
    """The details of a status by their names. An ErrorInfo is checked to be ours."""
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

    def __init__(self, channel: grpc.Channel, secret: str | None, timeout_s: float = TIMEOUT_S) -> None:
        self._requests: SimpleQueue[pb.StreamEventsRequest | None] = SimpleQueue()
        requests: Iterator[pb.StreamEventsRequest] = iter(self._requests.get, None)
        self.call = stub_of(channel).StreamEvents(requests, metadata=metadata(secret), timeout=timeout_s)

    def send(self, sequence: int, batch: pb.EventBatch) -> None:
        """Send one batch."""
        self._requests.put(pb.StreamEventsRequest(sequence=sequence, batch=batch))

    def receive(self) -> pb.StreamEventsResponse:
        """The next response. Raises StopIteration at the end, and grpc.RpcError where that is not OK."""
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


class StreamLoad(Callers):
    """Streams that send batches until told to stop or ended by the server."""

    def __init__(self, target: str, secret: str, streams: int = 4, events: int = 5, window: int = 8) -> None:
        super().__init__(streams, events)
        self.target = target
        self.secret = secret
        self.window = window
        self.errors: list[status_pb2.Status] = []
        self.endings: list[grpc.RpcError | None] = []

    def _run(self) -> None:
        with channel_to(self.target) as channel, Stream(channel, self.secret) as stream:
            unanswered = [self._send(stream, sequence) for sequence in range(self.window)]
            ending = None
            try:
                for answered, response in enumerate(stream.call):
                    assert response.sequence == answered
                    marks = unanswered.pop(0)
                    with self._lock:
                        if response.HasField("receipt"):
                            self.acknowledged_marks.update(marks)
                        else:
                            self.errors.append(response.error)
                    if self._stop.is_set():
                        stream.half_close()
                    else:
                        unanswered.append(self._send(stream, answered + self.window))
                assert not unanswered, "ended well without an answer to each"
            except grpc.RpcError as error:
                ending = error
            with self._lock:
                self.endings.append(ending)

    def _send(self, stream: Stream, sequence: int) -> list[int]:
        marks = self._new_marks()
        stream.send(sequence, good_batch(marks))
        return marks


def main(target: str, secret: str) -> None:
    """Stream for ever, printing the mark of every event acknowledged: a process to be killed."""
    with channel_to(target) as channel, Stream(channel, secret, 600) as stream:
        for mark in range(8):
            stream.send(mark, good_batch([mark]))
        for response in stream.call:
            sys.stdout.write(f"{response.sequence}\n")
            sys.stdout.flush()
            mark = response.sequence + 8
            stream.send(mark, good_batch([mark]))


if __name__ == "__main__":
    main(*sys.argv[1:])
