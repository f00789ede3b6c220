"""A proxy in front of the gRPC port of a server that fails as it is told: for streams, which must lose nothing."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from sluice.v1 import event_service_pb2 as pb
from sluice.v1.event_service_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server

from tests.support.grpc_client import channel_to, stub_of

WAIT_NS = 50_000_000
"""For how long a rate limit asks clients to wait: 50 ms. The server's own limit asks for some 60 s."""

STREAMS = 4


class RateLimited(NamedTuple):
    """The batch is sent with this key, whose rate limit is reached."""

    spent_key: str


class Held(NamedTuple):
    """The server stores the batch, but its receipt does not come."""


class UnreliableGrpc(EventServiceServicer):
    """Forwards the batches of streams, one after the other. The first ones fail as `faults` say, one for each batch."""

    def __init__(self, target: str, faults: Sequence[RateLimited | Held | None]) -> None:
        self._target = target
        self.faults = list(faults)
        self.address = ""
        self.is_held = threading.Event()
        """Set when a batch is stored whose receipt does not come."""
        self.released = threading.Event()
        """To be set for the receipt to come."""

    def StreamEvents(  # noqa: N802 (the name is gRPC's)
        self, request_iterator: Iterator[pb.StreamEventsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamEventsResponse]:
        context.send_initial_metadata(())
        metadata = [pair for pair in context.invocation_metadata() if pair[0] == "x-api-key"]
        with channel_to(self._target) as channel:
            for request in request_iterator:
                fault = self.faults.pop(0) if self.faults else None
                key = [("x-api-key", fault.spent_key)] if isinstance(fault, RateLimited) else metadata
                (response,) = stub_of(channel).StreamEvents(iter([request]), metadata=key)
                if isinstance(fault, RateLimited):
                    response = asking_to_wait(response)
                if isinstance(fault, Held):
                    self.is_held.set()
                    self.released.wait()
                yield response


def asking_to_wait(response: pb.StreamEventsResponse) -> pb.StreamEventsResponse:
    """The response of a rate limit, but for how long it asks to wait."""
    for detail in response.error.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            detail.Pack(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=WAIT_NS)))
            return response
    raise AssertionError(response)


@contextmanager
def unreliable_grpc(target: str, *faults: RateLimited | Held | None) -> Iterator[UnreliableGrpc]:
    """A proxy that runs."""
    with ThreadPoolExecutor(STREAMS) as threads:
        server = grpc.server(threads, options=[("grpc.max_receive_message_length", 16 * 1024 * 1024)])
        proxy = UnreliableGrpc(target, faults)
        add_EventServiceServicer_to_server(proxy, server)  # type: ignore[no-untyped-call]
        proxy.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield proxy
        finally:
            proxy.released.set()
            server.stop(None).wait()
