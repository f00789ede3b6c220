"""Sends many requests while the database is held up, and reads their responses later."""

import http.client
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import TIMEOUT_S, channel_to, details_of, good_event, metadata, stub_of
from tests.support.harness import Json, MongoClient, Server, wait_until
from tests.support.mongod import fail_point

EVENTS = "/api/v1/events"
HOLD = "hangDuringBatchInsert"
"""A fail point of MongoDB: while it is set, inserts into a collection stop where they begin."""

STORED = "stored"
UNAVAILABLE = "unavailable"
INTERNAL = "internal"
INVALID_BATCH = "invalid_batch"
STATUSES = {UNAVAILABLE: 503, INTERNAL: 500, "malformed_json": 400, INVALID_BATCH: 400}

QUIET_LOOKS = 15
"""A process that sleeps whenever it is looked at, this often in a row, has nothing left to do. Looks are counted, and
not the time: after the machine stood still, what was sent may still be on its way."""


class Response(NamedTuple):
    """A response: `code` is STORED or the code of an error; `text` is all that the client could read."""

    code: str
    outcome: str = ""
    ids: Sequence[str] = ()
    text: str = ""


class SentRequest:
    """A request that was sent, and whose response was not read yet."""

    def __init__(self, key: Json, mark: int) -> None:
        self.key = key
        self.mark = mark
        self.at = time.monotonic()

    def response(self) -> Response:
        """Wait for the response."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Close the connection or cancel the call."""
        raise NotImplementedError


class RestRequest(SentRequest):
    """A batch over a REST connection of its own."""

    def __init__(self, server: Server, key: Json, mark: int, **data: object) -> None:
        super().__init__(key, mark)
        self.connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=TIMEOUT_S)
        batch = {"source": "pressure", "events": [{"type": "purchase", "data": {"mark": mark, **data}}]}
        headers = {"X-API-Key": key["key"], "Content-Type": "application/json"}
        self.connection.request("POST", EVENTS, json.dumps(batch), headers)

    def response(self) -> Response:
        try:
            found = self.connection.getresponse()
            return rest_response(found.status, found.headers, found.read())
        finally:
            self.connection.close()

    def abandon(self) -> None:
        self.connection.close()


def rest_response(status: int, headers: http.client.HTTPMessage, content: bytes) -> Response:
    """What a response over REST says. Fails if it is an error without its required parts."""
    body = json.loads(content)
    text = f"{headers}{content.decode()}"
    if status == 201:
        return Response(STORED, ids=[event["id"] for event in body["events"]], text=text)
    assert headers["Content-Type"] == "application/problem+json"
    assert (status, body["status"]) == (STATUSES[body["code"]], status)
    if status == 503:
        assert int(headers["Retry-After"]) >= 1
        assert body["outcome"] in {"not_stored", "unknown"}
    return Response(body["code"], body.get("outcome", ""), text=text)


class UnaryRequest(SentRequest):
    """A batch in a unary call."""

    def __init__(
        self, channel: grpc.Channel, key: Json, mark: int, timeout_s: float = TIMEOUT_S, **data: object
    ) -> None:
        super().__init__(key, mark)
        batch = pb.EventBatch(source="pressure", events=[good_event(mark=mark, **data)])
        request = pb.IngestEventsRequest(batch=batch)
        self.call = stub_of(channel).IngestEvents.future(request, metadata=metadata(key["key"]), timeout=timeout_s)

    def response(self) -> Response:
        return unary_response(self.call)

    def done(self) -> bool:
        """Whether the response has arrived."""
        done: bool = self.call.done()
        return done

    def abandon(self) -> None:
        self.call.cancel()


def unary_response(call: Any) -> Response:
    """The response to a unary call."""
    try:
        response = call.result()
    except grpc.RpcError as error:
        return error_response(error)
    return Response(STORED, ids=list(response.receipt.event_ids))


def error_response(error: grpc.RpcError) -> Response:
    """What the error of a call says. Fails if it lacks a required part."""
    assert isinstance(error, grpc.Call)
    details = details_of(error)
    info = details["ErrorInfo"]
    outcome = info.metadata.get("outcome", "")
    code: str = info.reason.lower()
    expected = {
        UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
        INTERNAL: grpc.StatusCode.INTERNAL,
        INVALID_BATCH: grpc.StatusCode.INVALID_ARGUMENT,
    }
    assert error.code() == expected[code]
    if code == UNAVAILABLE:
        assert details["RetryInfo"].retry_delay.seconds >= 1
        assert outcome in {"not_stored", "unknown"}
    return Response(code, outcome, text=f"{error.details()}{details}")


class Clients:
    """Clients that send single events to `server`, over REST and gRPC. Every event has a mark of its own."""

    def __init__(self, server: Server, channels: int = 1) -> None:
        self.server = server
        self._channels = [channel_to(server.grpc) for _ in range(channels)]
        for channel in self._channels:  # else a quiet server may still have calls to come
            grpc.channel_ready_future(channel).result(TIMEOUT_S)
        self._marks = iter(range(10**9))

    def post(self, key: Json, **data: str) -> SentRequest:
        """Send over REST."""
        return RestRequest(self.server, key, next(self._marks), **data)

    def call(self, key: Json, timeout_s: float = TIMEOUT_S, **data: str) -> UnaryRequest:
        """Send over gRPC. The channels take turns."""
        mark = next(self._marks)
        return UnaryRequest(self._channels[mark % len(self._channels)], key, mark, timeout_s, **data)

    def both(self, key: Json, **data: str) -> list[SentRequest]:
        """Send one event over each protocol."""
        return [self.post(key, **data), self.call(key, TIMEOUT_S, **data)]

    def message(self, key: Json, message: pb.IngestEventsRequest, number: int) -> Response:
        """Send a whole batch over gRPC, and wait for its response."""
        stub = stub_of(self._channels[number % len(self._channels)])
        return unary_response(stub.IngestEvents.future(message, metadata=metadata(key["key"]), timeout=TIMEOUT_S))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()


def responses_of(sent: Sequence[SentRequest]) -> list[Response]:
    """The responses to all requests, in the same order."""
    return [request.response() for request in sent]


def codes(responses: Sequence[Response]) -> Counter[str]:
    """How many responses have each code."""
    return Counter(response.code for response in responses)


@contextmanager
def held_inserts(mongo: MongoClient) -> Iterator[Callable[[], int]]:
    """Hold up every insert of events inside. The value is a function that counts those in flight."""

    def in_flight() -> int:
        return sum(1 for _ in mongo.admin.aggregate([{"$currentOp": {}}, {"$match": {"failpointMsg": HOLD}}]))

    with fail_point(mongo, HOLD, nss="sluice.events"):
        yield in_flight


@contextmanager
def counted_inserts(mongo: MongoClient) -> Iterator[Callable[[], list[int]]]:
    """Count inserts. The value is a function: the events of each insert command so far, in the order they ended."""
    mongo.sluice.drop_collection("system.profile")
    mongo.sluice.command("profile", 2)

    def counts() -> list[int]:
        found = mongo.sluice.system.profile.find({"op": "insert", "ns": "sluice.events"}).sort("$natural", 1)
        return [entry.get("ninserted", 0) for entry in found]

    try:
        yield counts
    finally:
        mongo.sluice.command("profile", 0)


def stored_ids(mongo: MongoClient, key: Json) -> dict[int, str]:
    """The ids of the tenant's marked events by their marks. Fails if one is stored twice."""
    marked = {"_id.tenant_id": uuid.UUID(key["tenant_id"]), "data.mark": {"$exists": True}}
    found = list(mongo.sluice.events.find(marked, {"data.mark": 1}))
    ids = {document["data"]["mark"]: str(document["_id"]["id"]) for document in found}
    assert len(ids) == len(found), "stored twice"
    return ids


def check_stored(mongo: MongoClient, sent: Sequence[SentRequest], responses: Sequence[Response]) -> None:
    """Acknowledged events are stored, once and by their ids. Those of outcome `not_stored` are not."""
    stored = {key["tenant_id"]: stored_ids(mongo, key) for key in {r.key["id"]: r.key for r in sent}.values()}
    for request, response in zip(sent, responses, strict=True):
        found = stored[request.key["tenant_id"]].get(request.mark)
        if response.code == STORED:
            assert [found] == response.ids
        elif response.outcome != "unknown":
            assert found is None, response


def wait_until_quiet(pid: int) -> None:
    """Wait until a process has read all that was sent to it, and sleeps."""
    seen, looks = -1, 0

    def is_quiet() -> bool:
        nonlocal seen, looks
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        looks += 1
        if fields[0] != "S" or ticks > seen + 1:  # one tick more may come from timers
            seen, looks = ticks, 0
        return looks >= QUIET_LOOKS

    wait_until(is_quiet, "a worker that sleeps")


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """The memory of a process in MiB: now (VmRSS), or its highest ever (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024
