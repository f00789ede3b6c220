"""Requests of one connection that are sent without waiting: all are answered in order, and then what ends it."""

import json
import socket
import time

import pytest

from tests.support.harness import Json, Server, batch
from tests.support.timing import assert_faster_than
from tests.support.wire import connect, head, post, responses_in, rest_of, talk

GOOD = json.dumps(batch()).encode()
GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"

BAD = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed_request"),
    "garbage": (b"\x16\x03\x01\r\n", 400, "malformed_request"),
    "nonsense": (b"nonsense\r\n\r\n", 400, "malformed_request"),
    "two lengths": (head("slc_x", "Content-Length: 3", "Transfer-Encoding: chunked"), 400, "malformed_request"),
    "a bad chunk": (head("slc_x", "Transfer-Encoding: chunked") + b"xyz\r\n", 400, "malformed_request"),
    "a bad method": (b"FOO / HTTP/1.1\r\n\r\n", 501, "malformed_request"),
    "a large head": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000, 431, "headers_too_large"),
    "a slow head": (b"GET / HTTP/1.1\r\nHost:", 408, "request_timeout"),
}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param(name, count, marks=[pytest.mark.long] if (name, count) == ("a slow head", 1) else [])
        for name in BAD
        for count in (1, 3)
    ],
)
def test_a_bad_request_is_answered_after_those_before_it(server: Server, key: Json, name: str, count: int) -> None:
    bad, *expected = BAD[name]
    for good, status in ((GET, 200), (post(key["key"], GOOD), 201)):
        *before, last = responses_in(talk(server, good * count + bad))
        assert [answer.status for answer in before] == [status] * count
        assert all("connection" not in answer.headers for answer in before)
        assert [last.status, last.code] == expected
        assert last.headers["connection"] == "close"


def test_a_bad_request_after_the_end_of_a_body(server: Server, key: Json) -> None:
    request = post(key["key"], GOOD)
    with connect(server) as connection:
        connection.sendall(request[:-10])
        time.sleep(0.1)
        connection.sendall(request[-10:] + b"\x16\x03\x01")
        assert [answer.status for answer in responses_in(rest_of(connection))] == [201, 400]


def test_what_follows_a_bad_request_is_not_read(server: Server, key: Json) -> None:
    received = talk(server, GET + b"GET / HTTP/1.1\r\n\r\n" + post(key["key"], GOOD) * 3)
    assert [answer.status for answer in responses_in(received)] == [200, 400]


def test_a_bad_request_of_a_client_that_sends_no_more(server: Server, key: Json) -> None:
    def send() -> None:
        with connect(server) as connection:
            connection.sendall(post(key["key"], GOOD) + b"GET / HTTP/1.1\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert [answer.status for answer in responses_in(rest_of(connection))] == [201, 400]

    assert_faster_than(1, send)


@pytest.mark.parametrize("bad", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
def test_nothing_is_answered_after_a_request_that_ends_the_connection(server: Server, key: Json, bad: bytes) -> None:
    (answer,) = responses_in(talk(server, post(key["key"], GOOD, "Connection: close") + bad))
    assert answer.status == 201


def test_a_rejection_in_place_of_100_ends_the_connection(server: Server, key: Json) -> None:
    expecting = f"Content-Length: {len(GOOD)}", "Expect: 100-continue"
    with connect(server) as connection:
        connection.sendall(head("slc_x", *expecting))
        received = connection.recv(65_536)  # if a body came before the rejection, it would be taken for the request's
        connection.sendall(post(key["key"], GOOD))  # instead of the body
        (answer,) = responses_in(received + rest_of(connection))
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    assert "keep-alive" not in answer.headers


def test_a_rejection_of_a_body_that_is_there_does_not(server: Server, key: Json) -> None:
    first = post("slc_x", GOOD, "Expect: 100-continue")
    answers = responses_in(talk(server, first + post(key["key"], GOOD, "Connection: close")))
    assert [answer.status for answer in answers] == [401, 201]
