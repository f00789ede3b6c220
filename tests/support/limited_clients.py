"""Clients of a key with a rate limit, one for each protocol, and what their responses say."""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

import grpc
from google.rpc import status_pb2
from grpc_status import rpc_status
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import Stream, channel_to, details_of, good_batch, metadata, stub_of
from tests.support.harness import Json, Server, batch

EVENTS = "/api/v1/events"

TIMEOUT_S = 60

STREAM_TIMEOUT_S = 600

MAX_WAIT_S = 62
"""How long an admission may cause rejections, and so the longest wait that a response may ask for."""

KEEP_ALIVE_S = 2
"""A connection that was idle for longer is replaced by a new one: the server may be about to close it."""

STORED = "stored"

BAD = "invalid_batch"

REJECTED = "rate_limited"

UNAUTHENTICATED = "unauthenticated"

UNANSWERED = "unanswered"

GOOD_BODY = json.dumps(batch()).encode()

BAD_BODY = json.dumps(batch(0)).encode()

GOOD_MESSAGE = good_batch()

BAD_MESSAGE = pb.EventBatch(source="stream")


class Response(NamedTuple):
    """A response: `code` is STORED or the code of an error; only REST has `headers`."""

    code: str
    wait_s: float | None = None
    headers: Mapping[str, str] = {}


class Attempt(NamedTuple):
    """The response to a request, and the times at which the one was sent and the other arrived."""

    response: Response
    sent: float
    answered: float

    @property
    def code(self) -> str:
        """STORED, an error's code, or UNANSWERED."""
        return self.response.code

    @property
    def admitted(self) -> bool:
        """Whether it used a permit. A bad batch does, too."""
        return self.code in {STORED, BAD}

    @property
    def wait_s(self) -> float:
        """The wait that a rejection asks for."""
        assert self.response.wait_s is not None, self
        return self.response.wait_s


class LimitedClient:
    """Sends one batch at a time over a connection of its own."""

    def __call__(self, good: bool = True) -> Attempt:
        """Send a good or a bad batch, and wait for the response."""
        sent = time.monotonic()
        response = self._send(good)
        return Attempt(response, sent, time.monotonic())

    def _send(self, good: bool) -> Response:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class RestClient(LimitedClient):
    """Posts batches."""

    def __init__(self, server: Server, secret: str) -> None:
        self._connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=TIMEOUT_S)
        self._headers = {"X-API-Key": secret, "Content-Type": "application/json"}
        self._used = time.monotonic()

    def _send(self, good: bool) -> Response:
        if time.monotonic() - self._used > KEEP_ALIVE_S:
            self._connection.close()
        try:
            self._connection.request("POST", EVENTS, GOOD_BODY if good else BAD_BODY, self._headers)
            found = self._connection.getresponse()
            content = found.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return Response(UNANSWERED)
        self._used = time.monotonic()
        headers = {name.lower(): value for name, value in found.getheaders()}
        return rest_response(found.status, headers, json.loads(content))

    def close(self) -> None:
        self._connection.close()


def rest_response(status: int, headers: Mapping[str, str], body: Json) -> Response:
    """What a response over REST says. Fails if it is an error without its required parts."""
    if status == 201:
        assert "retry-after" not in headers
        return Response(STORED, headers=headers)
    assert headers["content-type"] == "application/problem+json"
    assert (body["status"], set(body) >= {"type", "title", "detail", "code"}) == (status, True)
    wait = headers.get("retry-after")
    assert (status in {429, 503}) == (wait is not None)
    assert (status == 429) == (body["code"] == REJECTED)
    if status == 429:
        assert body["detail"] == "Rate limit exceeded"
        assert wait is not None
        assert wait.isdecimal()
        assert 1 <= int(wait) <= MAX_WAIT_S
        assert "errors" not in body
    return Response(body["code"], None if wait is None else float(wait), headers)


class UnaryClient(LimitedClient):
    """Calls IngestEvents."""

    def __init__(self, server: Server, secret: str) -> None:
        self._channel = channel_to(server.grpc)
        self._stub = stub_of(self._channel)
        self._metadata = metadata(secret)

    def _send(self, good: bool) -> Response:
        request = pb.IngestEventsRequest(batch=GOOD_MESSAGE if good else BAD_MESSAGE)
        try:
            self._stub.IngestEvents(request, metadata=self._metadata, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return error_response(error)
        return Response(STORED)

    def close(self) -> None:
        self._channel.close()


class StreamClient(LimitedClient):
    """Sends batches on a stream, and opens another if that has ended."""

    def __init__(self, server: Server, secret: str) -> None:
        self._channel = channel_to(server.grpc)
        self._secret = secret
        self._stream: Stream | None = None
        self._sequence = 0

    def _send(self, good: bool) -> Response:
        return self.send_many([good])[0]

    def send_many(self, batches: Sequence[bool]) -> list[Response]:
        """Send batches without waiting in between, `True` for a good one."""
        if self._stream is None:
            self._stream = Stream(self._channel, self._secret, STREAM_TIMEOUT_S)
        first = self._sequence
        self._sequence += len(batches)
        for number, good in enumerate(batches, first):
            self._stream.send(number, GOOD_MESSAGE if good else BAD_MESSAGE)
        found: list[Response] = []
        try:
            for number in range(first, self._sequence):
                response = self._stream.receive()
                assert response.sequence == number
                found.append(Response(STORED) if response.HasField("receipt") else status_response(response.error))
        except grpc.RpcError as error:
            self._close_stream()
            found.append(error_response(error))
        return found

    def burst(self, count: int) -> list[Attempt]:
        """Send `count` good batches without waiting in between. Fails unless each gets a response."""
        sent = time.monotonic()
        found = self.send_many([True] * count)
        answered = time.monotonic()
        assert len(found) == count
        return [Attempt(response, sent, answered) for response in found]

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.half_close()
            self._stream.call.cancel()
            self._stream = None

    def close(self) -> None:
        self._close_stream()
        self._channel.close()


def error_response(error: grpc.RpcError) -> Response:
    """What the error says with which a call ended."""
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    if status is None:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return Response(UNANSWERED)
    return status_response(status)


def status_response(status: status_pb2.Status) -> Response:
    """What a status says. Fails if it lacks a required part."""
    details = details_of(status)
    reason: str = details["ErrorInfo"].reason
    delay = details["RetryInfo"].retry_delay if "RetryInfo" in details else None
    wait_s = None if delay is None else delay.seconds + delay.nanos / 1e9
    assert (status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]) == (reason == "RATE_LIMITED")
    if reason == "RATE_LIMITED":
        assert status.message == "Rate limit exceeded"
        assert wait_s is not None
        assert 0 < wait_s <= MAX_WAIT_S
        assert "BadRequest" not in details
    return Response(reason.lower(), wait_s)


CLIENTS: dict[str, Callable[[Server, str], LimitedClient]] = {
    "rest": RestClient,
    "unary": UnaryClient,
    "stream": StreamClient,
}


@contextmanager
def open_clients(servers: Sequence[Server], secret: str, **counts: int) -> Iterator[list[LimitedClient]]:
    """Clients of each server, in numbers by protocol: `rest=2, unary=1`. Protocols and servers alternate."""
    with ExitStack() as stack:
        opened: list[LimitedClient] = []
        for number in range(max(counts.values())):
            for protocol, count in counts.items():
                if number < count:
                    opened += [stack.enter_context(closing(CLIENTS[protocol](server, secret))) for server in servers]
        yield opened
