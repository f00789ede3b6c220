"""Every refusal of the REST face, over real connections: what it says, in which form, and that nothing is stored.

The rows of the contract's table of errors, but for idempotency conflicts, rate limits, header sizes and the database's
absence, which have tests of their own. A body that stalls takes 30 s to be given up: the connections that stall are
opened when the first test of this module starts, and looked at by the last.
"""

import gzip
import json
import re
import select
import socket
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
from backports import zstd

from tests.support.harness import Json, MongoClient, Server, batch, event, sluice

EVENTS = "/api/v1/events"
JSON_TYPE = "application/json"
JSON = {"Content-Type": JSON_TYPE}
GZIP = {**JSON, "Content-Encoding": "gzip"}
ZSTD = {**JSON, "Content-Encoding": "zstd"}

MIB = 1024 * 1024
GOOD = json.dumps(batch()).encode()
HALF_GOOD = {"source": "backend", "events": [event(0), {"type": "no data"}, event(2)]}


class Call(NamedTuple):
    """A POST and the refusal it earns; `detail` is a pattern that the problem's detail holds."""

    content: bytes | Callable[[], bytes]
    status: int
    code: str
    detail: str
    headers: dict[str, str] = JSON


def with_data(data: str) -> bytes:
    """A batch of one event whose data is this JSON text."""
    return b'{"source":"backend","events":[{"type":"purchase","data":%s}]}' % data.encode()


def padded(size: int) -> bytes:
    """A good batch of that many bytes."""
    return GOOD.ljust(size)


def many_integers(count: int) -> bytes:
    """A batch of 1,000 events with that many integers each: in BSON each takes 5 times its JSON."""
    data = json.dumps({"a": [1] * count}, separators=(",", ":"))
    item = f'{{"type":"purchase","data":{data}}}'
    return f'{{"source":"backend","events":[{",".join([item] * 1000)}]}}'.encode()


def objects(levels: int) -> str:
    """So many nested objects, as JSON."""
    return '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)


def arrays(levels: int) -> str:
    """An object and arrays in it, together so many levels, as JSON."""
    return '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def assert_problem(answer: httpx.Response, status: int, code: str, detail: str) -> Json:
    """The answer is that problem and no other; `detail` is a pattern. Returns it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Json = answer.json()
    members = ["type", "title", "status", "detail", "code"]
    assert list(problem) in (members, [*members, "errors"])
    assert problem["status"] == status
    assert problem["code"] == code
    assert re.search(detail, problem["detail"]), problem["detail"]
    assert all(isinstance(problem[member], str) and problem[member] for member in ("type", "title"))
    return problem


def count_events(mongo: MongoClient, key: Json) -> int:
    """How many events the key's tenant has."""
    return mongo.sluice.events.count_documents({"tenant_id": uuid.UUID(key["tenant_id"])})


def connect(server: Server) -> socket.socket:
    """A plain connection."""
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port or 0), timeout=60)


def read_answer(connection: socket.socket) -> httpx.Response:
    """The next answer on a plain connection."""
    answer = HTTPResponse(connection)
    answer.begin()
    return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def head(secret: str, *lines: str) -> bytes:
    """A POST as it goes over the wire, up to its body."""
    all_lines = [f"POST {EVENTS} HTTP/1.1", "Host: localhost", f"X-API-Key: {secret}", *lines]
    return "\r\n".join([*all_lines, "Content-Type: application/json", "", ""]).encode()


@pytest.fixture(scope="module")
def make_key(server: Server) -> Callable[..., Json]:
    """Makes a key of a new tenant, without a rate limit."""
    return lambda *options: server.create_key(f"errors-{uuid.uuid4().hex}", "--rate-limit", "0", *options)


@pytest.fixture(scope="module")
def key(make_key: Callable[..., Json]) -> Json:
    """A key with all scopes, for every test here."""
    return make_key()


@pytest.fixture(scope="module")
def stranger(make_key: Callable[..., Json]) -> Json:
    """The key of a tenant all of whose batches are refused."""
    return make_key()


@pytest.fixture
def refuse(server: Server, stranger: Json, mongo: MongoClient) -> Iterator[httpx.Client]:
    """A client with a key whose tenant must have nothing afterwards."""
    with server.client(stranger["key"]) as opened:
        yield opened
    assert count_events(mongo, stranger) == 0


class Stalled(NamedTuple):
    """What became of a request whose body stopped arriving."""

    answer: httpx.Response
    after_s: float
    rest: bytes


@pytest.fixture(scope="module", autouse=True)
def stalled(server: Server, stranger: Json) -> Iterator[dict[str, Future[Stalled]]]:
    """Requests whose body stalls: they age while the other tests run."""
    beginnings = {
        "content-length": head(stranger["key"], f"Content-Length: {len(GOOD)}") + GOOD[:-1],
        "content-length, nothing sent": head(stranger["key"], f"Content-Length: {len(GOOD)}"),
        "chunked": head(stranger["key"], "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n" % (len(GOOD), GOOD),
        "a byte a second": head(stranger["key"], "Content-Length: 1000"),
    }
    opened = [connect(server) for _ in beginnings]

    def wait_for_the_end(connection: socket.socket, beginning: bytes) -> Stalled:
        since = time.monotonic()
        connection.sendall(beginning)
        if beginning == beginnings["a byte a second"]:
            while not select.select([connection], [], [], 1)[0]:
                connection.sendall(b" ")
        return Stalled(read_answer(connection), time.monotonic() - since, connection.recv(1))

    with ThreadPoolExecutor(len(opened)) as threads:
        futures = [threads.submit(wait_for_the_end, *pair) for pair in zip(opened, beginnings.values(), strict=True)]
        yield dict(zip(beginnings, futures, strict=True))
        for connection in opened:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # where the test that waits for them was not run
            connection.close()


# --- 400 malformed_json, 413, 415, and 400 invalid_batch for the batch as a whole

BODIES = {
    "empty": Call(b"", 400, "malformed_json", "line 1 column 1"),
    "not json": Call(b"source=backend", 400, "malformed_json", "byte 0"),
    "truncated": Call(GOOD[:-3], 400, "malformed_json", f"char {len(GOOD) - 3}"),
    "trailing garbage": Call(GOOD + b" x", 400, "malformed_json", f"byte {len(GOOD) + 2}"),
    "two values": Call(GOOD + GOOD, 400, "malformed_json", f"byte {len(GOOD) + 1}"),
    "trailing comma": Call(with_data('{"a":1,}'), 400, "malformed_json", "byte"),
    "single quotes": Call(b"{'source':'backend'}", 400, "malformed_json", "byte 1"),
    "nan": Call(with_data('{"a":NaN}'), 400, "malformed_json", "NaN"),
    "infinity": Call(with_data('{"a":-Infinity}'), 400, "malformed_json", "-Infinity"),
    "leading zero": Call(with_data('{"a":01}'), 400, "malformed_json", "byte"),
    "control character": Call(with_data('{"a":"\n"}'), 400, "malformed_json", "byte|char"),
    "byte order mark": Call(b"\xef\xbb\xbf" + GOOD, 400, "malformed_json", "byte 0"),
    "utf-16": Call(GOOD.decode().encode("utf-16"), 400, "malformed_json", "byte 0"),
    "not utf-8 in source": Call(b'{"source":"\xff","events":[]}', 400, "malformed_json", "UTF-8.*byte 11"),
    "not utf-8 in data": Call(with_data('{"a":"?"}').replace(b"?", b"\xed\xa0\x80"), 400, "malformed_json", "UTF-8"),
    "too deep": Call(with_data(objects(100_000)), 400, "malformed_json", "nested too deep"),
    "too deep and unclosed": Call(b"[" * 100_000, 400, "malformed_json", "nested too deep"),
    "gzip garbage": Call(b"garbage", 400, "malformed_json", "gzip", GZIP),
    "gzip truncated": Call(gzip.compress(GOOD)[:-9], 400, "malformed_json", "gzip", GZIP),
    "gzip with a bad checksum": Call(gzip.compress(GOOD)[:-8] + bytes(8), 400, "malformed_json", "gzip", GZIP),
    "gzip, then garbage": Call(gzip.compress(GOOD) + b"garbage", 400, "malformed_json", "gzip", GZIP),
    "gzip of nothing": Call(gzip.compress(b""), 400, "malformed_json", "line 1 column 1", GZIP),
    "gzip, empty": Call(b"", 400, "malformed_json", "", GZIP),
    "zstd garbage": Call(b"garbage", 400, "malformed_json", "zstd", ZSTD),
    "zstd truncated": Call(zstd.compress(GOOD)[:-3], 400, "malformed_json", "zstd", ZSTD),
    "zstd, then garbage": Call(zstd.compress(GOOD) + b"garbage", 400, "malformed_json", "zstd", ZSTD),
    "zstd, empty": Call(b"", 400, "malformed_json", "", ZSTD),
    "an array": Call(b"[]", 400, "invalid_batch", "Expected `object`, got `array`"),
    "null": Call(b"null", 400, "invalid_batch", "Expected `object`, got `null`"),
    "a string": Call(b'"backend"', 400, "invalid_batch", "Expected `object`, got `str`"),
    "no source": Call(b'{"events":[{"type":"a","data":{}}]}', 400, "invalid_batch", "^source: .*missing"),
    "no events": Call(b'{"source":"backend"}', 400, "invalid_batch", "^events: .*missing"),
    "source a number": Call(b'{"source":1,"events":[]}', 400, "invalid_batch", "^source: Expected `str`"),
    "source null": Call(b'{"source":null,"events":[]}', 400, "invalid_batch", "^source: Expected `str`"),
    "source empty": Call(b'{"source":"","events":[]}', 400, "invalid_batch", "^source: .*1"),
    "source of 256": Call(json.dumps(batch(source="é" * 256)).encode(), 400, "invalid_batch", "^source: .*255"),
    "source no text": Call(GOOD.replace(b"backend", b"\\ud800"), 400, "invalid_batch", "source"),
    "source_id a number": Call(json.dumps(batch(source_id=7)).encode(), 400, "invalid_batch", "^source_id: "),
    "source_id of 256": Call(
        json.dumps(batch(source_id="x" * 256)).encode(), 400, "invalid_batch", "^source_id: .*255"
    ),
    "events an object": Call(b'{"source":"a","events":{}}', 400, "invalid_batch", "^events: Expected `array`"),
    "events null": Call(b'{"source":"a","events":null}', 400, "invalid_batch", "^events: Expected `array`"),
    "0 events": Call(json.dumps(batch(0)).encode(), 400, "invalid_batch", "^events: .*1000"),
    "1,001 events": Call(json.dumps(batch(1001)).encode(), 400, "invalid_batch", "^events: 1001 .*1000"),
    "unknown field": Call(json.dumps(batch(sauce="a")).encode(), 400, "invalid_batch", "^sauce: .*unknown"),
    "an event alone": Call(json.dumps(event()).encode(), 400, "invalid_batch", "^type: .*unknown"),
    "content-length over 10 MiB": Call(lambda: padded(10 * MIB + 1), 413, "payload_too_large", "10 MiB"),
    "gzip over 10 MiB": Call(
        lambda: gzip.compress(padded(10 * MIB + 1)), 413, "payload_too_large", "10 MiB once decompressed", GZIP
    ),
    "zstd over 10 MiB": Call(
        lambda: zstd.compress(padded(10 * MIB + 1)), 413, "payload_too_large", "10 MiB once decompressed", ZSTD
    ),
    "gzip bomb": Call(lambda: gzip.compress(bytes(300 * MIB), 1), 413, "payload_too_large", "10 MiB", GZIP),
    "zstd bomb": Call(lambda: zstd.compress(bytes(300 * MIB)), 413, "payload_too_large", "10 MiB", ZSTD),
    "gzip bomb of members": Call(lambda: gzip.compress(bytes(MIB)) * 300, 413, "payload_too_large", "10 MiB", GZIP),
    "over 32 MiB as bson": Call(lambda: many_integers(4_600), 413, "payload_too_large", "32 MiB"),
    "no content type": Call(GOOD, 415, "unsupported_media_type", "application/json", {}),
    "a form": Call(GOOD, 415, "unsupported_media_type", "", {"Content-Type": "application/x-www-form-urlencoded"}),
    "text": Call(GOOD, 415, "unsupported_media_type", "", {"Content-Type": "text/plain"}),
    "ndjson": Call(GOOD, 415, "unsupported_media_type", "", {"Content-Type": "application/x-ndjson"}),
    "latin-1": Call(
        GOOD, 415, "unsupported_media_type", "UTF-8", {"Content-Type": "application/json; charset=latin-1"}
    ),
    "brotli": Call(GOOD, 415, "unsupported_media_type", "gzip or zstd", {**JSON, "Content-Encoding": "br"}),
    "encoded twice": Call(GOOD, 415, "unsupported_media_type", "", {**JSON, "Content-Encoding": "gzip, zstd"}),
}


@pytest.mark.parametrize("call", BODIES.values(), ids=BODIES)
def test_refused_body(refuse: httpx.Client, call: Call) -> None:
    content = call.content() if callable(call.content) else call.content
    answer = refuse.post(EVENTS, content=content, headers=call.headers)
    problem = assert_problem(answer, call.status, call.code, call.detail)
    assert "errors" not in problem


ACCEPTED = {
    "exactly 10 MiB": (lambda: padded(10 * MIB), JSON),
    "exactly 10 MiB as gzip": (lambda: gzip.compress(padded(10 * MIB)), GZIP),
    "exactly 10 MiB as zstd": (lambda: zstd.compress(padded(10 * MIB)), ZSTD),
    "31 MiB as bson": (lambda: many_integers(3_200), JSON),
    "gzip": (lambda: gzip.compress(GOOD), GZIP),
    "gzip in capitals": (lambda: gzip.compress(GOOD), {**JSON, "Content-Encoding": "GZIP"}),
    "gzip of several members": (lambda: gzip.compress(GOOD[:9]) + gzip.compress(GOOD[9:]), GZIP),
    "zstd": (lambda: zstd.compress(GOOD), ZSTD),
    "zstd of several frames": (lambda: zstd.compress(GOOD[:9]) + zstd.compress(GOOD[9:]), ZSTD),
    "identity": (lambda: GOOD, {**JSON, "Content-Encoding": "identity"}),
    "utf-8": (lambda: GOOD, {"Content-Type": 'Application/JSON; charset="UTF-8"'}),
    "names of 255": (
        lambda: json.dumps({"source": "é" * 255, "source_id": "😀" * 255, "events": [event(type="x" * 255)]}).encode(),
        JSON,
    ),
    "source_id null": (lambda: json.dumps(batch(source_id=None)).encode(), JSON),
    "source_id empty": (lambda: json.dumps(batch(source_id="")).encode(), JSON),
    "100 levels of objects": (lambda: with_data(objects(100)), JSON),
    "100 levels of arrays": (lambda: with_data(arrays(100)), JSON),
    "100 levels of metadata": (
        lambda: with_data("{}").replace(b"{}", b'{},"metadata":' + objects(100).encode()),
        JSON,
    ),
}


@pytest.mark.parametrize(("content", "headers"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepted_body(server: Server, key: Json, content: Callable[[], bytes], headers: dict[str, str]) -> None:
    with server.client(key["key"]) as client:
        answer = client.post(EVENTS, content=content(), headers=headers)
    assert answer.status_code == 201, answer.text


# --- 400 invalid_batch with `errors`

BAD_EVENTS = {
    "null": ("", "Expected `object`, got `null`"),
    "[]": ("", "Expected `object`, got `array`"),
    '{"data":{}}': (".type", "missing"),
    '{"type":"a"}': (".data", "missing"),
    '{"type":1,"data":{}}': (".type", "Expected `str`, got `int`"),
    '{"type":null,"data":{}}': (".type", "Expected `str`, got `null`"),
    '{"type":"","data":{}}': (".type", "1"),
    '{"type":"' + "x" * 256 + '","data":{}}': (".type", "255"),
    r'{"type":"\ud800","data":{}}': (".type", "surrogate"),
    '{"type":"a","data":null}': (".data", "Expected `object`, got `null`"),
    '{"type":"a","data":"{}"}': (".data", "Expected `object`, got `str`"),
    '{"type":"a","data":[]}': (".data", "Expected `object`, got `array`"),
    '{"type":"a","data":{},"metadata":[]}': (".metadata", "Expected `object | null`"),
    '{"type":"a","data":{},"timestamp":1700000000}': (".timestamp", "Expected `str | null`"),
    '{"type":"a","data":{},"timestamp":""}': (".timestamp", "ISO 8601"),
    '{"type":"a","data":{},"timestamp":"yesterday"}': (".timestamp", "ISO 8601"),
    '{"type":"a","data":{},"timestamp":"2026-02-30"}': (".timestamp", "ISO 8601"),
    '{"type":"a","data":{},"timestamp":"0001-01-01T00:00:00+01:00"}': (".timestamp", "year"),
    r'{"type":"a","data":{},"timestamp":"\ud800"}': (".timestamp", "surrogate"),
    '{"type":"a","data":{},"event_id":"7"}': (".event_id", "unknown"),
    '{"type":"a","data":{},"a b":1}': ('["a b"]', "unknown"),
    r'{"type":"a","data":{},"\ud800":1}': (r'["\ud800"]', "unknown"),
    '{"type":"a","data":{"n":9223372036854775808}}': (".data.n", "64 bits"),
    '{"type":"a","data":{"n":[0,{"m":-9223372036854775809}]}}': (".data.n[1].m", "64 bits"),
    '{"type":"a","data":{"n":' + "9" * 100_000 + "}}": (".data.n", "64 bits"),
    '{"type":"a","data":{"n":1e999}}': (".data.n", "double"),
    r'{"type":"a","data":{"a.b":{"\u0000":1}}}': (r'.data["a.b"]["\u0000"]', "NUL"),
    r'{"type":"a","data":{"s":"\ud800"}}': (".data.s", "surrogate"),
    r'{"type":"a","data":{"s":["\udc00\ud800"]}}': (".data.s[0]", "surrogate"),
    r'{"type":"a","data":{"\ud800":1}}': (r'.data["\ud800"]', "surrogate"),
    '{"type":"a","data":{},"metadata":{"n":18446744073709551616}}': (".metadata.n", "64 bits"),
    '{"type":"a","data":' + objects(101) + "}": (".data" + ".a" * 100, "100 levels"),
    '{"type":"a","data":' + arrays(101) + "}": (".data.a" + "[0]" * 99, "100 levels"),
    '{"type":"a","data":' + objects(300) + "}": (".data" + ".a" * 100, "100 levels"),
    '{"type":"a","data":{},"metadata":' + objects(101) + "}": (".metadata" + ".a" * 100, "100 levels"),
    '{"type":"a","data":{},"metadata":' + arrays(101) + "}": (".metadata.a" + "[0]" * 99, "100 levels"),
    '{"type":"a","data":{"s":"' + "x" * MIB + '"}}': ("", "1048576"),
}


def bad_batch() -> bytes:
    """Every bad event, each after a good one."""
    good = json.dumps(event())
    return f'{{"source":"backend","events":[{",".join(f"{good},{bad}" for bad in BAD_EVENTS)}]}}'.encode()


def assert_every_bad_event(errors: list[Json]) -> None:
    paths = [f"events[{2 * number + 1}]{path}" for number, (path, _) in enumerate(BAD_EVENTS.values())]
    assert [error["path"] for error in errors] == paths
    for error, (_, message) in zip(errors, BAD_EVENTS.values(), strict=True):
        assert list(error) == ["path", "message"]
        assert message in error["message"]


def test_every_bad_event_is_listed(refuse: httpx.Client) -> None:
    answer = refuse.post(EVENTS, content=bad_batch(), headers=JSON)
    problem = assert_problem(answer, 400, "invalid_batch", r"^events\[1\]: Expected `object`, got `null`")
    assert_every_bad_event(problem["errors"])


@pytest.mark.parametrize("bad", BAD_EVENTS, ids=[f"{number}{bad[:40]}" for number, bad in enumerate(BAD_EVENTS)])
def test_one_bad_event_refuses_the_batch(refuse: httpx.Client, bad: str) -> None:
    path, message = BAD_EVENTS[bad]
    content = f'{{"source":"backend","events":[{json.dumps(event())},{bad},{json.dumps(event())}]}}'
    answer = refuse.post(EVENTS, content=content.encode(), headers=JSON)
    where = f"events[1]{path}: "
    problem = assert_problem(answer, 400, "invalid_batch", f"^{re.escape(where)}.*{re.escape(message)}")
    assert [error["path"] for error in problem["errors"]] == [f"events[1]{path}"]


def test_the_first_100_bad_events_are_listed(refuse: httpx.Client) -> None:
    sent = {"source": "backend", "events": [event(), *({"type": "a", "data": {}, "x": 1} for _ in range(150))]}
    problem = assert_problem(refuse.post(EVENTS, json=sent), 400, "invalid_batch", r"^events\[1\]\.x: .*149 more")
    assert [error["path"] for error in problem["errors"]] == [f"events[{index}].x" for index in range(1, 101)]


def test_lenient_handling_lists_the_first_100_bad_events(server: Server, key: Json) -> None:
    sent = {"source": "backend", "events": [event(), *({"type": "a", "data": {}, "x": 1} for _ in range(150))]}
    with server.client(key["key"]) as client:
        answer = client.post(EVENTS, json=sent, headers={"Prefer": "handling=lenient"})
    assert answer.status_code == 201
    assert [error["path"] for error in answer.json()["errors"]] == [f"events[{index}].x" for index in range(1, 101)]


def test_an_event_may_have_1_mib_as_bson(server: Server, make_key: Callable[..., Json], mongo: MongoClient) -> None:
    key = make_key()
    tenant = {"tenant_id": uuid.UUID(key["tenant_id"])}

    def post(padding: int) -> httpx.Response:
        return client.post(EVENTS, json={"source": "backend", "events": [{"type": "a", "data": {"s": "x" * padding}}]})

    with server.client(key["key"]) as client:
        assert post(0).status_code == 201
        (small,) = mongo.sluice.events.aggregate([{"$match": tenant}, {"$project": {"size": {"$bsonSize": "$$ROOT"}}}])
        room = MIB - small["size"]
        assert post(room).status_code == 201
        problem = assert_problem(post(room + 1), 400, "invalid_batch", r"^events\[0\]: 1048577 bytes as BSON")
    assert [error["path"] for error in problem["errors"]] == ["events[0]"]
    assert count_events(mongo, key) == 2


# --- 400 invalid_header, and what Prefer does

PREFERENCES = {
    "unset": ([], "strict"),
    "lenient": (["handling=lenient"], "lenient"),
    "strict": (["handling=strict"], "strict"),
    "quoted": (['handling="lenient"'], "lenient"),
    "spaced, in capitals": (["Handling = LENIENT"], "lenient"),
    "with a parameter": (["handling=lenient; a=b"], "lenient"),
    "among others": (["respond-async, wait=10, handling=lenient, return=minimal"], "lenient"),
    "on another line": (["respond-async", "handling=lenient"], "lenient"),
    "the first counts": (["handling=lenient", "handling=strict"], "lenient"),
    "the first counts, on a line": (["handling=strict, handling=lenient"], "strict"),
    "unknown": (["respond-async, lenient, foo; handling=lenient"], "strict"),
    "quoted by another": (['foo="a, handling=lenient"'], "strict"),
    "empty": ([""], "strict"),
    "bogus": (["handling=bogus"], "refused"),
    "bogus on another line": (["respond-async", "handling=bogus"], "refused"),
    "no value": (["handling"], "refused"),
    "empty value": (['handling=""'], "refused"),
}


@pytest.mark.parametrize(("lines", "handling"), PREFERENCES.values(), ids=PREFERENCES)
def test_prefer(server: Server, key: Json, mongo: MongoClient, lines: list[str], handling: str) -> None:
    before = count_events(mongo, key)
    headers = [("X-API-Key", key["key"]), *(("Prefer", line) for line in lines)]
    with server.client() as client:
        answer = client.post(EVENTS, json=HALF_GOOD, headers=headers)
    match handling:
        case "lenient":
            assert answer.status_code == 201
            assert answer.headers["preference-applied"] == "handling=lenient"
            assert answer.json()["events_received"] == len(answer.json()["events"]) == 2
            assert [error["path"] for error in answer.json()["errors"]] == ["events[1].data"]
        case "strict":
            assert_problem(answer, 400, "invalid_batch", r"^events\[1\]\.data: ")
        case "refused":
            assert_problem(answer, 400, "invalid_header", "Prefer.*strict or lenient")
    assert ("preference-applied" in answer.headers) == (handling == "lenient")
    assert count_events(mongo, key) == before + (2 if handling == "lenient" else 0)


def test_lenient_handling_keeps_the_good(server: Server, make_key: Callable[..., Json], mongo: MongoClient) -> None:
    key = make_key()
    with server.client(key["key"]) as client:
        answer = client.post(EVENTS, content=bad_batch(), headers={**JSON, "Prefer": "handling=lenient"})
    assert answer.status_code == 201
    receipt = answer.json()
    assert list(receipt) == ["success", "events_received", "events", "errors"]
    assert receipt["events_received"] == len(receipt["events"]) == len(BAD_EVENTS)
    assert_every_bad_event(receipt["errors"])
    stored = mongo.sluice.events.find({"tenant_id": uuid.UUID(key["tenant_id"])}, sort=[("_id", 1)])
    assert [str(item["_id"]) for item in stored] == [item["id"] for item in receipt["events"]]


def test_lenient_handling_of_a_good_batch(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        answer = client.post(EVENTS, json=batch(3), headers={"Prefer": "handling=lenient"})
    assert answer.status_code == 201
    assert answer.headers["preference-applied"] == "handling=lenient"
    assert answer.json()["events_received"] == 3
    assert answer.json().get("errors", []) == []


def test_lenient_handling_refuses_where_no_event_is_good(refuse: httpx.Client) -> None:
    sent = {"source": "backend", "events": [{"type": "a"}, {"type": "b"}]}
    answer = refuse.post(EVENTS, json=sent, headers={"Prefer": "handling=lenient"})
    problem = assert_problem(answer, 400, "invalid_batch", r"^events\[0\]\.data: ")
    assert [error["path"] for error in problem["errors"]] == ["events[0].data", "events[1].data"]


@pytest.mark.parametrize("body", ["0 events", "unknown field", "truncated", "over 32 MiB as bson"])
def test_lenient_handling_forgives_events_only(refuse: httpx.Client, body: str) -> None:
    call = BODIES[body]
    content = call.content() if callable(call.content) else call.content
    answer = refuse.post(EVENTS, content=content, headers={**JSON, "Prefer": "handling=lenient"})
    assert_problem(answer, call.status, call.code, call.detail)


IDEMPOTENCY_KEYS = {"empty": b"", "space": b"a b", "tab": b"a\tb", "not ascii": "schlüssel".encode(), "256": b"k" * 256}


@pytest.mark.parametrize("value", IDEMPOTENCY_KEYS.values(), ids=IDEMPOTENCY_KEYS)
def test_bad_idempotency_key(refuse: httpx.Client, value: bytes) -> None:
    answer = refuse.post(EVENTS, content=GOOD, headers=[*_bytes(JSON), (b"Idempotency-Key", value)])
    assert_problem(answer, 400, "invalid_header", "Idempotency-Key.*1 to 255 visible")


def test_idempotency_key_of_255_characters(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        answer = client.post(EVENTS, json=batch(), headers={"Idempotency-Key": "!~" + "k" * 253})
    assert answer.status_code == 201


def _bytes(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


# --- 401

SECRETS = {
    "missing": None,
    "empty": b"",
    "unknown": b"slc_" + b"A" * 43,
    "no prefix": b"A" * 43,
    "prefix alone": b"slc_",
    "too long": b"slc_" + b"A" * 10_000,
    "not ascii": b"slc_" + "é".encode() * 43,
    "an operator": b'{"$ne": null}',
}
CALLS = [("POST", EVENTS), ("GET", EVENTS), ("GET", f"{EVENTS}/{uuid.UUID(int=7)}")]


@pytest.mark.parametrize(("method", "path"), CALLS, ids=["ingest", "list", "get"])
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_bad_key(server: Server, secret: bytes | None, method: str, path: str) -> None:
    headers = [] if secret is None else [(b"X-API-Key", secret)]
    content = GOOD if method == "POST" else b""
    with server.client() as client:
        answer = client.request(method, path, content=content, headers=[*_bytes(JSON), *headers])
    assert_problem(answer, 401, "unauthenticated", "^Invalid or missing API key$")


def test_rotated_and_revoked_keys(server: Server, make_key: Callable[..., Json], mongo: MongoClient) -> None:
    old = make_key()

    def post(secret: str) -> httpx.Response:
        return client.post(EVENTS, json=batch(), headers={"X-API-Key": secret})

    def keys(*arguments: str) -> str:
        done = sluice("keys", *arguments, *server.database_options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with server.client() as client:
        assert post(old["key"]).status_code == 201
        new = json.loads(keys("rotate", old["id"], "--json"))
        assert_problem(post(old["key"]), 401, "unauthenticated", "^Invalid or missing API key$")
        assert post(new["key"]).status_code == 201
        keys("revoke", old["id"])
        assert_problem(post(new["key"]), 401, "unauthenticated", "^Invalid or missing API key$")
    assert count_events(mongo, old) == 2


# --- 403


def test_scope_to_write(server: Server, make_key: Callable[..., Json], mongo: MongoClient) -> None:
    reader = make_key("--scope", "events:read")
    with server.client(reader["key"]) as client:
        assert_problem(client.post(EVENTS, json=batch()), 403, "insufficient_scope", "events:write")
        assert_problem(client.post(EVENTS, content=b"{", headers=JSON), 403, "insufficient_scope", "events:write")
        assert client.get(EVENTS).json() == []
    assert count_events(mongo, reader) == 0


def test_scope_to_read(server: Server, make_key: Callable[..., Json]) -> None:
    with server.client(make_key("--scope", "events:write")["key"]) as client:
        stored = client.post(EVENTS, json=batch())
        assert stored.status_code == 201
        for path in (EVENTS, f"{EVENTS}?limit=bogus", f"{EVENTS}/{stored.json()['events'][0]['id']}"):
            assert_problem(client.get(path), 403, "insufficient_scope", "events:read")


@pytest.fixture(scope="module")
def page_key(make_key: Callable[..., Json]) -> Json:
    """A key with allowed domains."""
    return make_key("--allow-domain", "example.com", "--allow-domain", "*.shop.example")


PAGES = {
    "no page": ({}, True),
    "the domain": ({"Origin": "https://example.com"}, True),
    "its port": ({"Origin": "https://example.com:8443"}, True),
    "its case": ({"Origin": "HTTPS://Example.COM"}, True),
    "by http": ({"Origin": "http://example.com"}, True),
    "its referer": ({"Referer": "https://example.com/a/page?x=https://evil.example"}, True),
    "a subdomain": ({"Origin": "https://www.shop.example"}, True),
    "a deep subdomain": ({"Referer": "https://a.b.shop.example/"}, True),
    "origin before referer": ({"Origin": "https://example.com", "Referer": "https://evil.example/"}, True),
    "another host": ({"Origin": "https://evil.example"}, False),
    "null": ({"Origin": "null"}, False),
    "null before referer": ({"Origin": "null", "Referer": "https://example.com/"}, False),
    "another origin before referer": ({"Origin": "https://evil.example", "Referer": "https://example.com/"}, False),
    "another referer": ({"Referer": "https://evil.example/?https://example.com"}, False),
    "subdomain of a plain domain": ({"Origin": "https://www.example.com"}, False),
    "domain of the wildcard": ({"Origin": "https://shop.example"}, False),
    "suffix": ({"Origin": "https://notexample.com"}, False),
    "suffix of the wildcard": ({"Origin": "https://evilshop.example"}, False),
    "prefix": ({"Origin": "https://example.com.evil.example"}, False),
    "as a user": ({"Origin": "https://example.com@evil.example"}, False),
    "no scheme": ({"Origin": "example.com"}, False),
    "nonsense": ({"Origin": "http://[example.com"}, False),
}


@pytest.mark.parametrize(("headers", "allowed"), PAGES.values(), ids=PAGES)
def test_allowed_domains(
    server: Server, page_key: Json, mongo: MongoClient, headers: dict[str, str], allowed: bool
) -> None:
    before = count_events(mongo, page_key)
    with server.client(page_key["key"]) as client:
        written = client.post(EVENTS, json=batch(), headers=headers)
        read = client.get(EVENTS, headers=headers)
    if allowed:
        assert (written.status_code, read.status_code) == (201, 200)
    else:
        assert_problem(written, 403, "domain_not_allowed", "^Domain not allowed$")
        assert_problem(read, 403, "domain_not_allowed", "^Domain not allowed$")
    assert count_events(mongo, page_key) == before + allowed
    assert not any(name.startswith("access-control") for name in written.headers)


def test_a_key_without_domains_allows_any_page(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        assert client.post(EVENTS, json=batch(), headers={"Origin": "https://evil.example"}).status_code == 201


# --- 404, 405


@pytest.mark.parametrize("path", ["/", "/api/v1", "/api/v2/events", f"{EVENTS}/a/b", "/schema/swagger", "/health"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_not_found(refuse: httpx.Client, method: str, path: str) -> None:
    assert_problem(refuse.request(method, path), 404, "not_found", ".")


@pytest.mark.parametrize("event_id", [str(uuid.UUID(int=7)), "7", "%00", "%FF", "'"])
def test_no_such_event(refuse: httpx.Client, event_id: str) -> None:
    assert_problem(refuse.get(f"{EVENTS}/{event_id}"), 404, "not_found", "no event")


ALLOWED_METHODS = {
    EVENTS: {"GET", "POST"},
    f"{EVENTS}/": {"GET", "POST"},
    f"{EVENTS}/{uuid.UUID(int=7)}": {"GET"},
    "/health/live": {"GET"},
    "/health/ready": {"GET"},
    "/schema": {"GET"},
    "/schema/openapi.json": {"GET"},
}


REFUSED_METHODS = [
    (method, path)
    for path, allowed in ALLOWED_METHODS.items()
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
    if method not in allowed
]


@pytest.mark.parametrize(("method", "path"), REFUSED_METHODS)
def test_method_not_allowed(refuse: httpx.Client, method: str, path: str) -> None:
    answer = refuse.request(method, path, headers={"Origin": "https://example.com"})
    assert_problem(answer, 405, "method_not_allowed", " and ".join(sorted(ALLOWED_METHODS[path])))
    assert set(answer.headers["allow"].split(", ")) == ALLOWED_METHODS[path]
    assert not any(name.startswith("access-control") for name in answer.headers)


# --- The order of checks, and the body that is not read

BAD_BODIES = {
    "malformed": {"content": b"{", "headers": JSON},
    "no batch": {"content": b"{}", "headers": JSON},
    "media type": {"content": b"{", "headers": {"Content-Type": "text/plain"}},
    "encoding": {"content": b"{", "headers": {**JSON, "Content-Encoding": "br"}},
    "prefer": {"content": GOOD, "headers": {**JSON, "Prefer": "handling=bogus"}},
    "idempotency key": {"content": GOOD, "headers": {**JSON, "Idempotency-Key": "a b"}},
    "too large": {"content": bytes(10 * MIB + 1), "headers": JSON},
}


@pytest.mark.parametrize("request_", BAD_BODIES.values(), ids=BAD_BODIES)
def test_the_key_is_checked_before_the_body(server: Server, page_key: Json, request_: Json) -> None:
    with server.client() as client:
        assert_problem(client.post(EVENTS, **request_), 401, "unauthenticated", ".")
    with server.client(page_key["key"]) as client:
        client.headers["Origin"] = "null"
        assert_problem(client.post(EVENTS, **request_), 403, "domain_not_allowed", ".")


@pytest.mark.parametrize("beginning", [b"", GOOD[:10]], ids=["nothing sent", "partly sent"])
def test_a_bad_key_is_refused_without_reading_the_body(server: Server, beginning: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(head("slc_bogus", "Content-Length: 1000", "Expect: 100-continue") + beginning)
        first = connection.recv(20, socket.MSG_PEEK)
        assert first.startswith(b"HTTP/1.1 401 ")  # and not 100
        assert_problem(read_answer(connection), 401, "unauthenticated", ".")


def test_too_large_a_body_is_refused_without_reading_it(server: Server, stranger: Json) -> None:
    with connect(server) as connection:
        connection.sendall(head(stranger["key"], f"Content-Length: {10 * MIB + 1}", "Expect: 100-continue"))
        first = connection.recv(20, socket.MSG_PEEK)
        assert first.startswith(b"HTTP/1.1 413 ")
        assert_problem(read_answer(connection), 413, "payload_too_large", "10 MiB")


def test_a_body_is_asked_for(server: Server, key: Json) -> None:
    with connect(server) as connection:
        connection.sendall(head(key["key"], f"Content-Length: {len(GOOD)}", "Expect: 100-continue"))
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert read_answer(connection).status_code == 201


# --- The connection


@pytest.mark.parametrize("size", [10 * MIB + 1, 40 * MIB])
def test_too_large_a_body_in_chunks(refuse: httpx.Client, size: int) -> None:
    content = (bytes(min(MIB, size - sent)) for sent in range(0, size, MIB))
    assert_problem(refuse.post(EVENTS, content=content, headers=JSON), 413, "payload_too_large", "10 MiB")


SURVIVED: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "400": ("POST", EVENTS, {"body": b"{", "headers": JSON}, 400),
    "401": ("POST", EVENTS, {"body": GOOD, "headers": {**JSON, "X-API-Key": "bogus"}}, 401),
    "401, large": ("POST", EVENTS, {"body": bytes(5 * MIB), "headers": {**JSON, "X-API-Key": "bogus"}}, 401),
    "404": ("POST", "/nothing", {"body": GOOD, "headers": JSON}, 404),
    "405": ("PUT", EVENTS, {"body": GOOD, "headers": JSON}, 405),
    "413": ("POST", EVENTS, {"body": bytes(11 * MIB), "headers": JSON}, 413),
    "413, chunked": (
        "POST",
        EVENTS,
        {"body": [bytes(MIB)] * 12, "headers": {**JSON, "Transfer-Encoding": "chunked"}, "encode_chunked": True},
        413,
    ),
    "415": ("POST", EVENTS, {"body": GOOD, "headers": {"Content-Type": "text/plain"}}, 415),
}


@pytest.mark.parametrize(("method", "path", "options", "status"), SURVIVED.values(), ids=SURVIVED)
def test_a_connection_survives_a_refusal(
    server: Server, key: Json, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    """This client sends all of its body before it reads a byte of the answer."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.connect()
    connection.auto_open = 0
    try:
        connection.request(method, path, **{**options, "headers": {"X-API-Key": key["key"], **options["headers"]}})
        refusal = connection.getresponse()
        assert refusal.status == status
        assert json.loads(refusal.read())["status"] == status
        connection.request("POST", EVENTS, body=GOOD, headers={**JSON, "X-API-Key": key["key"]})
        assert connection.getresponse().status == 201
    finally:
        connection.close()


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("length", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_client_that_goes_away_is_no_fault(server: Server, stranger: Json, length: str, abort: bool) -> None:
    before = len(server.stderr())
    for _ in range(10):
        with connect(server) as connection:
            connection.sendall(head(stranger["key"], length) + b"5\r\n{")
            if abort:  # with a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(10):  # on new connections, to reach every worker after it saw the others go
        with server.client(stranger["key"]) as client:
            assert client.get(EVENTS).json() == []
    assert not re.search("fault|error|exception", server.stderr()[before:])


# --- 408, of the requests that began with the first test


@pytest.mark.parametrize("name", ["content-length", "content-length, nothing sent", "chunked", "a byte a second"])
def test_a_body_that_stalls_is_given_up(
    stalled: dict[str, Future[Stalled]], stranger: Json, mongo: MongoClient, name: str
) -> None:
    answer, after_s, rest = stalled[name].result()
    assert_problem(answer, 408, "request_timeout", "30 s")
    assert 30 <= after_s <= 45
    assert answer.headers["connection"] == "close"
    assert rest == b""
    assert count_events(mongo, stranger) == 0
