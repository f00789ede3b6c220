"""Requests that the protocol answers itself: each is counted once, by what it was answered, and has its own id."""

import json
import socket
import time
import uuid

import pytest

from tests.support.harness import Json, Server, batch
from tests.support.metrics import Scrape, changes, received, scrape_when_idle
from tests.support.wire import EVENTS, connect, head, post, responses_in, rest_of, talk

GOOD = json.dumps(batch()).encode()

PAUSE_S = 0.3
"""Long enough for the handler of a request to begin, and to check its key."""


@pytest.fixture
def before(server: Server) -> Scrape:
    return scrape_when_idle(server)


@pytest.fixture
def sent_id() -> str:
    return uuid.uuid4().hex


def refused(code: str) -> dict[str, int]:
    return {**received("rest", 1, 0), f"requests_refused {code} rest": 1}


def with_id(start: str, sent_id: str) -> bytes:
    return f"{start}\r\nX-Request-ID: {sent_id}\r\n".encode()


HEADS = {
    "no host": ("GET / HTTP/1.1", b"\r\n", 400, "malformed_request"),
    "two hosts": ("GET / HTTP/1.1\r\nHost: x\r\nHost: y", b"\r\n", 400, "malformed_request"),
    "a bad host": ("GET / HTTP/1.1\r\nHost: a b", b"\r\n", 400, "malformed_request"),
    "another version": ("GET / HTTP/3.0\r\nHost: x", b"\r\n", 505, "malformed_request"),
    "another method": ("FOO / HTTP/1.1\r\nHost: x", b"\r\n", 501, "malformed_request"),
    "two ids": ("GET / HTTP/1.1\r\nX-Request-ID: 4bf92f3577b34da6a3ce929d0e0e4736", b"\r\n", 400, "malformed_request"),
    "CONNECT": ("CONNECT x:1 HTTP/1.1\r\nHost: x", b"\r\n", 400, "malformed_request"),
    "a bad header": ("GET / HTTP/1.1\r\nHost: x", b"A\x01: b\r\n\r\n", 400, "malformed_request"),
    "a bad length": ("POST / HTTP/1.1\r\nHost: x", b"Content-Length: x\r\n\r\n", 400, "malformed_request"),
    "two lengths": (
        "POST / HTTP/1.1\r\nHost: x",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "malformed_request",
    ),
    "a large head": ("GET / HTTP/1.1\r\nHost: x", b"A: " + b"x" * 70_000 + b"\r\n\r\n", 431, "headers_too_large"),
    "a large name": ("GET / HTTP/1.1\r\nHost: x", b"x" * 70_000, 431, "headers_too_large"),
    "a slow head": ("GET / HTTP/1.1\r\nHost: x", b"", 408, "request_timeout"),
}


@pytest.mark.parametrize(("start", "rest", "status", "code"), HEADS.values(), ids=HEADS)
def test_a_head(server: Server, before: Scrape, sent_id: str, start: str, rest: bytes, status: int, code: str) -> None:
    (answer,) = responses_in(talk(server, with_id(start, sent_id) + rest))
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["x-request-id"] == sent_id
    assert changes(server, before) == refused(code)


@pytest.mark.parametrize("rest", [b"", b"A\x01: b\r\n\r\n"], ids=["slow", "bad"])
def test_a_head_whose_id_is_not_complete(server: Server, sent_id: str, rest: bytes) -> None:
    request = with_id("GET / HTTP/1.1\r\nHost: x", sent_id)[:-2]
    (answer,) = responses_in(talk(server, request + rest))
    assert answer.headers["x-request-id"] not in {sent_id, ""}


def test_the_head_after_another_has_not_its_id(server: Server, key: Json, before: Scrape, sent_id: str) -> None:
    good = post(key["key"], GOOD, f"X-Request-ID: {sent_id}")
    first, second = responses_in(talk(server, good + b"GET / HTTP/1.1\r\n\r\n"))
    assert (first.status, second.status) == (201, 400)
    assert second.headers["x-request-id"] not in {sent_id, ""}
    assert changes(server, before) == {
        **received("rest", 2, 1),
        "requests_stored rest": 1,
        "events_stored rest": 1,
        "requests_refused malformed_request rest": 1,
    }


BODIES = {
    "a bad chunk": (b"xyz\r\n", "malformed_request"),
    "a bad chunk after another": (b"3\r\nabc\r\nx\r\n", "malformed_request"),
    "a chunk that is longer than it says": (b"3\r\nabcdef\r\n", "malformed_request"),
    "a bad trailer": (b"0\r\nA\x01: b\r\n\r\n", "malformed_request"),
    "much framing": (b"1;" + b"x" * 100_000, "headers_too_large"),
}

PATHS = {
    "a batch": f"POST {EVENTS}",
    "a raw body": f"POST {EVENTS}?source=a&type=b",
    "health": "POST /health/live",
    "no route": "POST /nowhere",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(("body", "code"), BODIES.values(), ids=BODIES)
def test_a_body_that_breaks_at_once(
    server: Server, key: Json, before: Scrape, sent_id: str, path: str, body: bytes, code: str
) -> None:
    start = head(key["key"], "Transfer-Encoding: chunked", f"X-Request-ID: {sent_id}")
    (answer,) = responses_in(talk(server, start.replace(f"POST {EVENTS}".encode(), path.encode()) + body))
    found = changes(server, before)
    if "nowhere" in path or "health" in path:  # what is over 16 KiB is parsed in a later turn, or comes with it
        assert sum(found.values()) == 2
        assert found[f"requests_refused {answer.code} rest"] == 1
    else:
        assert answer.code == code
        assert found == refused(code)
    assert answer.headers["x-request-id"] == sent_id


@pytest.mark.parametrize("path", [PATHS["a batch"], PATHS["a raw body"]], ids=["a batch", "a raw body"])
@pytest.mark.parametrize(("body", "code"), BODIES.values(), ids=BODIES)
def test_a_body_that_breaks_later(
    server: Server, key: Json, before: Scrape, sent_id: str, path: str, body: bytes, code: str
) -> None:
    start = head(key["key"], "Transfer-Encoding: chunked", f"X-Request-ID: {sent_id}")
    with connect(server) as connection:
        connection.sendall(start.replace(f"POST {EVENTS}".encode(), path.encode()))
        time.sleep(PAUSE_S)
        connection.sendall(body)
        (answer,) = responses_in(rest_of(connection))
    assert answer.code == code
    assert answer.headers["x-request-id"] == sent_id
    assert changes(server, before) == refused(code)


def test_a_tenant_sees_it_among_its_rejections(server: Server) -> None:
    key = server.create_key(uuid.uuid4().hex)
    with connect(server) as connection:
        connection.sendall(head(key["key"], "Transfer-Encoding: chunked"))
        time.sleep(PAUSE_S)
        connection.sendall(b"xyz\r\n")
        (answer,) = responses_in(rest_of(connection))
    assert answer.code == "malformed_request"
    with server.client(key["key"]) as client:
        end = time.monotonic() + 30
        while not (found := client.get("/api/v1/rejections").json()) and time.monotonic() < end:
            time.sleep(0.1)
    assert [item["code"] for item in found] == ["malformed_request"]


def test_a_body_that_breaks_after_its_response_changes_nothing(server: Server, before: Scrape) -> None:
    with connect(server) as connection:
        connection.sendall(head("slc_none", "Transfer-Encoding: chunked"))
        first = connection.recv(65_536)
        connection.sendall(b"nonsense\r\n")
        (answer,) = responses_in(first + rest_of(connection))
    assert answer.code == "unauthenticated"
    assert changes(server, before) == refused("unauthenticated")


def test_a_body_that_breaks_while_an_earlier_request_is_answered(
    server: Server, key: Json, before: Scrape, sent_id: str
) -> None:
    broken = head(key["key"], "Transfer-Encoding: chunked", f"X-Request-ID: {sent_id}") + b"xyz\r\n"
    first, second = responses_in(talk(server, post(key["key"], GOOD) + broken))
    assert (first.code, second.code) == ("ok", "malformed_request")
    assert second.headers["x-request-id"] == sent_id
    assert changes(server, before) == {
        **received("rest", 2, 1),
        "requests_stored rest": 1,
        "events_stored rest": 1,
        "requests_refused malformed_request rest": 1,
    }


def test_a_client_that_goes_away_within_a_body_before_its_turn(server: Server, key: Json, before: Scrape) -> None:
    with connect(server) as connection:
        connection.sendall((post(key["key"], GOOD) * 3)[:-5])
        connection.shutdown(socket.SHUT_WR)
        assert [answer.code for answer in responses_in(rest_of(connection))] == ["ok"] * 2
    assert changes(server, before) == {
        **received("rest", 3, 2),
        "requests_stored rest": 2,
        "events_stored rest": 2,
        "requests_refused client_gone rest": 1,
    }
