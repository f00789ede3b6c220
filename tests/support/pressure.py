"""Requests in numbers while the database is held up: sent now, answered later. And what a worker makes of them."""

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
"""MongoDB's own: inserts into a collection stop where they begin, for as long as it is set."""

STORED = "stored"
UNAVAILABLE = "unavailable"
INTERNAL = "internal"
STATUSES = {UNAVAILABLE: 503, INTERNAL: 500, "malformed_json": 400}

QUIET_S = 0.3
"""A process that sleeps for so long has nothing left to do."""


class Said(NamedTuple):
    """What a request was answered: `code` is STORED or an error's; `text` is all that the caller could read."""

    code: str
    outcome: str = ""
    ids: Sequence[str] = ()
    text: str = ""


class Sent:
    """A request that was sent, and whose answer is yet to be read."""

    def __init__(self, key: Json, mark: int) -> None:
        self.key = key
        self.mark = mark
        self.at = time.monotonic()

    def answer(self) -> Said:
        """Wait for it."""
        raise NotImplementedError

    def leave(self) -> None:
        """Go away."""
        raise NotImplementedError


class Posted(Sent):
    """A batch over a REST connection of its own."""

    def __init__(self, server: Server, key: Json, mark: int, **data: object) -> None:
        super().__init__(key, mark)
        self.connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=TIMEOUT_S)
        batch = {"source": "pressure", "events": [{"type": "purchase", "data": {"mark": mark, **data}}]}
        headers = {"X-API-Key": key["key"], "Content-Type": "application/json"}
        self.connection.request("POST", EVENTS, json.dumps(batch), headers)

    def answer(self) -> Said:
        try:
            response = self.connection.getresponse()
            return rest_said(response.status, response.headers, response.read())
        finally:
            self.connection.close()

    def leave(self) -> None:
        self.connection.close()


def rest_said(status: int, headers: http.client.HTTPMessage, content: bytes) -> Said:
    """What an answer over REST says. An error is checked to be as it must."""
    body = json.loads(content)
    text = f"{headers}{content.decode()}"
    if status == 201:
        return Said(STORED, ids=[event["id"] for event in body["events"]], text=text)
    assert headers["Content-Type"] == "application/problem+json"
    assert (status, body["status"]) == (STATUSES[body["code"]], status)
    if status == 503:
        assert int(headers["Retry-After"]) >= 1
        assert body["outcome"] in {"not_stored", "unknown"}
    return Said(body["code"], body.get("outcome", ""), text=text)


class Called(Sent):
    """A batch in a unary call."""

    def __init__(
        self, channel: grpc.Channel, key: Json, mark: int, timeout_s: float = TIMEOUT_S, **data: object
    ) -> None:
        super().__init__(key, mark)
        batch = pb.EventBatch(source="pressure", events=[good_event(mark=mark, **data)])
        request = pb.IngestEventsRequest(batch=batch)
        self.call = stub_of(channel).IngestEvents.future(request, metadata=metadata(key["key"]), timeout=timeout_s)

    def answer(self) -> Said:
        return called_said(self.call)

    def done(self) -> bool:
        """Whether the answer is there."""
        done: bool = self.call.done()
        return done

    def leave(self) -> None:
        self.call.cancel()


def called_said(call: Any) -> Said:
    """What a unary call says, once it has its answer."""
    try:
        response = call.result()
    except grpc.RpcError as error:
        return ended_said(error)
    return Said(STORED, ids=list(response.receipt.event_ids))


def ended_said(error: grpc.RpcError) -> Said:
    """What the end of a call says. It is checked to be as it must."""
    assert isinstance(error, grpc.Call)
    details = details_of(error)
    info = details["ErrorInfo"]
    outcome = info.metadata.get("outcome", "")
    code: str = info.reason.lower()
    expected = {UNAVAILABLE: grpc.StatusCode.UNAVAILABLE, INTERNAL: grpc.StatusCode.INTERNAL}
    assert error.code() == expected[code]
    if code == UNAVAILABLE:
        assert details["RetryInfo"].retry_delay.seconds >= 1
        assert outcome in {"not_stored", "unknown"}
    return Said(code, outcome, text=f"{error.details()}{details}")


class Senders:
    """Ways to send single events to `server`, over REST and over gRPC; every event has a mark of its own."""

    def __init__(self, server: Server, channels: int = 1) -> None:
        self.server = server
        self._channels = [channel_to(server.grpc) for _ in range(channels)]
        self._marks = iter(range(10**9))

    def post(self, key: Json, **data: str) -> Sent:
        """Over REST."""
        return Posted(self.server, key, next(self._marks), **data)

    def call(self, key: Json, timeout_s: float = TIMEOUT_S, **data: str) -> Called:
        """Over gRPC; the channels take turns."""
        mark = next(self._marks)
        return Called(self._channels[mark % len(self._channels)], key, mark, timeout_s, **data)

    def both(self, key: Json, **data: str) -> list[Sent]:
        """One over each."""
        return [self.post(key, **data), self.call(key, TIMEOUT_S, **data)]

    def message(self, key: Json, message: pb.IngestEventsRequest, number: int) -> Said:
        """A whole batch over gRPC, and its answer."""
        stub = stub_of(self._channels[number % len(self._channels)])
        return called_said(stub.IngestEvents.future(message, metadata=metadata(key["key"]), timeout=TIMEOUT_S))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()


def answers(sent: Sequence[Sent]) -> list[Said]:
    """The answers to all."""
    return [request.answer() for request in sent]


def codes(said: Sequence[Said]) -> Counter[str]:
    """How many answers there are of each code."""
    return Counter(answer.code for answer in said)


@contextmanager
def held_inserts(mongo: MongoClient) -> Iterator[Callable[[], int]]:
    """Hold up every insert of events inside; the value says how many are under way."""

    def under_way() -> int:
        return sum(1 for _ in mongo.admin.aggregate([{"$currentOp": {}}, {"$match": {"failpointMsg": HOLD}}]))

    with fail_point(mongo, HOLD, nss="sluice.events"):
        yield under_way


@contextmanager
def counted_inserts(mongo: MongoClient) -> Iterator[Callable[[], list[int]]]:
    """Count: the value gives, for every insert command since, how many events it stored, in the order they ended."""
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
    """The ids of the tenant's marked events by their marks, each stored once."""
    marked = {"tenant_id": uuid.UUID(key["tenant_id"]), "data.mark": {"$exists": True}}
    found = list(mongo.sluice.events.find(marked, {"data.mark": 1}))
    ids = {document["data"]["mark"]: str(document["_id"]) for document in found}
    assert len(ids) == len(found), "stored twice"
    return ids


def check_stored(mongo: MongoClient, sent: Sequence[Sent], said: Sequence[Said]) -> None:
    """What was acknowledged is stored, once and by its id; what is said not to be stored is not."""
    stored = {key["tenant_id"]: stored_ids(mongo, key) for key in {r.key["id"]: r.key for r in sent}.values()}
    for request, answer in zip(sent, said, strict=True):
        found = stored[request.key["tenant_id"]].get(request.mark)
        if answer.code == STORED:
            assert [found] == answer.ids
        elif answer.outcome != "unknown":
            assert found is None, answer


def wait_until_quiet(pid: int) -> None:
    """Wait until a process has taken in all that was sent to it, and waits itself."""
    seen = (-1, 0.0)

    def is_quiet() -> bool:
        nonlocal seen
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        if fields[0] != "S" or ticks > seen[0] + 1:  # a tick: timers go on
            seen = (ticks, time.monotonic())
        return time.monotonic() - seen[1] > QUIET_S

    wait_until(is_quiet, "a worker at rest")


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """The memory that a process has now, or had at most (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024
