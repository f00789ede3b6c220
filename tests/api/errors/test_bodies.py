"""Bodies that are rejected as a whole, and the largest and strangest that are accepted.

A body that stalls is rejected after 30 s. So the connections that stall are opened when the first test of this module
starts, and the last tests look at them.
"""

import gzip
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import httpx
import pytest
from backports import zstd

from tests.support.bodies import (
    GOOD,
    GZIP,
    JSON,
    MIB,
    ZSTD,
    arrays,
    many_integers,
    objects,
    padded,
    with_data,
)
from tests.support.harness import Json, MongoClient, Server, batch, event
from tests.support.problems import EVENTS, assert_problem, count_events, read_response
from tests.support.wire import connect, head


class Call(NamedTuple):
    """A POST and its rejection. `detail` is a pattern for the detail of the problem."""

    content: bytes | Callable[[], bytes]
    status: int
    code: str
    detail: str
    headers: dict[str, str] = JSON


class Stalled(NamedTuple):
    """The response to a request whose body stopped arriving, and when it came."""

    response: httpx.Response
    after_s: float
    rest: bytes


@pytest.fixture(scope="module", autouse=True)
def stalled(server: Server, stranger: Json) -> Iterator[dict[str, Future[Stalled]]]:
    """Requests whose bodies stall while the other tests run."""
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
        return Stalled(read_response(connection), time.monotonic() - since, connection.recv(1))

    with ThreadPoolExecutor(len(opened)) as threads:
        futures = [threads.submit(wait_for_the_end, *pair) for pair in zip(opened, beginnings.values(), strict=True)]
        yield dict(zip(beginnings, futures, strict=True))
        for connection in opened:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # if the test that waits for them did not run
            connection.close()


# --- 400 malformed_json, 413, 415, and 400 invalid_batch for the batch as a whole

BODIES = {
    "empty": Call(b"", 400, "malformed_json", "it is empty"),
    "not json": Call(b"source=backend", 400, "malformed_json", "byte 0"),
    "truncated": Call(GOOD[:-3], 400, "malformed_json", f"byte {len(GOOD) - 3}"),
    "trailing garbage": Call(GOOD + b" x", 400, "malformed_json", f"byte {len(GOOD) + 2}"),
    "two values": Call(GOOD + GOOD, 400, "malformed_json", f"byte {len(GOOD) + 1}"),
    "trailing comma": Call(with_data('{"a":1,}'), 400, "malformed_json", "byte"),
    "single quotes": Call(b"{'source':'backend'}", 400, "malformed_json", "byte 1"),
    "nan": Call(with_data('{"a":NaN}'), 400, "malformed_json", "NaN"),
    "infinity": Call(with_data('{"a":-Infinity}'), 400, "malformed_json", "-Infinity"),
    "leading zero": Call(with_data('{"a":01}'), 400, "malformed_json", "byte"),
    "control character": Call(with_data('{"a":"\n"}'), 400, "malformed_json", "byte|char"),
    "two byte order marks": Call(b"\xef\xbb\xbf" * 2 + GOOD, 400, "malformed_json", "byte order mark.*byte 0"),
    "record separator": Call(b"\x1e" + GOOD, 400, "malformed_json", "record separator.*byte 0"),
    "utf-16": Call(GOOD.decode().encode("utf-16"), 400, "malformed_json", "byte 0"),
    "not utf-8 in source": Call(b'{"source":"\xff","events":[]}', 400, "malformed_json", "UTF-8.*byte 11"),
    "not utf-8 in data": Call(with_data('{"a":"?"}').replace(b"?", b"\xed\xa0\x80"), 400, "malformed_json", "UTF-8"),
    "too deep": Call(with_data(objects(100_000)), 400, "malformed_json", "nested too deep"),
    "too deep and unclosed": Call(b"[" * 100_000, 400, "malformed_json", "nested too deep"),
    "gzip garbage": Call(b"garbage", 400, "malformed_json", "gzip", GZIP),
    "gzip truncated": Call(gzip.compress(GOOD)[:-9], 400, "malformed_json", "gzip", GZIP),
    "gzip with a bad checksum": Call(gzip.compress(GOOD)[:-8] + bytes(8), 400, "malformed_json", "gzip", GZIP),
    "gzip, then garbage": Call(gzip.compress(GOOD) + b"garbage", 400, "malformed_json", "gzip", GZIP),
    "gzip of nothing": Call(gzip.compress(b""), 400, "malformed_json", "it is empty", GZIP),
    "gzip, empty": Call(b"", 400, "malformed_json", "", GZIP),
    "zstd garbage": Call(b"garbage", 400, "malformed_json", "zstd", ZSTD),
    "zstd truncated": Call(zstd.compress(GOOD)[:-3], 400, "malformed_json", "zstd", ZSTD),
    "zstd, then garbage": Call(zstd.compress(GOOD) + b"garbage", 400, "malformed_json", "zstd", ZSTD),
    "zstd, empty": Call(b"", 400, "malformed_json", "", ZSTD),
    "an array": Call(b"[]", 400, "invalid_batch", "Expected `object`, got `array`"),
    "null": Call(b"null", 400, "invalid_batch", "Expected `object`, got `null`"),
    "a string": Call(b'"backend"', 400, "invalid_batch", "Expected `object`, got `string`"),
    "no source": Call(b'{"events":[{"type":"a","data":{}}]}', 400, "invalid_batch", "^source: .*missing"),
    "no events": Call(b'{"source":"backend"}', 400, "invalid_batch", "^events: .*missing"),
    "source a number": Call(b'{"source":1,"events":[]}', 400, "invalid_batch", "^source: Expected `string`"),
    "source null": Call(b'{"source":null,"events":[]}', 400, "invalid_batch", "^source: Expected `string`"),
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
    "1,001 events": Call(
        json.dumps(batch(1001)).encode(), 400, "invalid_batch", "^events: over 1000 given, 1 to 1000 allowed"
    ),
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
    "empty gzip members": Call(
        lambda: gzip.compress(b"") * 500_000, 413, "payload_too_large", "over 2000 compressed parts", GZIP
    ),
    "empty zstd frames": Call(
        lambda: zstd.compress(b"") * 1_000_000, 413, "payload_too_large", "over 2000 compressed parts", ZSTD
    ),
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
def test_rejected_body(rejected_client: httpx.Client, call: Call) -> None:
    content = call.content() if callable(call.content) else call.content
    response = rejected_client.post(EVENTS, content=content, headers=call.headers)
    problem = assert_problem(response, call.status, call.code, call.detail)
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
        response = client.post(EVENTS, content=content(), headers=headers)
    assert response.status_code == 201, response.text


@pytest.mark.parametrize("body", ["0 events", "unknown field", "truncated", "over 32 MiB as bson"])
def test_lenient_handling_forgives_events_only(rejected_client: httpx.Client, body: str) -> None:
    call = BODIES[body]
    content = call.content() if callable(call.content) else call.content
    response = rejected_client.post(EVENTS, content=content, headers={**JSON, "Prefer": "handling=lenient"})
    assert_problem(response, call.status, call.code, call.detail)


@pytest.mark.parametrize("size", [10 * MIB + 1, 40 * MIB])
def test_too_large_a_body_in_chunks(rejected_client: httpx.Client, size: int) -> None:
    content = (bytes(min(MIB, size - sent)) for sent in range(0, size, MIB))
    assert_problem(rejected_client.post(EVENTS, content=content, headers=JSON), 413, "payload_too_large", "10 MiB")


# --- 408


@pytest.mark.parametrize("name", ["content-length", "content-length, nothing sent", "chunked", "a byte a second"])
def test_a_body_that_stalls_is_given_up(
    stalled: dict[str, Future[Stalled]], stranger: Json, mongo: MongoClient, name: str
) -> None:
    response, after_s, rest = stalled[name].result()
    assert_problem(response, 408, "request_timeout", "30 s")
    assert 30 <= after_s <= 45
    assert response.headers["connection"] == "close"
    assert rest == b""
    assert count_events(mongo, stranger) == 0
