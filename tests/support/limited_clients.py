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
"""Within how much time of `limit` admissions a request may be refused, and so the longest wait there is."""

KEEP_ALIVE_S = 2
"""A connection idle for longer is left for a new one: the server may be about to close it."""

STORED = "stored"

BAD = "invalid_batch"

REFUSED = "rate_limited"

UNAUTHENTICATED = "unauthenticated"

UNANSWERED = "unanswered"

GOOD_BODY = json.dumps(batch()).encode()

BAD_BODY = json.dumps(batch(0)).encode()

GOOD_MESSAGE = good_batch()

BAD_MESSAGE = pb.EventBatch(source="stream")


class Said(NamedTuple):
    """What an answer says: `code` is STORED or an error's; `headers` are REST's."""

    code: str
    wait_s: float | None = None
    headers: Mapping[str, str] = {}


class Answer(NamedTuple):
    """What came of a request, and between which two moments."""

    said: Said
    sent: float
    answered: float

    @property
    def code(self) -> str:
        """STORED, an error's code, or UNANSWERED."""
        return self.said.code

    @property
    def admitted(self) -> bool:
        """Whether it counts: a bad batch does, too."""
        return self.code in {STORED, BAD}

    @property
    def wait_s(self) -> float:
        """How long the refused are told to wait."""
        assert self.said.wait_s is not None, self
        return self.said.wait_s


class Caller:
    """Sends one batch at a time over a connection of its own."""

    def __call__(self, good: bool = True) -> Answer:
        """Send a batch, or a bad one, and wait for what is said."""
        sent = time.monotonic()
        said = self._ask(good)
        return Answer(said, sent, time.monotonic())

    def _ask(self, good: bool) -> Said:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class RestCaller(Caller):
    """Posts batches."""

    def __init__(self, server: Server, secret: str) -> None:
        self._connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=TIMEOUT_S)
        self._headers = {"X-API-Key": secret, "Content-Type": "application/json"}
        self._used = time.monotonic()

    def _ask(self, good: bool) -> Said:
        if time.monotonic() - self._used > KEEP_ALIVE_S:
            self._connection.close()
        try:
            self._connection.request("POST", EVENTS, GOOD_BODY if good else BAD_BODY, self._headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return Said(UNANSWERED)
        self._used = time.monotonic()
        headers = dict(response.getheaders())
        headers = {name.lower(): value for name, value in headers.items()}
        return rest_said(response.status, headers, json.loads(content))

    def close(self) -> None:
        self._connection.close()


def rest_said(status: int, headers: Mapping[str, str], body: Json) -> Said:
    """What an answer over REST says. A refusal is checked to be as it must."""
    if status == 201:
        assert "retry-after" not in headers
        return Said(STORED, headers=headers)
    assert headers["content-type"] == "application/problem+json"
    assert (body["status"], set(body) >= {"type", "title", "detail", "code"}) == (status, True)
    wait = headers.get("retry-after")
    assert (status in {429, 503}) == (wait is not None)
    assert (status == 429) == (body["code"] == REFUSED)
    if status == 429:
        assert body["detail"] == "Rate limit exceeded"
        assert wait is not None
        assert wait.isdecimal()
        assert 1 <= int(wait) <= MAX_WAIT_S
        assert "errors" not in body
    return Said(body["code"], None if wait is None else float(wait), headers)


class UnaryCaller(Caller):
    """Calls IngestEvents."""

    def __init__(self, server: Server, secret: str) -> None:
        self._channel = channel_to(server.grpc)
        self._stub = stub_of(self._channel)
        self._metadata = metadata(secret)

    def _ask(self, good: bool) -> Said:
        request = pb.IngestEventsRequest(batch=GOOD_MESSAGE if good else BAD_MESSAGE)
        try:
            self._stub.IngestEvents(request, metadata=self._metadata, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return ended_said(error)
        return Said(STORED)

    def close(self) -> None:
        self._channel.close()


class StreamCaller(Caller):
    """Sends batches on one stream, and on another when that one has ended."""

    def __init__(self, server: Server, secret: str) -> None:
        self._channel = channel_to(server.grpc)
        self._secret = secret
        self._stream: Stream | None = None
        self._sequence = 0

    def _ask(self, good: bool) -> Said:
        return self.ask_many([good])[0]

    def ask_many(self, batches: Sequence[bool]) -> list[Said]:
        """Send that many batches at once."""
        if self._stream is None:
            self._stream = Stream(self._channel, self._secret, STREAM_TIMEOUT_S)
        first = self._sequence
        self._sequence += len(batches)
        for number, good in enumerate(batches, first):
            self._stream.send(number, GOOD_MESSAGE if good else BAD_MESSAGE)
        found: list[Said] = []
        try:
            for number in range(first, self._sequence):
                response = self._stream.receive()
                assert response.sequence == number
                found.append(Said(STORED) if response.HasField("receipt") else status_said(response.error))
        except grpc.RpcError as error:
            self._leave()
            found.append(ended_said(error))
        return found

    def burst(self, count: int) -> list[Answer]:
        """Send that many good batches at once; each must be answered."""
        sent = time.monotonic()
        found = self.ask_many([True] * count)
        answered = time.monotonic()
        assert len(found) == count
        return [Answer(said, sent, answered) for said in found]

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.half_close()
            self._stream.call.cancel()
            self._stream = None

    def close(self) -> None:
        self._leave()
        self._channel.close()


def ended_said(error: grpc.RpcError) -> Said:
    """What the end of a call says."""
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    if status is None:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return Said(UNANSWERED)
    return status_said(status)


def status_said(status: status_pb2.Status) -> Said:
    """What a status says. A refusal is checked to be as it must."""
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
    return Said(reason.lower(), wait_s)


WAYS: dict[str, Callable[[Server, str], Caller]] = {"rest": RestCaller, "unary": UnaryCaller, "stream": StreamCaller}


@contextmanager
def callers(servers: Sequence[Server], secret: str, **counts: int) -> Iterator[list[Caller]]:
    """For each server, that many callers by each way: `rest=2, unary=1`. They take turns, the ways and the servers."""
    with ExitStack() as stack:
        opened: list[Caller] = []
        for number in range(max(counts.values())):
            for way, count in counts.items():
                if number < count:
                    opened += [stack.enter_context(closing(WAYS[way](server, secret))) for server in servers]
        yield opened
