"""The clients of the three APIs: POSTs on a keep-alive connection, unary calls, and a stream.

Each user has its own connection, like clients on different machines. No client repeats a request by itself. Locust's
own HTTP client does that if a connection breaks, and then the ledger could not say what may be stored.
"""

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import grpc
from grpc_status import rpc_status
from sluice.v1 import event_service_pb2 as pb

from loadtests.users import responses
from loadtests.users.responses import Response

SERVICE = "/sluice.v1.EventService"

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""Without this option, the channels of a process share one connection, and so one worker of the server."""

SLOW_PIECES = 10
"""The pieces in which a slow client sends its body."""

BATCH_OF_UNARY, BATCH_OF_STREAM = b"\x0a", b"\x12"
"""The tags of the field `batch`: it is number 1 of IngestEventsRequest and number 2 of StreamEventsRequest."""


class Rest:
    """Posts batches over one connection, which is opened again if it broke. `slow_s` is the time for a body."""

    def __init__(self, url: str, key: str, timeout_s: float, slow_s: float) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)
        self._key = key
        self._slow_s = slow_s

    def send(self, body: bytes, idempotency_key: str) -> Response:
        """Post a batch and wait for the response."""
        headers = {"X-API-Key": self._key, "Content-Type": "application/json", "Content-Length": str(len(body))}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        try:
            self._connection.request("POST", "/api/v1/events", self._pieces(body), headers)
            response = self._connection.getresponse()
            return responses.of_rest(response.status, lowered(response.headers), response.read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Response("broken", type(error).__name__, detail=str(error))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _pieces(self, body: bytes) -> bytes | Iterator[bytes]:
        """Return the body, or for a slow client its pieces."""
        return slowly(body, self._slow_s) if self._slow_s else body


def lowered(headers: http.client.HTTPMessage) -> dict[str, str]:
    """Return the headers with their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}


def slowly(body: bytes, seconds: float) -> Iterator[bytes]:
    """Yield a body in pieces, with pauses of `seconds` in all."""
    length = len(body) // SLOW_PIECES + 1
    for start in range(0, len(body), length):
        time.sleep(seconds / SLOW_PIECES)
        yield body[start : start + length]


class Unary:
    """Makes unary calls of IngestEvents over one channel."""

    def __init__(self, target: str, key: str, timeout_s: float) -> None:
        self._channel = grpc.insecure_channel(target, OWN_CONNECTION)
        self._call: Any = self._channel.unary_unary(f"{SERVICE}/IngestEvents")
        self._metadata = (("x-api-key", key),)
        self._timeout_s = timeout_s

    def send(self, body: bytes, _: str) -> Response:
        """Send a batch, which contains its idempotency key, and wait for the response."""
        try:
            response = self._call(field(BATCH_OF_UNARY, body), metadata=self._metadata, timeout=self._timeout_s)
            return responses.of_receipt(pb.IngestEventsResponse.FromString(response).receipt)
        except grpc.RpcError as error:
            return of_rpc_error(error)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class Stream:
    """One StreamEvents call."""

    def __init__(self, target: str, key: str) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self._channel = grpc.insecure_channel(target, OWN_CONNECTION)
        call: Any = self._channel.stream_stream(f"{SERVICE}/StreamEvents")
        self._responses = call(iter(self._requests.get, None), metadata=(("x-api-key", key),))

    def send(self, body: bytes) -> None:
        """Send a batch. Responses come in the order of the batches."""
        self._requests.put(field(BATCH_OF_STREAM, body))

    def receive(self, on_response: Callable[[Response], None]) -> Response:
        """Pass on each response until the stream ends. Returns the response that all unanswered batches then have."""
        try:
            for message in self._responses:
                response = pb.StreamEventsResponse.FromString(message)
                rejected = response.HasField("error")
                on_response(responses.of_status(response.error) if rejected else responses.of_receipt(response.receipt))
        except grpc.RpcError as error:
            ending = of_rpc_error(error)
            return Response("broken", ending.status, detail=f"the stream ended: {ending.detail}")
        return Response("broken", "OK", detail="the stream ended")

    def half_close(self) -> None:
        """Tell the server that no more batches follow."""
        self._requests.put(None)

    def close(self) -> None:
        """Cancel the call and close the channel."""
        self._responses.cancel()
        self.half_close()
        self._channel.close()


def of_rpc_error(error: grpc.RpcError) -> Response:
    """Read the error that ended a call."""
    assert isinstance(error, grpc.Call)
    status = None
    with suppress(ValueError):  # raised if the details contradict the status: then they are not the server's
        status = rpc_status.from_call(error)
    if status is not None:
        return responses.of_status(status)
    return Response("broken", error.code().name, detail=str(error.details())[: responses.DETAIL_CHARACTERS])


def field(tag: bytes, value: bytes) -> bytes:
    """Encode a message that has one field, which is a message itself."""
    return tag + varint(len(value)) + value


def varint(number: int) -> bytes:
    """Encode a number as Protocol Buffers do: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
