"""Request lines: methods, protocols, versions and forms of the target, in one piece and in several."""

import re
import time
from contextlib import suppress

import pytest

from tests.support.harness import Json, Server
from tests.support.timing import assert_faster_than
from tests.support.wire import EVENTS, connect, responses_in, rest_of, talk

HOST = b"\r\nHost: x\r\n\r\n"
CLOSE = b"\r\nHost: x\r\nConnection: close\r\n\r\n"
GET = b"GET /health/live HTTP/1.1"

OTHERS = {
    b"FOO /api/v1/events HTTP/1.1": 501,
    b"post /api/v1/events HTTP/1.1": 501,
    b"POSTX /api/v1/events HTTP/1.1": 501,
    b"DESCRIBE /health/live HTTP/1.1": 501,
    b"FOO /" + b"a" * 20_000 + b" HTTP/1.1": 501,
    b"GET /health/live HTTP/2.0": 505,
    b"GET /health/live HTTP/0.9": 505,
    b"GET /health/live HTTP/1.2": 505,
    b"GET /health/live HTTP/1.9": 505,
    b"GET /health/live HTTP/3.0": 505,
    b"PRI * HTTP/2.0": 505,
    b"GET /health/live RTSP/1.0": 400,
    b"GET /health/live RTSP/1.1": 400,
    b"DESCRIBE /health/live RTSP/1.0": 400,
    b"SOURCE /api/v1/events ICE/1.0": 400,
    b"GET /health/live FTP/1.0": 400,
    b"FOO nonsense": 400,
}


def in_pieces(server: Server, *pieces: bytes) -> bytes:
    """What comes for pieces that arrive one after the other."""
    with connect(server) as connection:
        with suppress(ConnectionError):  # after a rejection it reads on for some seconds only
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.005)  # so that they are not read together
        return rest_of(connection)


@pytest.mark.parametrize("line", OTHERS, ids=lambda line: line[:40].decode())
def test_lines_that_are_not_for_this_server(server: Server, line: bytes) -> None:
    request = line + HOST
    cuts = [[request], [request[:2], request[2:]], [GET + HOST + request], [GET + HOST + request[:3], request[3:]]]
    if len(request) < 100:
        cuts.append([request[n : n + 1] for n in range(len(request))])
    for pieces in cuts:
        answers = [(answer.status, answer.code) for answer in responses_in(in_pieces(server, *pieces))]
        before = [(200, "ok")] if pieces[0].startswith(GET + HOST) else []
        assert answers == [*before, (OTHERS[line], "malformed_request")], pieces


def test_what_cannot_become_a_request_line_is_rejected_at_once(server: Server) -> None:
    def send() -> None:
        (answer,) = responses_in(talk(server, b"\x16\x03\x01\x02\x00"))
        assert (answer.status, answer.code) == (400, "malformed_request")

    assert_faster_than(5, send)


@pytest.mark.parametrize("piece", [b"FO", b"FOO " + b"a" * 1_000])
def test_an_unknown_method_may_take_as_long_as_a_head(server: Server, piece: bytes) -> None:
    (answer,) = responses_in(talk(server, piece))
    assert (answer.status, answer.code) == (408, "request_timeout")


def test_an_unknown_method_may_be_as_large_as_a_head(server: Server) -> None:
    (answer,) = responses_in(talk(server, b"FOO /" + b"a" * 70_000))
    assert (answer.status, answer.code) == (431, "headers_too_large")


@pytest.mark.parametrize("url", ["http://x", "http://x:80", "HTTP://x"])
def test_a_url_without_a_path(server: Server, url: str) -> None:
    for target, code in ((url, "ok"), (f"{url}?a=1", "ok"), (f"{url}{EVENTS}", "unauthenticated")):
        (answer,) = responses_in(talk(server, f"GET {target} HTTP/1.1".encode() + CLOSE))
        assert answer.code == code


def test_options_of_the_server(server: Server) -> None:
    (answer,) = responses_in(talk(server, b"OPTIONS * HTTP/1.1" + CLOSE))
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"


HEADS = {
    "no host": (b"HEAD / HTTP/1.1\r\n\r\n", 400),
    "a bad header": (b"HEAD / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
    "another version": (b"HEAD / HTTP/3.0\r\n\r\n", 505),
    "too large": (b"HEAD / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
    "too slow": (b"HEAD / HTTP/1.1\r\nHost", 408),
    "a bad chunk": (b"HEAD / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("before", [b"", GET + HOST])
def test_a_rejected_head_request_gets_no_body(server: Server, name: str, before: bytes) -> None:
    request, status = HEADS[name]
    received = talk(server, before + request)
    assert [int(found) for found in re.findall(rb"HTTP/1.1 (\d+) ", received)][-1] == status
    assert received.endswith(b"\r\n\r\n")


def test_a_request_after_head_gets_its_body(server: Server, key: Json) -> None:
    request = f"HEAD {EVENTS} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key['key']}\r\n\r\n".encode()
    for second in (b"\x16\x03\x01", b"FOO / HTTP/1.1\r\n", GET + b"\r\n\r\n"):
        assert talk(server, request + second).endswith(b'"code":"malformed_request"}')
