"""Heads that are too large or too slow, and connections that send or read nothing.

The slow connections are opened when the first test of this module starts, and the last tests look at them.
"""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import pytest

from server.rest.http.ending import DISCARD_TIMEOUT_S
from server.rest.http.protocol import HEAD_TIMEOUT_S, MAX_HEAD_BYTES
from server.rest.http.response_writing import WRITE_TIMEOUT_S
from tests.support.harness import Json, Server, batch, wait_until
from tests.support.pressure import memory_mib
from tests.support.wire import EVENTS, connect, head, post, responses_in, rest_of, talk

GOOD = json.dumps(batch()).encode()
CLOSE = "Connection: close"
LATE_S = 10
"""By how much the end of a slow connection may be late on a busy machine."""

SOME = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
WHOLE = SOME + b"\r\n"


def padded(start: bytes, size: int) -> bytes:
    """A head of `size` bytes that begins with `start`."""
    return start + b"X: " + b"x" * (size - len(start) - 7) + b"\r\n\r\n"


def codes_of(received: bytes) -> list[str]:
    """The codes of the responses."""
    return [response.code for response in responses_in(received)]


# --- size


def test_a_head_of_64_kib_is_accepted(server: Server) -> None:
    whole = padded(SOME + b"Connection: close\r\n", MAX_HEAD_BYTES)
    assert len(whole) == MAX_HEAD_BYTES
    for pieces in ((whole,), (whole[:30_000], whole[30_000:]), (whole[:-1], whole[-1:])):
        assert codes_of(talk(server, *pieces)) == ["ok"]


HUGE = {
    "by one byte": padded(SOME, MAX_HEAD_BYTES + 1),
    "one header": SOME + b"X: " + b"x" * 1_000_000,
    "one header's name": SOME + b"x" * 1_000_000,
    "many headers": SOME + b"X: x\r\n" * 100_000,
    "target": b"GET /" + b"a" * 1_000_000,
    "query": b"GET /api/v1/events?" + b"source=a&" * 100_000,
    "empty lines before": b"\r\n" * 100_000,
}


@pytest.mark.parametrize("request_bytes", HUGE.values(), ids=HUGE)
@pytest.mark.parametrize("piece_size", [1_000_000, 1_000])
def test_a_larger_head_is_rejected(server: Server, request_bytes: bytes, piece_size: int) -> None:
    pieces = [request_bytes[start : start + piece_size] for start in range(0, len(request_bytes), piece_size)]
    (response,) = responses_in(talk(server, *pieces))
    assert (response.status, response.code) == (431, "headers_too_large")
    assert response.headers["connection"] == "close"


def test_each_request_of_a_connection_has_its_own_64_kib(server: Server) -> None:
    large = padded(SOME, 40_000)
    assert codes_of(talk(server, large, large, padded(SOME + b"Connection: close\r\n", 40_000))) == ["ok"] * 3
    for size in (MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1):
        last = padded(SOME + b"Connection: close\r\n", size)
        code = "ok" if size == MAX_HEAD_BYTES else "headers_too_large"
        assert codes_of(talk(server, large + large + WHOLE + last)) == ["ok"] * 3 + [code]
    with connect(server) as connection:
        connection.sendall(WHOLE)
        received = b""
        while not received.endswith(b"}"):
            received += connection.recv(65_536)
        connection.sendall(HUGE["by one byte"])
        assert codes_of(rest_of(connection)) == ["headers_too_large"]


def chunked(*chunks: bytes) -> bytes:
    """The body in chunks of a byte, each with its extension."""
    return b"".join(b"%x%s\r\n%s\r\n" % (1, extension, GOOD[n : n + 1]) for n, extension in enumerate(chunks))


FRAMING = {
    "trailers": chunked(*[b""] * len(GOOD)) + b"0\r\n" + b"X: x\r\n" * 20_000,
    "one trailer": b"0\r\nX: " + b"x" * 100_000,
    "one extension": b"1;" + b"x" * 100_000,
    "extensions": chunked(*[b";" + b"x" * 1_000] * len(GOOD)) * 2,
    "digits": b"0" * 100_000,
}


@pytest.mark.parametrize("framing", FRAMING.values(), ids=FRAMING)
def test_what_frames_a_body_is_bounded_too(server: Server, key: Json, framing: bytes) -> None:
    request = head(key["key"], "Transfer-Encoding: chunked")
    for pieces in ((request + framing,), (request, framing)):
        (code,) = codes_of(talk(server, *pieces))
        assert code in {"headers_too_large", "malformed_request"}


def test_a_body_in_small_chunks_is_accepted(server: Server, key: Json) -> None:
    body = GOOD.ljust(20_000)
    chunks = b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in body)
    request = head(key["key"], "Transfer-Encoding: chunked", CLOSE) + chunks + b"0\r\nX-Checksum: 1\r\n\r\n"
    assert codes_of(talk(server, request)) == ["ok"]


def test_a_trailer_is_no_header(server: Server, key: Json) -> None:
    start = head("", "Transfer-Encoding: chunked", CLOSE).replace(b"X-API-Key: \r\n", b"")
    request = start + b"%x\r\n%s\r\n0\r\nX-API-Key: %s\r\n\r\n" % (len(GOOD), GOOD, key["key"].encode())
    assert codes_of(talk(server, request)) == ["unauthenticated"]


# --- which request a response belongs to


def test_what_comes_after_a_request_does_not_take_its_response(server: Server, key: Json) -> None:
    """A pipelining client reads responses in turn. A rejection must not look like the response to an earlier one."""
    bad = {
        b"nonsense\r\n\r\n": "malformed_request",
        HUGE["one header"]: "headers_too_large",
        head(key["key"], "Content-Length: x"): "malformed_request",
    }
    for nonsense, code in bad.items():
        assert codes_of(talk(server, post(key["key"], GOOD) * 3 + nonsense)) == ["ok"] * 3 + [code]


def test_a_body_that_breaks_off_is_rejected_once(server: Server, key: Json) -> None:
    broken = head(key["key"], "Transfer-Encoding: chunked") + b"3\r\nabc\r\nx\r\n"
    for pieces in ((broken,), (broken[:-3], broken[-3:])):
        assert codes_of(talk(server, *pieces)) == ["malformed_request"]


def test_answered_early_means_answered_once(server: Server) -> None:
    start = head("slc_none", "Transfer-Encoding: chunked")
    with connect(server) as connection:
        connection.sendall(start)
        first = connection.recv(65_536)
        connection.sendall(b"nonsense\r\n")
        assert codes_of(first + rest_of(connection)) == ["unauthenticated"]


def test_pipelined_requests_are_answered_in_turn_and_held_back(server: Server) -> None:
    """They take no more memory than their bytes, even if each request is small."""
    before = sum(map(memory_mib, server.worker_pids()))
    with connect(server) as connection:
        connection.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while sent < 100_000_000:
                sent += connection.send(WHOLE * 1_000)
        answered = 0

        def read() -> bool:
            nonlocal answered
            with suppress(BlockingIOError):
                answered += connection.recv(1_000_000).count(b"HTTP/1.1 200 OK")
            return answered >= min(20_000, sent // len(WHOLE))

        wait_until(read, "responses to what was sent")
        assert sum(map(memory_mib, server.worker_pids())) - before < 50


# --- time


class Slow(NamedTuple):
    """A slow connection: what it sends at first and then each second, and how it must end."""

    first: bytes
    again: bytes
    codes: list[str]
    seconds: float


MANY = WHOLE.replace(b"/health/live", b"/schema") * 3_000
"""Requests whose responses fill every buffer between server and client."""

SLOW = {
    "nothing": Slow(b"", b"", [], HEAD_TIMEOUT_S),
    "half a head": Slow(SOME, b"", ["request_timeout"], HEAD_TIMEOUT_S),
    "a head, header by header": Slow(SOME, b"X: x\r\n", ["request_timeout"], HEAD_TIMEOUT_S),
    "a target, byte by byte": Slow(b"GET /", b"a", ["request_timeout"], HEAD_TIMEOUT_S),
    "empty lines, which are no request": Slow(b"\r\n", b"\r\n", [], HEAD_TIMEOUT_S),
    "a second head": Slow(WHOLE + SOME, b"X: x\r\n", ["ok", "request_timeout"], HEAD_TIMEOUT_S),
    "a body already answered": Slow(
        head("slc_none", "Content-Length: 1000"), b"x", ["unauthenticated"], DISCARD_TIMEOUT_S
    ),
    "a response not read": Slow(MANY, b"", [], WRITE_TIMEOUT_S),
}


class Ended(NamedTuple):
    """How a slow connection ended."""

    received: bytes
    seconds: float


@pytest.fixture(scope="module", autouse=True)
def slow(server: Server) -> Iterator[dict[str, Future[Ended]]]:
    """Slow connections, which wait while the other tests run."""
    since = time.monotonic()  # before the server begins to count
    opened = {name: connect(server) for name in SLOW}

    def wait_for_the_end(name: str) -> Ended:
        connection = opened[name]
        connection.settimeout(1)
        received = b""
        with suppress(ConnectionError):
            if SLOW[name].first:
                send_until_full(connection, SLOW[name].first)
            while time.monotonic() - since < 2 * SLOW[name].seconds:
                if name == "a response not read":
                    wait_until(lambda: is_gone(connection), "its end", 2 * WRITE_TIMEOUT_S)
                    raise ConnectionError
                with suppress(TimeoutError):
                    if not (chunk := connection.recv(65_536)):
                        break
                    received += chunk
                    continue
                connection.sendall(SLOW[name].again)
        return Ended(received, time.monotonic() - since)

    with ThreadPoolExecutor(len(opened)) as threads:
        futures = {name: threads.submit(wait_for_the_end, name) for name in SLOW}
        yield futures
        for connection in opened.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # if the test that waits for them did not run
            connection.close()


def send_until_full(connection: socket.socket, data: bytes) -> None:
    """Send until the server reads no more."""
    with suppress(TimeoutError):
        connection.sendall(data)


def is_gone(connection: socket.socket) -> bool:
    """Whether the server has closed the connection."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_a_client_that_comes_back_in_time_is_served(server: Server, key: Json) -> None:
    request = post(key["key"], GOOD, CLOSE)
    assert codes_of(talk(server, *(request[n : n + 1] for n in range(len(request))))) == ["ok"]
    assert codes_of(
        talk(server, f"GET {EVENTS} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key['key']}\r\n{CLOSE}\r\n\r\n".encode())
    ) == ["ok"]


@pytest.mark.parametrize("name", SLOW)
def test_no_client_holds_a_connection_for_nothing(slow: dict[str, Future[Ended]], name: str) -> None:
    ended = slow[name].result()
    assert codes_of(ended.received) == SLOW[name].codes
    assert SLOW[name].seconds - 1 < ended.seconds < SLOW[name].seconds + LATE_S
