"""REST and gRPC are one service: what is stored, what is answered and what is refused is the same over both.

Each case goes through a POST, a unary call and a stream; what REST makes of it is what the others must make of it, and
the case says enough of it that they cannot all be wrong alike. What each protocol has of its own has its own tests.
"""

import json
import math
import re
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, NamedTuple

import bson
import grpc
import httpx
import pytest
from bson.raw_bson import RawBSONDocument
from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status
from sluice.v1 import event_service_pb2 as pb

from tests.api.test_values import RAW, nested
from tests.support.grpc_client import TIMEOUT_S, Stream, channel_to, details_of, metadata, stub_of
from tests.support.harness import Json, MongoClient, Server, sluice
from tests.support.mongod import Mongod

EVENTS = "/api/v1/events"
AWARE = RAW.with_options(tz_aware=True)
MIB = 1024 * 1024
MAX_TRAILER_BYTES = 4096
ALMOST = 0.85
"""How full trailers are where violations were left out."""

STATUSES = {
    "malformed_json": (400, "INVALID_ARGUMENT"),
    "invalid_batch": (400, "INVALID_ARGUMENT"),
    "invalid_header": (400, "INVALID_ARGUMENT"),
    "unauthenticated": (401, "UNAUTHENTICATED"),
    "insufficient_scope": (403, "PERMISSION_DENIED"),
    "payload_too_large": (413, "INVALID_ARGUMENT"),
    "idempotency_conflict": (422, "ALREADY_EXISTS"),
    "unavailable": (503, "UNAVAILABLE"),
}
"""The contract's table, as far as both protocols know it."""

PREFERENCES = {pb.HANDLING_STRICT: "strict", pb.HANDLING_LENIENT: "lenient", 7: "bogus"}


class Event(NamedTuple):
    """An event: `data` and `metadata` as JSON text, `time` as text and as seconds and nanoseconds."""

    data: str | None = "{}"
    metadata: str | None = None
    time: tuple[str, int, int] | None = None
    type: str = "purchase"

    def text(self) -> str:
        """The event in JSON."""
        fields = {"type": json.dumps(self.type), "data": self.data, "metadata": self.metadata}
        fields["timestamp"] = json.dumps(self.time[0]) if self.time else None
        return "{" + ",".join(f'"{name}":{text}' for name, text in fields.items() if text is not None) + "}"

    def message(self, as_struct: bool) -> pb.Event:
        """The event as a message."""
        event = pb.Event(type=self.type, metadata_json=(self.metadata or "").encode())
        if as_struct:
            event.data.CopyFrom(json_format.Parse(self.data or "", struct_pb2.Struct()))
        elif self.data is not None:
            event.data_json = self.data.encode()
        if self.time:
            event.timestamp.CopyFrom(timestamp_pb2.Timestamp(seconds=self.time[1], nanos=self.time[2]))
        return event


class Case(NamedTuple):
    """A batch and what becomes of it: `code` where it is refused, `paths` of its bad events."""

    events: Sequence[Event] = (Event(),)
    code: str | None = None
    paths: Sequence[str] = ()
    source: str = "backend"
    source_id: str | None = None
    handling: int = pb.HANDLING_UNSPECIFIED
    idempotency_key: str = ""
    as_struct: bool = False
    """Whether to send it in the form with Struct as well: what is stored then equals it in value, not in type."""
    same_detail: bool = True
    """Not where a detail names what only one protocol has: a header, a message."""

    def body(self) -> bytes:
        """The batch in JSON."""
        source_id = "" if self.source_id is None else f'"source_id":{json.dumps(self.source_id)},'
        events = ",".join(event.text() for event in self.events)
        return f'{{"source":{json.dumps(self.source)},{source_id}"events":[{events}]}}'.encode()

    def headers(self) -> dict[str, str]:
        """What REST says in headers."""
        headers = {"Content-Type": "application/json"}
        if self.handling:
            headers["Prefer"] = f"handling={PREFERENCES[self.handling]}"
        if self.idempotency_key:
            headers["Idempotency-Key"] = self.idempotency_key
        return headers

    def message(self, as_struct: bool = False) -> pb.EventBatch:
        """The batch as a message."""
        return pb.EventBatch(
            source=self.source,
            source_id=self.source_id,
            events=[event.message(as_struct) for event in self.events],
            handling=self.handling,  # type: ignore[arg-type]  # a number that is no handling, too
            idempotency_key=self.idempotency_key,
        )


class Stored(NamedTuple):
    """A receipt. `received_at` is what it says of the time, and REST says seconds."""

    ids: list[str]
    tenant_id: str
    source: str
    received_at: datetime
    rejections: list[tuple[str, str]]


class Refused(NamedTuple):
    """An error."""

    code: str
    grpc: str
    detail: str
    violations: list[tuple[str, str]]
    retry_s: int | None = None
    outcome: str | None = None


Outcome = Stored | Refused


# --- the three ways


def by_rest(client: httpx.Client, case: Case) -> Outcome:
    """What a POST makes of it."""
    answer = client.post(EVENTS, content=case.body(), headers=case.headers())
    body = answer.json()
    errors = [(error["path"], error["message"]) for error in body.get("errors", [])]
    if answer.status_code != 201:
        http, grpc_code = STATUSES[body["code"]]
        assert answer.status_code == http
        retry_s = int(answer.headers["Retry-After"]) if "Retry-After" in answer.headers else None
        return Refused(body["code"], grpc_code, body["detail"], errors, retry_s, body.get("outcome"))
    events = body["events"]
    assert body["events_received"] == len(events)
    ((tenant_id, source, received_at),) = {(item["tenant_id"], item["source"], item["received_at"]) for item in events}
    time = datetime.fromisoformat(received_at).replace(tzinfo=UTC)
    return Stored([item["id"] for item in events], tenant_id, source, time, errors)


def by_unary(channel: grpc.Channel, secret: str | None, batch: pb.EventBatch) -> Outcome:
    """What IngestEvents makes of it."""
    try:
        response = stub_of(channel).IngestEvents(
            pb.IngestEventsRequest(batch=batch), metadata=metadata(secret), timeout=TIMEOUT_S
        )
    except grpc.RpcError as error:
        return refusal(status_from(error))
    return receipt(response.receipt)


def by_stream(channel: grpc.Channel, secret: str | None, batch: pb.EventBatch) -> Outcome:
    """What StreamEvents makes of it; unless it ends the stream, a good batch is stored after it."""
    with Stream(channel, secret) as stream:
        stream.send(2**64 - 1, batch)
        stream.send(0, pb.EventBatch(source=AFTER, events=[Event().message(as_struct=False)]))
        stream.half_close()
        try:
            response, after = stream.call
        except grpc.RpcError as error:
            return refusal(status_from(error))
    assert (response.sequence, after.sequence) == (2**64 - 1, 0)
    assert after.receipt.events_received == 1
    return outcome_of(response)


AFTER = "after"
"""The source of the good batch that follows."""


def outcome_of(response: pb.StreamEventsResponse) -> Outcome:
    """What a response on a stream says."""
    return receipt(response.receipt) if response.HasField("receipt") else refusal(response.error)


def receipt(message: pb.Receipt) -> Stored:
    """What a receipt says."""
    assert message.events_received == len(message.event_ids)
    assert not message.replayed
    for rejection in message.rejections:
        assert rejection.path.startswith(f"events[{rejection.index}]")
    rejections = [(item.path, item.message) for item in message.rejections]
    time = message.received_at.ToDatetime(UTC)
    return Stored(list(message.event_ids), message.tenant_id, message.source, time, rejections)


def refusal(status: status_pb2.Status) -> Refused:
    """What a status says."""
    details = details_of(status)
    info = details["ErrorInfo"]
    assert info.reason == info.reason.upper()
    bad = details["BadRequest"].field_violations if "BadRequest" in details else []
    return Refused(
        info.reason.lower(),
        code_pb2.Code.Name(status.code),
        status.message,
        [(item.field, item.description) for item in bad],
        details["RetryInfo"].retry_delay.seconds if "RetryInfo" in details else None,
        info.metadata.get("outcome"),
    )


def status_from(error: grpc.RpcError) -> status_pb2.Status:
    """The status with which a call ended; it is in the trailers and says what they say."""
    assert isinstance(error, grpc.Call)
    status: status_pb2.Status | None = rpc_status.from_call(error)
    assert status is not None, error
    assert status.ByteSize() <= MAX_TRAILER_BYTES
    return status


# --- fixtures


@pytest.fixture(scope="module")
def key(server: Server) -> Json:
    """A key for every case here."""
    return server.create_key("parity", "--rate-limit", "0")


@pytest.fixture(scope="module")
def client(server: Server, key: Json) -> Iterator[httpx.Client]:
    with server.client(key["key"]) as opened:
        yield opened


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server.grpc) as opened:
        yield opened


def take_stored(mongo: MongoClient, key: Json) -> list[Json]:
    """What is stored for the tenant, but for good batches that came after; it is removed."""
    events = mongo.sluice.events
    tenant = {"tenant_id": uuid.UUID(key["tenant_id"])}
    found = list(events.with_options(AWARE).find({**tenant, "source": {"$ne": AFTER}}).sort("_id"))
    events.delete_many(tenant)
    return found


def content_of(document: Json, exact: bool) -> Json:
    """What stands in a stored document but for its id and when it was received; `exact`: objects are their BSON."""
    content: Json = {}
    for name, value in document.items():
        if isinstance(value, RawBSONDocument):
            content[name] = value.raw if exact else bson.decode(value.raw)
        elif name not in {"_id", "received_at"}:
            content[name] = value
    if document["timestamp"] == document["received_at"]:
        content["timestamp"] = "received_at"
    return content


# --- the table

TWO_BAD = [Event('{"n":1}'), Event("[]"), Event("{}"), Event('{"a":1e999}'), Event('{"n":2}', '{"m":1}')]
UGLY = r'{"z":{"$ref":"c","$id":1},"a.b":[{"$set":null}],"":{"":true},"_id":"\u0000","é\"":"\ud83d\ude00","a":-0.0}'
NEW_YEAR = ("2026-01-01T00:00:00.123999Z", 1767225600, 123_999_999)


def one(data: str | None = "{}", *paths: str, **fields: Any) -> Case:
    """A batch of one event, refused if there are paths in it."""
    return Case([Event(data, **fields)], "invalid_batch" if paths else None, [f"events[0]{path}" for path in paths])


def large(count: int, size: int) -> list[Event]:
    """Events with a string of that many characters."""
    return [Event(json.dumps({"s": "x" * size}))] * count


CASES: dict[str, Case] = {
    "minimal": Case(),
    "full": Case([Event(UGLY, UGLY, NEW_YEAR)], source_id="web-1"),
    "names of 255": Case([Event(type="é" * 255)], source="é" * 255, source_id="😀" * 255),
    "source_id empty": Case(source_id=""),
    "source_id of 256": Case(source_id="x" * 256, code="invalid_batch"),
    "source empty": Case(source="", code="invalid_batch"),
    "source of 256": Case(source="é" * 256, code="invalid_batch"),
    "1,000 events": Case([Event(f'{{"n":{n}}}', '{"v":"1"}', NEW_YEAR, f"type-{n}") for n in range(1000)]),
    "0 events": Case([], "invalid_batch"),
    "1,001 events": Case([Event()] * 1001, "invalid_batch"),
    "ugly keys": one(UGLY),
    "order of keys, and repeated ones": one('{"z":1,"a":{"y":1,"x":1,"y":2},"z":3}'),
    "white space": one('\n{\t"a" : [ 1 ,\r\n 2 ] }\n'),
    "numbers": one('{"a":[0,0.0,-0,-0.0,1,1.0,1e5,100000,5e-324,1e-999,9007199254740993,9007199254740993.0]}'),
    "int64 bounds": one('{"a":9223372036854775807,"b":-9223372036854775808}'),
    "metadata null": one(metadata="null"),
    "metadata empty": one(metadata="{}"),
    "doubles": one('{"a":[1.5,-0.0,1e300],"b":{"c":null,"d":true,"e":"é","f":{},"g":[]}}')._replace(as_struct=True),
    "whole numbers as doubles": one('{"a":[0,1,-1,9007199254740992]}')._replace(as_struct=True),
    "1,000 events as doubles": Case([Event(f'{{"n":{n}}}') for n in range(1000)], as_struct=True),
    "NUL in a key of one": one(r'{"a":{"\u0000":1}}', r'.data.a["\u0000"]')._replace(as_struct=True),
    "empty, as either": one("{}")._replace(as_struct=True),
    "100 levels of objects": one(nested(100, '{"a":', "}", "1"), metadata=nested(100, '{"a":', "}", "1")),
    "100 levels of arrays": one(nested(100, "[", "]", "1")),
    "101 levels of objects": one(nested(101, '{"a":', "}", "1"), ".data" + ".a" * 100),
    "101 levels of arrays": one(nested(101, "[", "]", ""), ".data.a" + "[0]" * 99),
    "101 levels of metadata": one("{}", ".metadata" + ".a" * 100, metadata=nested(101, '{"a":', "}", "1")),
    "over 64 bits": one('{"a":[9223372036854775808]}', ".data.a[0]"),
    "under 64 bits": one('{"a":-9223372036854775809}', ".data.a"),
    "long integer": one(f'{{"a":{"1" * 5000}}}', ".data.a"),
    "over 64 bits in metadata": one("{}", ".metadata.a", metadata='{"a":18446744073709551616}'),
    "infinite": one('{"a":1e999}', ".data.a"),
    "infinite in metadata": one("{}", '.metadata["a b"]', metadata='{"a b":-1e999}'),
    "NUL in a key": one(r'{"a\u0000":1}', r'.data["a\u0000"]'),
    "half a pair": one(r'{"a":["\ud800"]}', ".data.a[0]"),
    "half a pair in a key": one(r'{"\udc00":1}', r'.data["\udc00"]'),
    "data an array": one("[]", ".data"),
    "data null": one("null", ".data"),
    "data a string": one('"{}"', ".data"),
    "data missing": one(None, ".data"),
    "metadata an array": one("{}", ".metadata", metadata="[]"),
    "metadata a number": one("{}", ".metadata", metadata="1.5"),
    "type empty": one("{}", ".type", type=""),
    "type of 256": one("{}", ".type", type="é" * 256),
    "type with a NUL": one("{}", type="\0"),
    "time cut to milliseconds": one(time=NEW_YEAR),
    "time before 1970": one(time=("1969-12-31T23:59:59.999999Z", -1, 999_999_000)),
    "1970": one(time=("1970-01-01T00:00:00Z", 0, 0)),
    "year 1": one(time=("0001-01-01T00:00:00Z", -62_135_596_800, 0)),
    "year 9999": one(time=("9999-12-31T23:59:59.999999Z", 253_402_300_799, 999_999_999)),
    "before year 1": one("{}", ".timestamp", time=("0001-01-01T00:00:00+00:01", -62_135_596_860, 0)),
    "after year 9999": one("{}", ".timestamp", time=("9999-12-31T23:59:00-00:01", 253_402_300_800, 0)),
    "many faults in one": one("[]", ".type", type="", metadata="[]"),
    "good and bad": Case(TWO_BAD, "invalid_batch", ["events[1].data", "events[3].data.a"]),
    "150 bad": Case(
        [Event(), *[Event('{"a":1e999}')] * 150], "invalid_batch", [f"events[{n}].data.a" for n in range(1, 101)]
    ),
    "long paths": Case(
        [Event(f'{{"{"k" * 5000}":1e999}}')] * 9, "invalid_batch", [f"events[{n}].data.{'k' * 984}…" for n in range(9)]
    ),
    "paths that take room in trailers": Case(
        [Event(f'{{"{"%" * 5000}":1e999}}')] * 9,
        "invalid_batch",
        [f'events[{n}].data["{"%" * 983}…' for n in range(9)],
    ),
    "strict, by name": Case(TWO_BAD, "invalid_batch", ["events[1].data", "events[3].data.a"], handling=1),
    "lenient, all good": Case(TWO_BAD[::2], handling=pb.HANDLING_LENIENT),
    "lenient, partly good": Case(
        TWO_BAD, paths=["events[1].data", "events[3].data.a"], handling=pb.HANDLING_LENIENT, source_id="7"
    ),
    "lenient, good ones with times": Case(
        [Event("[]"), Event(UGLY, UGLY, NEW_YEAR), Event(type="")],
        paths=["events[0].data", "events[2].type"],
        handling=pb.HANDLING_LENIENT,
    ),
    "lenient, two things wrong with one": Case(
        [
            Event(),
            Event(metadata="3", time=("9999-12-31T23:59:59-00:01", 253_402_300_859, 0)),
        ],
        paths=["events[1].timestamp"],
        handling=pb.HANDLING_LENIENT,
    ),
    "lenient, 150 bad": Case(
        [Event(), *[Event("[]")] * 150],
        paths=[f"events[{n}].data" for n in range(1, 101)],
        handling=pb.HANDLING_LENIENT,
    ),
    "lenient, one too large": Case(
        [*large(1, MIB), Event()], paths=["events[0]"], handling=pb.HANDLING_LENIENT, as_struct=True
    ),
    "lenient, none good": Case([Event("[]")], "invalid_batch", ["events[0].data"], handling=pb.HANDLING_LENIENT),
    "lenient, 0 events": Case([], "invalid_batch", handling=pb.HANDLING_LENIENT),
    "handling bogus": Case(code="invalid_header", handling=7, same_detail=False),
    "handling bogus, and 0 events": Case([], "invalid_header", handling=7, same_detail=False),
    "idempotency key with a space": Case(code="invalid_header", idempotency_key="a b"),
    "idempotency key of 256": Case(code="invalid_header", idempotency_key="x" * 256),
    "idempotency key bad, and 0 events": Case([], "invalid_header", idempotency_key="a b"),
    "idempotency key bad, and over 10 MiB": Case(large(11, MIB - 500), "invalid_header", idempotency_key="a b"),
    "event almost 1 MiB": Case(large(1, MIB - 500), as_struct=True),
    "event over 1 MiB": Case(large(1, MIB), "invalid_batch", ["events[0]"], as_struct=True),
    "batch almost 10 MiB": Case(large(10, MIB - 500)),
    "batch over 10 MiB": Case(large(11, MIB - 500), "payload_too_large", same_detail=False),
    "batch over 32 MiB as BSON": Case([Event(f'{{"a":[{",".join("1" * 4600)}]}}')] * 1000, "payload_too_large"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_parity(client: httpx.Client, channel: grpc.Channel, mongo: MongoClient, key: Json, case: Case) -> None:
    take_stored(mongo, key)
    expected = by_rest(client, case)
    documents = take_stored(mongo, key)
    check_outcome(case, expected, key, documents, to_seconds=True)
    for as_struct in (False, True) if case.as_struct else (False,):
        message = case.message(as_struct)
        for way in (by_unary, by_stream):
            outcome = way(channel, key["key"], message)
            found = take_stored(mongo, key)
            check_outcome(case, outcome, key, found)
            check_same(case, outcome, expected, cut=way is by_unary)
            contents, wanted = ([content_of(item, not as_struct) for item in items] for items in (found, documents))
            assert contents == wanted, (way, as_struct)


def check_outcome(case: Case, outcome: Outcome, key: Json, documents: list[Json], to_seconds: bool = False) -> None:
    """What came of a case is what it says, and what is stored is what the answer says."""
    if isinstance(outcome, Refused):
        assert outcome.code == case.code, outcome
        assert documents == []
        return
    assert case.code is None
    assert [path for path, _ in outcome.rejections] == list(case.paths)
    assert case.paths or len(documents) == len(case.events)
    assert outcome.ids == [str(item["_id"]) for item in documents]
    assert (outcome.tenant_id, outcome.source) == (key["tenant_id"], case.source)
    for item in documents:
        received_at = item["received_at"]
        assert outcome.received_at == (received_at.replace(microsecond=0) if to_seconds else received_at)


def check_same(case: Case, outcome: Outcome, expected: Outcome, cut: bool) -> None:
    """An answer over gRPC is the answer over REST; where it was `cut`, violations may be missing at the end."""
    if isinstance(expected, Stored):
        assert isinstance(outcome, Stored)
        assert outcome.rejections == expected.rejections
        return
    assert isinstance(outcome, Refused)
    assert [path for path, _ in expected.violations] == list(case.paths)
    assert expected.detail.startswith(f"{case.paths[0]}: " if case.paths else "")
    if cut:
        count = len(outcome.violations)
        assert bool(count) == bool(expected.violations)
        expected = expected._replace(violations=expected.violations[:count])
    assert outcome == (expected if case.same_detail else expected._replace(detail=outcome.detail))


# --- what is not a matter of the batch


def by_all(server: Server, secret: str | None) -> list[Outcome]:
    """What a good batch comes to with a key."""
    with server.client(secret) as client, channel_to(server.grpc) as channel:
        batch = Case().message()
        return [by_rest(client, Case()), by_unary(channel, secret, batch), by_stream(channel, secret, batch)]


def unauthenticated(outcomes: Sequence[Outcome]) -> bool:
    """Whether a bad key is the answer, and all of it."""
    return set(map(repr, outcomes)) == {
        repr(Refused("unauthenticated", "UNAUTHENTICATED", "Invalid or missing API key", []))
    }


@pytest.mark.parametrize("secret", [None, "", "secret", "slc_" + "A" * 43, "slc_" + "A" * 4000])
def test_bad_key(server: Server, secret: str | None) -> None:
    assert unauthenticated(by_all(server, secret))


def test_revoked_key_ends_its_streams(server: Server, mongo: MongoClient) -> None:
    key = server.create_key("parity-revoked")
    with channel_to(server.grpc) as channel, Stream(channel, key["key"]) as stream:
        stream.send(1, Case().message())
        assert isinstance(outcome_of(stream.receive()), Stored)
        assert len(take_stored(mongo, key)) == 1
        assert sluice("keys", "revoke", key["id"], *server.database_options).returncode == 0
        assert unauthenticated(by_all(server, key["key"]))
        stream.send(2, Case().message())
        with pytest.raises(grpc.RpcError) as caught:
            stream.receive()
        assert unauthenticated([refusal(status_from(caught.value))])
    assert take_stored(mongo, key) == []


def test_key_without_the_scope(server: Server, mongo: MongoClient) -> None:
    key = server.create_key("parity-reader", "--scope", "events:read")
    expected, *others = by_all(server, key["key"])
    assert isinstance(expected, Refused)
    assert (expected.code, expected.violations) == ("insufficient_scope", [])
    assert "events:write" in expected.detail
    assert others == [expected] * 2
    assert take_stored(mongo, key) == []


def test_idempotency_conflict(client: httpx.Client, channel: grpc.Channel, mongo: MongoClient, key: Json) -> None:
    take_stored(mongo, key)
    name = uuid.uuid4().hex
    assert isinstance(by_rest(client, Case(idempotency_key=name)), Stored)
    assert len(take_stored(mongo, key)) == 1
    for case in (Case(source="other"), Case(handling=pb.HANDLING_LENIENT), Case([Event('{"n":1}')])):
        used = case._replace(idempotency_key=name)
        expected, *others = (
            by_rest(client, used),
            by_unary(channel, key["key"], used.message()),
            by_stream(channel, key["key"], used.message()),
        )
        assert isinstance(expected, Refused)
        assert (expected.code, expected.violations, expected.retry_s) == ("idempotency_conflict", [], None)
        assert others == [expected] * 2
    assert take_stored(mongo, key) == []


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, MongoClient]]:
    """A server whose database can be told to stall."""
    path = tmp_path_factory.mktemp("away")
    with (
        Mongod(path / "db") as mongod,
        mongod.client() as mongo,
        Server(path / "data", "--mongodb-url", mongod.url) as server,
    ):
        yield server, mongo


@pytest.mark.parametrize(("command", "expected"), [("find", "not_stored"), ("insert", "unknown")])
def test_unavailable(away: tuple[Server, MongoClient], command: str, expected: str) -> None:
    server, mongo = away
    secret = server.first_key
    stalling = {"failCommands": [command], "blockConnection": True, "blockTimeMS": 11_000}
    with ExitStack() as stack:
        client, channel = stack.enter_context(server.client(secret)), stack.enter_context(channel_to(server.grpc))
        stream = stack.enter_context(Stream(channel, secret))
        threads = stack.enter_context(ThreadPoolExecutor())
        stream.send(1, Case().message())
        assert isinstance(outcome_of(stream.receive()), Stored)
        mongo.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=stalling)
        stream.send(2, Case().message())
        on_stream = threads.submit(lambda: outcome_of(stream.receive()))
        by_call = threads.submit(by_unary, channel, secret, Case().message())
        outcomes = [by_call.result(), on_stream.result()]
        outcomes.append(by_rest(client, Case()))  # alone: a third insert at once would wait in line, and say so
        mongo.admin.command("configureFailPoint", "failCommand", mode="off")
        first = outcomes[0]
        assert isinstance(first, Refused)
        assert (first.code, first.retry_s, first.outcome) == ("unavailable", 1, expected)
        assert outcomes == [first] * 3
        stream.send(3, Case().message())
        assert isinstance(outcome_of(stream.receive()), Stored)


# --- where the two differ, as they must

OWN_FAULTS = {
    "not JSON": (b"{'a':1}", "data", "JSON is malformed"),
    "empty": (b"", "data", "malformed"),
    "two values": (b"{}{}", "data", "malformed"),
    "not UTF-8": (b'{"a":"\xff"}', "data", "JSON is not UTF-8: invalid start byte at byte 6"),
    "a surrogate in UTF-8": (b'{"a":"\xed\xa0\x80"}', "data", "JSON is not UTF-8"),
    "NaN": (b'{"a":NaN}', "data", "NaN is not a JSON value|byte"),
    "too deep to parse": (b'{"a":' + b"[" * 100_000, "data", "nested too deeply"),
    "metadata not JSON": (b"{", "metadata", "malformed"),
    "metadata not UTF-8": (b"\xff", "metadata", "not UTF-8"),
}


@pytest.mark.parametrize(("text", "field", "message"), OWN_FAULTS.values(), ids=OWN_FAULTS)
def test_malformed_json_is_a_bad_event_over_grpc_and_a_bad_body_over_rest(
    client: httpx.Client, channel: grpc.Channel, mongo: MongoClient, key: Json, text: bytes, field: str, message: str
) -> None:
    take_stored(mongo, key)
    body = b'{"source":"backend","events":[{"type":"a","data":{}},{"type":"a","data":{},"%s":%s}]}'
    answer = client.post(EVENTS, content=body % (field.encode(), text), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")
    bad = pb.Event(type="a", data_json=text) if field == "data" else pb.Event(type="a", data_json=b"{}")
    if field == "metadata":
        bad.metadata_json = text
    batch = pb.EventBatch(source="backend", events=[pb.Event(type="a", data_json=b"{}"), bad])
    for way in (by_unary, by_stream):
        outcome = way(channel, key["key"], batch)
        assert isinstance(outcome, Refused)
        assert outcome.code == "invalid_batch"
        ((path, said),) = outcome.violations
        assert path == f"events[1].{field}"
        assert re.search(message, said)
        assert outcome.detail == f"{path}: {said}"
        assert take_stored(mongo, key) == []
    batch.handling = pb.HANDLING_LENIENT
    outcome = by_unary(channel, key["key"], batch)
    assert isinstance(outcome, Stored)
    assert outcome.rejections == [(path, said)]
    assert len(take_stored(mongo, key)) == 1


def timed(**fields: int) -> pb.Event:
    """An event with that timestamp."""
    return pb.Event(type="a", data_json=b"{}", timestamp=timestamp_pb2.Timestamp(**fields))


def structured(value: Any) -> pb.Event:
    """An event with that in its Struct."""
    event = pb.Event(type="a")
    event.data.update({"a": value})
    return event


MISFITS: dict[str, tuple[pb.Event, str, str]] = {
    "negative nanos": (timed(nanos=-1), "timestamp", "nanos"),
    "nanos of a second": (timed(nanos=10**9), "timestamp", "nanos"),
    "first second": (timed(seconds=-(2**63)), "timestamp", "years 1 to 9999"),
    "last second": (timed(seconds=2**63 - 1), "timestamp", "years 1 to 9999"),
    "NaN in a Struct": (structured([math.nan]), "data.a[0]", "double"),
    "infinity in a Struct": (structured({"b": -math.inf}), "data.a.b", "double"),
    "no payload": (pb.Event(type="a"), "data", "missing"),
}


@pytest.mark.parametrize(("event", "path", "message"), MISFITS.values(), ids=MISFITS)
def test_what_only_messages_can_hold(
    channel: grpc.Channel, mongo: MongoClient, key: Json, event: pb.Event, path: str, message: str
) -> None:
    take_stored(mongo, key)
    for way in (by_unary, by_stream):
        outcome = way(channel, key["key"], pb.EventBatch(source="backend", events=[event]))
        assert isinstance(outcome, Refused)
        assert outcome.code == "invalid_batch"
        ((found, said),) = outcome.violations
        assert found == f"events[0].{path}"
        assert message in said
        assert take_stored(mongo, key) == []


def test_trailers_hold_the_first_violations(channel: grpc.Channel, key: Json) -> None:
    """As many as fit: the stream, whose errors are in messages, has the first 100."""
    batch = CASES["150 bad"].message()
    with pytest.raises(grpc.RpcError) as caught:
        stub_of(channel).IngestEvents(pb.IngestEventsRequest(batch=batch), metadata=metadata(key["key"]))
    status = status_from(caught.value)
    cut, full = refusal(status), by_stream(channel, key["key"], batch)
    assert isinstance(full, Refused)
    assert len(full.violations) == 100
    assert cut == full._replace(violations=full.violations[: len(cut.violations)])
    assert status.ByteSize() > ALMOST * MAX_TRAILER_BYTES
