"""A batch sent again under its idempotency key: one set of events, one receipt, whoever takes it, whatever crashes."""

import json
import os
import secrets
import signal
import string
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from threading import Barrier
from typing import NamedTuple

import bson
import grpc
import httpx
import pytest
from google.rpc import code_pb2
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import TIMEOUT_S, Stream, channel_to, code_of, metadata, reason_of, stub_of
from tests.support.harness import Json, MongoClient, Server, batch, event, wait_until
from tests.support.mongod import Mongod

EVENTS = "/api/v1/events"
CONFLICT = "idempotency_conflict"
JSON_TYPE = {"Content-Type": "application/json"}

HANG_MS = 15_000
"""How long a write hangs: longer than a request may take. No other can be made to hang meanwhile."""

VISIBLE = string.ascii_letters + string.digits + string.punctuation


class Answer(NamedTuple):
    """A receipt as far as both protocols have it: REST says seconds."""

    ids: list[str]
    tenant_id: str
    source: str
    received_at: datetime
    errors: list[tuple[str, str]]
    replayed: bool

    @property
    def receipt(self) -> "Answer":
        """All of it but the mark of a replay."""
        return self._replace(replayed=False)


class Caller:
    """One tenant's caller of one host, with connections of its own."""

    def __init__(self, server: Server, key: Json) -> None:
        self.server = server
        self.secret: str = key["key"]
        self._stack = ExitStack()
        self.client = self._stack.enter_context(server.client(self.secret))
        self.channel = self._stack.enter_context(channel_to(server.grpc))

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def post(self, sent: Json | str, key: str | None, lenient: bool = False) -> httpx.Response:
        """POST a batch, which may be JSON as text."""
        headers = {**JSON_TYPE, **({"Prefer": "handling=lenient"} if lenient else {})}
        content = sent if isinstance(sent, str) else json.dumps(sent)
        return self.client.post(
            EVENTS, content=content, headers={**headers, **({} if key is None else {"Idempotency-Key": key})}
        )

    def rest(self, sent: Json | str, key: str | None, lenient: bool = False) -> Answer | str:
        """What a POST gets: a receipt, or the code of an error."""
        return answer_of(self.post(sent, key, lenient))

    def unary(self, sent: Json, key: str | None, lenient: bool = False) -> Answer | str:
        """What a unary call gets."""
        request = pb.IngestEventsRequest(batch=message_of(sent, key, lenient))
        try:
            done = stub_of(self.channel).IngestEvents(request, metadata=metadata(self.secret), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return code_for(reason_of(error), code_of(error) == grpc.StatusCode.ALREADY_EXISTS)
        return answer_of_message(done.receipt)

    def stream(self, sent: Json, key: str | None, lenient: bool = False) -> Answer | str:
        """What a batch on a stream gets."""
        with Stream(self.channel, self.secret) as stream:
            stream.send(1, message_of(sent, key, lenient))
            return answer_of_response(stream.receive())


WAYS: dict[str, Callable[..., Answer | str]] = {"REST": Caller.rest, "unary": Caller.unary, "stream": Caller.stream}


def answer_of(response: httpx.Response) -> Answer | str:
    """What a response says."""
    body = response.json()
    if response.status_code != 201:
        code: str = body["code"]
        assert (response.status_code == 422) == (code == CONFLICT)
        assert "Idempotent-Replayed" not in response.headers
        return code
    assert response.headers.get("Idempotent-Replayed") in {None, "true"}
    events = body["events"]
    assert body["events_received"] == len(events)
    ((tenant_id, source, received_at),) = {(item["tenant_id"], item["source"], item["received_at"]) for item in events}
    return Answer(
        [item["id"] for item in events],
        tenant_id,
        source,
        datetime.fromisoformat(received_at).replace(tzinfo=UTC),
        [(item["path"], item["message"]) for item in body.get("errors", [])],
        "Idempotent-Replayed" in response.headers,
    )


def answer_of_message(receipt: pb.Receipt) -> Answer:
    """What a receipt over gRPC says."""
    return Answer(
        list(receipt.event_ids),
        receipt.tenant_id,
        receipt.source,
        receipt.received_at.ToDatetime(UTC).replace(microsecond=0),
        [(item.path, item.message) for item in receipt.rejections],
        receipt.replayed,
    )


def answer_of_response(response: pb.StreamEventsResponse) -> Answer | str:
    """What a response on a stream says."""
    if response.HasField("receipt"):
        return answer_of_message(response.receipt)
    return code_for(reason_of(response.error), response.error.code == code_pb2.ALREADY_EXISTS)


def code_for(reason: str, already_exists: bool) -> str:
    """The code of an error over gRPC, whose status fits it."""
    assert already_exists == (reason == CONFLICT.upper())
    return reason.lower()


def message_of(sent: Json, key: str | None, lenient: bool = False) -> pb.EventBatch:
    """A batch as a message."""
    handling = pb.HANDLING_LENIENT if lenient else pb.HANDLING_UNSPECIFIED
    message = pb.EventBatch(source=sent["source"], source_id=sent.get("source_id"), handling=handling)
    message.idempotency_key = key or ""
    for item in sent["events"]:
        added = message.events.add(type=item["type"], data_json=json.dumps(item["data"]).encode())
        if item.get("metadata") is not None:
            added.metadata_json = json.dumps(item["metadata"]).encode()
        if item.get("timestamp") is not None:
            added.timestamp.FromDatetime(datetime.fromisoformat(item["timestamp"]))
    return message


def good(answer: Answer | str, replayed: bool) -> Answer:
    """The receipt, which it must be, with or without the mark of a replay."""
    assert isinstance(answer, Answer), answer
    assert answer.replayed is replayed
    return answer.receipt


def new_key() -> str:
    return secrets.token_hex(8)


def stored(mongo: MongoClient, key: Json) -> list[Json]:
    """What is stored for the tenant, by id."""
    return list(mongo.sluice.events.find({"tenant_id": uuid.UUID(key["tenant_id"])}, sort=[("_id", 1)]))


def stored_ids(mongo: MongoClient, key: Json) -> list[str]:
    return [str(item["_id"]) for item in stored(mongo, key)]


def claims(mongo: MongoClient, key: Json) -> list[Json]:
    """The claims of the tenant."""
    return list(mongo.sluice.claims.find({"tenant_id": uuid.UUID(key["tenant_id"])}))


@pytest.fixture(scope="module")
def key(server: Server) -> Json:
    """A key for all tests here that do with one tenant: to make one takes longer than most of them."""
    return server.create_key("idempotency", "--rate-limit", "0")


@pytest.fixture(scope="module")
def connected(server: Server, key: Json) -> Iterator[Caller]:
    with Caller(server, key) as opened:
        yield opened


@pytest.fixture
def caller(connected: Caller, mongo: MongoClient, key: Json) -> Caller:
    """The tenant's caller, with nothing stored or claimed."""
    for collection in (mongo.sluice.events, mongo.sluice.claims):
        collection.delete_many({"tenant_id": uuid.UUID(key["tenant_id"])})
    return connected


# --- the same batch


@pytest.mark.parametrize("first", WAYS.values(), ids=WAYS)
def test_a_repeat_gets_the_same_receipt_over_every_protocol(
    caller: Caller, mongo: MongoClient, key: Json, first: Callable[..., Answer | str]
) -> None:
    name = new_key()
    full = event(timestamp="2026-03-01T14:00:00.123+02:00", metadata={"sdk": "1.2", "n": [1, 1.0, None]})
    sent = {"source": "etl", "source_id": "7", "events": [full, event(1), event(2, metadata=None)]}
    receipt = good(first(caller, sent, name), replayed=False)
    before = stored(mongo, key)
    for way in (*WAYS.values(), first):
        assert good(way(caller, sent, name), replayed=True) == receipt
    assert (len(receipt.ids), receipt.tenant_id, receipt.source) == (3, key["tenant_id"], "etl")
    assert stored(mongo, key) == before
    assert [str(item["_id"]) for item in before] == receipt.ids == sorted(receipt.ids)
    assert {item["received_at"].replace(microsecond=0) for item in before} == {receipt.received_at}
    assert len(claims(mongo, key)) == 1


def test_received_at_is_the_same_to_the_millisecond(caller: Caller) -> None:
    request = pb.IngestEventsRequest(batch=message_of(batch(2), new_key()))
    ingest = stub_of(caller.channel).IngestEvents
    first, second = (ingest(request, metadata=metadata(caller.secret)).receipt for _ in range(2))
    assert (first.replayed, second.replayed) == (False, True)
    second.replayed = False
    assert first == second


def test_a_thousand_events(caller: Caller, mongo: MongoClient, key: Json) -> None:
    name, sent = new_key(), batch(1000)
    before = good(caller.rest(batch(), None), replayed=False).ids
    receipts = [good(way(caller, sent, name), replayed=index > 0) for index, way in enumerate(WAYS.values())]
    after = good(caller.unary(batch(), None), replayed=False).ids
    assert receipts[0] == receipts[1] == receipts[2]
    ids = [*before, *receipts[0].ids, *after]
    assert len(ids) == len(set(ids)) == 1002
    assert ids == sorted(ids) == stored_ids(mongo, key)
    assert {uuid.UUID(item).version for item in ids} == {7}
    assert [item["data"]["index"] for item in stored(mongo, key)[1:-1]] == list(range(1000))


def test_repeats_in_one_stream(caller: Caller, mongo: MongoClient, key: Json) -> None:
    """They are under way at the same time, so any of them may be the first to claim."""
    with Stream(caller.channel, caller.secret) as stream:
        for sequence in range(40):
            stream.send(sequence, message_of(batch(5), "a"))
        stream.half_close()
        responses = list(stream.call)
    assert [response.sequence for response in responses] == list(range(40))
    one_receipt([answer_of_response(response) for response in responses], stored_ids(mongo, key))


def test_without_a_key_nothing_is_taken_for_a_repeat(caller: Caller, mongo: MongoClient, key: Json) -> None:
    sent = batch(2)
    ids = [good(way(caller, sent, None), replayed=False).ids for way in (*WAYS.values(), *WAYS.values())]
    assert sorted(chain(*ids)) == stored_ids(mongo, key)
    assert len(stored(mongo, key)) == 12
    assert claims(mongo, key) == []


EVENT = '{"type":"a","data":{"n":1,"o":{"b":[1,{"d":1.5,"c":true}],"a":"é"}}}'

EQUAL = {
    "order of keys": (EVENT, '{"data":{"o":{"a":"é","b":[1,{"c":true,"d":1.5}]},"n":1},"type":"a"}'),
    "white space and escapes": (EVENT, EVENT.replace(",", " ,\n").replace("é", "\\u00e9")),
    "repeated keys": (EVENT, EVENT.replace('"n":1', '"n":2,"n":1')),
    "spelling of doubles": ('{"type":"a","data":{"n":[1.5,100.0,0.0]}}', '{"type":"a","data":{"n":[15e-1,1E2,0e5]}}'),
    "minus zero as an integer": ('{"type":"a","data":{"n":0}}', '{"type":"a","data":{"n":-0}}'),
    "metadata null": (EVENT, '{"metadata":null,' + EVENT[1:]),
    "timestamp null": (EVENT, '{"timestamp":null,' + EVENT[1:]),
    "spelling of a time": (
        '{"timestamp":"2026-03-01T12:00:00.123Z",' + EVENT[1:],
        '{"timestamp":"20260301T140000.123999+0200",' + EVENT[1:],
    ),
    "what only the slow path reads": (EVENT, EVENT.replace("1.5", "1.5" + "0" * 400)),
}

OTHER = {
    "another value": (EVENT, EVENT.replace("é", "è")),
    "a double for an integer": (EVENT, EVENT.replace('"n":1', '"n":1.0')),
    "a string for an integer": (EVENT, EVENT.replace('"n":1', '"n":"1"')),
    "true for 1": (EVENT, EVENT.replace("true", "1")),
    "the sign of zero": ('{"type":"a","data":{"n":0.0}}', '{"type":"a","data":{"n":-0.0}}'),
    "the last of 64 bits": (
        '{"type":"a","data":{"n":9223372036854775807}}',
        '{"type":"a","data":{"n":9223372036854775806}}',
    ),
    "the last bit of a double": ('{"type":"a","data":{"n":0.1}}', '{"type":"a","data":{"n":0.10000000000000002}}'),
    "null for nothing": (EVENT, EVENT.replace('"n":1', '"n":1,"m":null')),
    "the order of a list": ('{"type":"a","data":{"n":[1,2]}}', '{"type":"a","data":{"n":[2,1]}}'),
    "another type": (EVENT, EVENT.replace('"a",', '"b",')),
    "metadata empty": (EVENT, '{"metadata":{},' + EVENT[1:]),
    "metadata for data": ('{"type":"a","data":{"n":1},"metadata":{}}', '{"type":"a","data":{},"metadata":{"n":1}}'),
    "a time for none": (EVENT, '{"timestamp":"2026-03-01",' + EVENT[1:]),
    "a millisecond": (
        '{"timestamp":"2026-03-01T12:00:00Z",' + EVENT[1:],
        '{"timestamp":"2026-03-01T12:00:00.001Z",' + EVENT[1:],
    ),
    "one more event": (EVENT, f"{EVENT},{EVENT}"),
    "one event less": (f"{EVENT},{EVENT}", EVENT),
    "the order of events": (f'{EVENT},{{"type":"b","data":{{}}}}', f'{{"type":"b","data":{{}}}},{EVENT}'),
}


def text_of(events: str, envelope: str = '"source":"s"') -> str:
    return f'{{{envelope},"events":[{events}]}}'


@pytest.mark.parametrize(("first", "second"), EQUAL.values(), ids=EQUAL)
def test_equal_values_are_the_same_batch(
    caller: Caller, mongo: MongoClient, key: Json, first: str, second: str
) -> None:
    receipt = good(caller.rest(text_of(first), "a"), replayed=False)
    assert good(caller.rest(text_of(second), "a"), replayed=True) == receipt
    assert stored_ids(mongo, key) == receipt.ids


@pytest.mark.parametrize(("first", "second"), OTHER.values(), ids=OTHER)
def test_other_values_are_another_batch(caller: Caller, mongo: MongoClient, key: Json, first: str, second: str) -> None:
    receipt = good(caller.rest(text_of(first), "a"), replayed=False)
    assert caller.rest(text_of(second), "a") == CONFLICT
    assert good(caller.rest(text_of(first), "a"), replayed=True) == receipt
    assert stored_ids(mongo, key) == receipt.ids


ENVELOPES = {
    "source": '"source":"t"',
    "source_id": '"source":"s","source_id":"1"',
    "empty": '"source":"s","source_id":""',
}


@pytest.mark.parametrize("envelope", ENVELOPES.values(), ids=ENVELOPES)
def test_another_source_is_another_batch(caller: Caller, envelope: str) -> None:
    good(caller.rest(text_of(EVENT), "a"), replayed=False)
    assert caller.rest(text_of(EVENT, envelope), "a") == CONFLICT
    good(caller.rest(text_of(EVENT, '"source":"s","source_id":null'), "a"), replayed=True)


def test_a_conflict_says_what_to_do_over_every_protocol(caller: Caller, mongo: MongoClient, key: Json) -> None:
    receipt = good(caller.unary(batch(2), "a"), replayed=False)
    assert [way(caller, batch(3), "a") for way in WAYS.values()] == [CONFLICT] * 3
    answer = caller.post(batch(3), "a")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "Retry-After" not in answer.headers
    assert "under a new key" in answer.json()["detail"]
    assert stored_ids(mongo, key) == receipt.ids


# --- handling, and what is refused

BAD: tuple[Json, ...] = (
    {"type": "a", "data": []},
    {"type": "a", "data": {"x\0": 1}},  # which only the encoder notices
    {"type": "", "data": {}},
)


def test_lenient_handling_gets_the_same_receipt_and_errors(caller: Caller, mongo: MongoClient, key: Json) -> None:
    sent = {"source": "s", "events": [BAD[0], event(1), BAD[1], BAD[2], event(4)]}
    receipt = good(caller.rest(sent, "a", lenient=True), replayed=False)
    assert [path for path, _ in receipt.errors] == ["events[0].data", 'events[2].data["x\\u0000"]', "events[3].type"]
    assert (len(receipt.ids), stored_ids(mongo, key)) == (2, receipt.ids)
    for way in WAYS.values():
        assert good(way(caller, sent, "a", lenient=True), replayed=True) == receipt
    answer = caller.post(sent, "a", lenient=True)
    assert answer.headers["Preference-Applied"] == "handling=lenient"
    corrected = {"source": "s", "events": [event(0), *sent["events"][1:]]}
    without = {"source": "s", "events": [event(1), event(4)]}
    assert [caller.rest(other, "a", lenient=True) for other in (corrected, without)] == [CONFLICT] * 2
    assert stored_ids(mongo, key) == receipt.ids


def test_an_event_with_two_faults_is_the_same_over_every_protocol(caller: Caller) -> None:
    good_one, bad_one = event(1), {**event(2), "metadata": 3}
    sent = {"source": "s", "events": [good_one, {**bad_one, "timestamp": "9999-12-31T23:59:59-00:01"}]}
    receipt = good(caller.rest(sent, "a", lenient=True), replayed=False)
    message = message_of({"source": "s", "events": [good_one, bad_one]}, "a", lenient=True)
    message.events[1].timestamp.seconds = 253_402_300_859
    with Stream(caller.channel, caller.secret) as stream:
        stream.send(1, message)
        assert good(answer_of_response(stream.receive()), replayed=True) == receipt


@pytest.mark.parametrize("lenient", [False, True])
def test_another_handling_is_a_conflict(caller: Caller, lenient: bool) -> None:
    good(caller.rest(batch(2), "a", lenient), replayed=False)
    assert [way(caller, batch(2), "a", not lenient) for way in WAYS.values()] == [CONFLICT] * 3
    good(caller.stream(batch(2), "a", lenient), replayed=True)


def test_strict_by_name_is_strict(caller: Caller) -> None:
    good(caller.unary(batch(2), "a"), replayed=False)
    answer = caller.client.post(EVENTS, json=batch(2), headers={"Idempotency-Key": "a", "Prefer": "handling=strict"})
    good(answer_of(answer), replayed=True)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_refused_batch_does_not_claim_its_key(
    caller: Caller, mongo: MongoClient, key: Json, way: Callable[..., Answer | str]
) -> None:
    bad = {"source": "s", "events": [event(), BAD[1]]}
    none_good = {"source": "s", "events": list(BAD)}
    large = {"source": "s", "events": [{"type": "a", "data": {"a": [1] * 4600}}] * 1000}
    assert way(caller, bad, "a") == "invalid_batch"
    assert way(caller, none_good, "a", lenient=True) == "invalid_batch"
    assert way(caller, large, "a") == "payload_too_large"
    assert claims(mongo, key) == []
    receipt = good(way(caller, batch(2), "a"), replayed=False)
    assert way(caller, bad, "a") == "invalid_batch"  # what is wrong with the batch comes first
    assert stored_ids(mongo, key) == receipt.ids


# --- whose key it is


def test_tenants_have_name_spaces_of_their_own_and_keys_of_one_share_it(server: Server, mongo: MongoClient) -> None:
    tenant, other = f"one-{new_key()}", f"two-{new_key()}"
    keys = [server.create_key(name, "--rate-limit", "0") for name in (tenant, tenant, other)]
    with Caller(server, keys[0]) as one, Caller(server, keys[1]) as two, Caller(server, keys[2]) as stranger:
        receipt = good(one.rest(batch(2), "a"), replayed=False)
        assert good(two.unary(batch(2), "a"), replayed=True) == receipt
        assert two.rest(batch(3), "a") == CONFLICT
        theirs = good(stranger.unary(batch(3), "a"), replayed=False)
        assert good(stranger.rest(batch(3), "a"), replayed=True) == theirs
        assert stranger.rest(batch(2), "a") == CONFLICT
    assert (stored_ids(mongo, keys[0]), stored_ids(mongo, keys[2])) == (receipt.ids, theirs.ids)


def test_long_keys_that_differ_in_a_character(caller: Caller, mongo: MongoClient, key: Json) -> None:
    names = ["".join(secrets.choice(VISIBLE) for _ in range(255))]
    names += [names[0][:-1] + chr(ord(names[0][-1]) ^ 1), names[0][:-1], names[0].swapcase()]
    receipts = [good(caller.rest(batch(1), name), replayed=False) for name in names]
    assert [good(caller.unary(batch(1), name), replayed=True) for name in names] == receipts
    assert stored_ids(mongo, key) == sorted(item.ids[0] for item in receipts)


def test_a_claim_holds_no_key_and_no_event(caller: Caller, mongo: MongoClient, key: Json) -> None:
    name, content = "the-secret-key", "the-secret-content"
    sent = {"source": "the-secret-source", "events": [{"type": "the-secret-type", "data": {"a": content}}]}
    receipt = good(caller.rest(sent, name), replayed=False)
    (claim,) = claims(mongo, key)
    assert set(claim) == {"_id", "tenant_id", "fingerprint", "received_at", "random"}
    assert (len(claim["_id"]), len(claim["fingerprint"])) == (32, 32)
    assert claim["received_at"].replace(microsecond=0) == receipt.received_at
    assert b"secret" not in bson.encode(claim, codec_options=mongo.codec_options)


# --- many at once


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server, MongoClient]]:
    """Two hosts with one database: two workers with one driver, one with the other."""
    path = tmp_path_factory.mktemp("hosts")
    with Mongod(path / "db") as mongod, mongod.client() as mongo:
        options = ["--mongodb-url", mongod.url, "--driver"]
        one = Server(path / "one", *options, "motor", "--workers", "2")
        two = Server(path / "two", *options, "pymongo")
        with one, two:
            yield one, two, mongo
        assert "internal error" not in one.stderr() + two.stderr()


def one_receipt(answers: Sequence[Answer | str], ids: list[str]) -> None:
    """All answers are the same receipt, of these ids, and one alone is not marked as a replay."""
    assert all(isinstance(answer, Answer) for answer in answers), Counter(map(str, answers))
    receipts = [answer for answer in answers if isinstance(answer, Answer)]
    assert receipts[0].ids == ids
    assert {repr(answer.receipt) for answer in receipts} == {repr(receipts[0].receipt)}
    assert [answer.replayed for answer in receipts].count(False) == 1


def at_once(calls: Sequence[Callable[[], Answer | str]]) -> list[Answer | str]:
    """What the calls get, all made at the same moment."""
    barrier = Barrier(len(calls))

    def wait_and(call: Callable[[], Answer | str]) -> Answer | str:
        barrier.wait(TIMEOUT_S)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(wait_and, calls))


@contextmanager
def callers_of(hosts: tuple[Server, Server, MongoClient], key: Json, count: int) -> Iterator[list[Caller]]:
    """So many callers, of one host and the other in turn."""
    with ExitStack() as stack:
        yield [stack.enter_context(Caller(hosts[:2][index % 2], key)) for index in range(count)]


def test_fifty_at_once_are_stored_once(hosts: tuple[Server, Server, MongoClient]) -> None:
    key = hosts[0].create_key("fifty", "--rate-limit", "0")
    ways = list(WAYS.values())
    with callers_of(hosts, key, 10) as callers:
        for name, count in (("one", 1), ("some", 20), ("many", 1000)):
            calls = [partial(ways[n % 3], callers[n % 10], batch(count), name) for n in range(50)]
            hosts[2].sluice.events.delete_many({})
            answers = at_once(calls)
            one_receipt(answers, stored_ids(hosts[2], key))
            assert len(stored_ids(hosts[2], key)) == count
    assert len(claims(hosts[2], key)) == 3


def test_of_other_batches_at_once_one_wins(hosts: tuple[Server, Server, MongoClient]) -> None:
    key = hosts[0].create_key("rivals", "--rate-limit", "0")
    ways = list(WAYS.values())
    with callers_of(hosts, key, 10) as callers:
        for name in ("a", "b", "c"):
            calls = [partial(ways[n % 3], callers[n % 10], batch(1 + n % 5), name) for n in range(30)]
            hosts[2].sluice.events.delete_many({})
            answers = at_once(calls)
            assert [answer for answer in answers if isinstance(answer, str)] == [CONFLICT] * 24
            one_receipt([answer for answer in answers if isinstance(answer, Answer)], stored_ids(hosts[2], key))
    assert len(claims(hosts[2], key)) == 3


# --- crashes


def test_what_is_missing_of_a_batch_is_filled_in(caller: Caller, mongo: MongoClient, key: Json) -> None:
    sent = batch(1000)
    receipt = good(caller.unary(sent, "a"), replayed=False)
    before = stored(mongo, key)
    for gone in (before[::3], before[:1], before[400:], before):
        mongo.sluice.events.delete_many({"_id": {"$in": [item["_id"] for item in gone]}})
        assert good(caller.rest(sent, "a"), replayed=True) == receipt
        assert stored(mongo, key) == before


def block(mongo: MongoClient, collection: str) -> Callable[[], object]:
    """Let one insert into the collection hang. Returns a call that waits until it does."""
    data = {
        "failCommands": ["insert"],
        "namespace": f"sluice.{collection}",
        "blockConnection": True,
        "blockTimeMS": HANG_MS,
    }
    entered = mongo.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)["count"]
    wait = {"waitForFailPoint": "failCommand", "timesEntered": entered + 1, "maxTimeMS": 30_000}
    return lambda: mongo.admin.command(wait)


class Crashing(NamedTuple):
    """A server, and its database, which the tests kill and start again."""

    server: Server
    mongod: Mongod
    mongo: MongoClient


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    path = tmp_path_factory.mktemp("crashing")
    with (
        Mongod(path / "db") as mongod,
        mongod.client() as mongo,
        Server(path / "data", "--mongodb-url", mongod.url) as server,
    ):
        yield Crashing(server, mongod, mongo)


def accepts(caller: Caller) -> bool:
    """Whether a worker listens, and has its database."""
    try:
        return caller.client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(("collection", "outcome"), [("claims", "not_stored"), ("events", "unknown")])
def test_kill_9_of_the_database_in_mid_write(crashing: Crashing, collection: str, outcome: str) -> None:
    server, mongod, mongo = crashing
    key = server.create_key(f"database-{collection}", "--rate-limit", "0")
    with Caller(server, key) as caller, ThreadPoolExecutor() as threads:
        kept = good(caller.rest(batch(3), "kept"), replayed=False)
        until_one_hangs = block(mongo, collection)
        cut = threads.submit(caller.post, batch(50), "cut")
        until_one_hangs()
        mongod.kill()
        answer = cut.result()
        assert (answer.status_code, answer.json()["outcome"]) == (503, outcome)
        mongod.start()
        wait_until(lambda: accepts(caller), "the database to be found again")
        receipt = good(caller.unary(batch(50), "cut"), replayed=collection == "events")
        assert good(caller.rest(batch(50), "cut"), replayed=True) == receipt
        assert good(caller.unary(batch(3), "kept"), replayed=True) == kept
        assert stored_ids(mongo, key) == [*kept.ids, *receipt.ids]


def test_kill_9_of_a_worker_between_claim_and_events(crashing: Crashing) -> None:
    server, _, mongo = crashing
    key = server.create_key("worker", "--rate-limit", "0")
    with Caller(server, key) as caller, ThreadPoolExecutor() as threads:
        until_one_hangs = block(mongo, "events")
        cut = threads.submit(caller.post, batch(50), "a")
        until_one_hangs()
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGKILL)
        assert isinstance(cut.exception(), httpx.TransportError)
    (claim,) = claims(mongo, key)
    assert stored(mongo, key) == []
    wait_until(lambda: server.worker_pids() not in ([], [worker]), "another worker")
    with Caller(server, key) as caller:
        wait_until(lambda: accepts(caller), "the other worker to accept")
        assert caller.rest(batch(51), "a") == CONFLICT
        receipt = good(caller.rest(batch(50), "a"), replayed=True)
    assert len(receipt.ids) == 50
    assert stored_ids(mongo, key) == receipt.ids
    assert {item["received_at"] for item in stored(mongo, key)} == {claim["received_at"]}


def test_of_a_replay_that_is_not_begun_the_outcome_is_unknown(hosts: tuple[Server, Server, MongoClient]) -> None:
    """Of those that wait in line nothing is written, but the request before them may have stored something."""
    key = hosts[1].create_key("in-line", "--rate-limit", "0")
    data = {"failCommands": ["insert"], "namespace": "sluice.events", "blockConnection": True, "blockTimeMS": 10_500}
    with Caller(hosts[1], key) as caller, ThreadPoolExecutor() as threads:
        receipt = good(caller.rest(batch(7), "a"), replayed=False)
        hosts[2].admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
        answers = [future.result() for future in [threads.submit(caller.post, batch(7), "a") for _ in range(5)]]
        hosts[2].admin.command("configureFailPoint", "failCommand", mode="off")
        assert [(answer.status_code, answer.json()["outcome"]) for answer in answers] == [(503, "unknown")] * 5
        assert good(caller.rest(batch(7), "a"), replayed=True) == receipt
    assert stored_ids(hosts[2], key) == receipt.ids


@pytest.mark.parametrize("collection", ["claims", "events"])
def test_a_write_that_is_done_but_not_confirmed_is_our_own(
    hosts: tuple[Server, Server, MongoClient], collection: str
) -> None:
    """It is tried again, finds itself, and is no replay."""
    mongo = hosts[2]
    key = hosts[0].create_key(f"unconfirmed-{collection}", "--rate-limit", "0")
    data = {
        "failCommands": ["insert"],
        "namespace": f"sluice.{collection}",
        "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"},
    }
    with Caller(hosts[0], key) as caller:
        mongo.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
        receipt = good(caller.rest(batch(7), "a"), replayed=False)
        assert good(caller.rest(batch(7), "a"), replayed=True) == receipt
    assert stored_ids(mongo, key) == receipt.ids
