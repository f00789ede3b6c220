"""The three ways into the server, as callers use them: a keep-alive connection, unary calls, and a stream.

Each user has a connection of its own, as callers on different machines have. None of them sends a request twice by
itself: Locust's own HTTP client does so on a connection that broke, and then nobody could tell what was stored.
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

from loadtests.users import responses as answers
from loadtests.users.responses import Answer

SERVICE = "/sluice.v1.EventService"

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""Channels of one process share a connection unless told otherwise, and so a worker of the server."""

SLOW_PIECES = 10
"""A slow client's body arrives in so many pieces."""

BATCH_OF_UNARY, BATCH_OF_STREAM = b"\x0a", b"\x12"
"""The tags of the field `batch`: number 1 of IngestEventsRequest, 2 of StreamEventsRequest."""


class Rest:
    """Posts batches over a connection that is opened when it is needed."""

    def __init__(self, url: str, key: str, timeout_s: float, slow_s: float) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)
        self._key = key
        self._slow_s = slow_s

    def send(self, body: bytes, idempotency_key: str) -> Answer:
        """Post a batch and wait for the answer."""
        headers = {"X-API-Key": self._key, "Content-Type": "application/json", "Content-Length": str(len(body))}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        try:
            self._connection.request("POST", "/api/v1/events", self._pieces(body), headers)
            response = self._connection.getresponse()
            return answers.of_rest(response.status, lowered(response.headers), response.read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Answer("broken", type(error).__name__, detail=str(error))

    def close(self) -> None:
        """Give it up."""
        self._connection.close()

    def _pieces(self, body: bytes) -> bytes | Iterator[bytes]:
        """The body, or its parts with pauses in between."""
        return slowly(body, self._slow_s) if self._slow_s else body


def lowered(headers: http.client.HTTPMessage) -> dict[str, str]:
    """Headers with their names in small letters."""
    return {name.lower(): value for name, value in headers.items()}


def slowly(body: bytes, seconds: float) -> Iterator[bytes]:
    """A body in pieces."""
    length = len(body) // SLOW_PIECES + 1
    for start in range(0, len(body), length):
        time.sleep(seconds / SLOW_PIECES)
        yield body[start : start + length]


class Unary:
    """Calls IngestEvents."""

    def __init__(self, target: str, key: str, timeout_s: float) -> None:
        self._channel = grpc.insecure_channel(target, OWN_CONNECTION)
        self._call: Any = self._channel.unary_unary(f"{SERVICE}/IngestEvents")
        self._metadata = (("x-api-key", key),)
        self._timeout_s = timeout_s

    def send(self, body: bytes, _: str) -> Answer:
        """Send a batch, which has its idempotency key in it, and wait for the answer."""
        try:
            response = self._call(field(BATCH_OF_UNARY, body), metadata=self._metadata, timeout=self._timeout_s)
            return answers.of_receipt(pb.IngestEventsResponse.FromString(response).receipt)
        except grpc.RpcError as error:
            return of_rpc_error(error)

    def close(self) -> None:
        """Give it up."""
        self._channel.close()


class Stream:
    """One StreamEvents call."""

    def __init__(self, target: str, key: str) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self._channel = grpc.insecure_channel(target, OWN_CONNECTION)
        call: Any = self._channel.stream_stream(f"{SERVICE}/StreamEvents")
        self._responses = call(iter(self._requests.get, None), metadata=(("x-api-key", key),))

    def send(self, body: bytes) -> None:
        """Send a batch; its answer comes in turn."""
        self._requests.put(field(BATCH_OF_STREAM, body))

    def receive(self, on_answer: Callable[[Answer], None]) -> Answer:
        """Pass on each answer as it comes. Returns at the stream's end, with what that means to unanswered batches."""
        try:
            for message in self._responses:
                response = pb.StreamEventsResponse.FromString(message)
                refused = response.HasField("error")
                on_answer(answers.of_status(response.error) if refused else answers.of_receipt(response.receipt))
        except grpc.RpcError as error:
            ending = of_rpc_error(error)
            return Answer("broken", ending.status, detail=f"the stream ended: {ending.detail}")
        return Answer("broken", "OK", detail="the stream ended")

    def half_close(self) -> None:
        """Say that no more batches come."""
        self._requests.put(None)

    def close(self) -> None:
        """Give it up."""
        self._responses.cancel()
        self.half_close()
        self._channel.close()


def of_rpc_error(error: grpc.RpcError) -> Answer:
    """What the end of a call means."""
    assert isinstance(error, grpc.Call)
    status = None
    with suppress(ValueError):  # details that contradict the status: not ours
        status = rpc_status.from_call(error)
    if status is not None:
        return answers.of_status(status)
    return Answer("broken", error.code().name, detail=str(error.details())[: answers.DETAIL_CHARACTERS])


def field(tag: bytes, value: bytes) -> bytes:
    """A message with one field, which is a message."""
    return tag + varint(len(value)) + value


def varint(number: int) -> bytes:
    """A number as Protocol Buffers write it: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
