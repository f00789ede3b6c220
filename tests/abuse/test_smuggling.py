"""Requests that a proxy in front may read differently: rejected, or read in the only possible way."""

import json

import pytest

from tests.support.harness import Json, Server, batch
from tests.support.wire import responses_in, talk

GOOD = json.dumps(batch()).encode()
LENGTH = b"Content-Length: %d\r\n" % len(GOOD)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)


def shape(headers: bytes, body: bytes = CHUNKS, line: bytes = b"POST /api/v1/events HTTP/1.1\r\n") -> bytes:
    """A request with these headers and the usual ones. `{key}` stands for the key."""
    return line + b"Host: x\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n" + headers + b"\r\n" + body


OTHER_VERSIONS = {"a preface of HTTP/2", "an unknown version"}

MALFORMED = {
    "both": shape(LENGTH + CHUNKED),
    "both, in the other order": shape(CHUNKED + LENGTH),
    "two lengths": shape(LENGTH + b"Content-Length: 1\r\n", GOOD),
    "the same length twice": shape(LENGTH * 2, GOOD),
    "a list of lengths": shape(b"Content-Length: 3, 3\r\n", b"abc"),
    "negative length": shape(b"Content-Length: -1\r\n", b""),
    "signed length": shape(b"Content-Length: +3\r\n", b"abc"),
    "hexadecimal length": shape(b"Content-Length: 0x3\r\n", b"abc"),
    "overflowing length": shape(b"Content-Length: 99999999999999999999999\r\n", b""),
    "other coding": shape(b"Transfer-Encoding: xchunked\r\n"),
    "identity": shape(b"Transfer-Encoding: identity\r\n"),
    "chunked, then another": shape(b"Transfer-Encoding: chunked, identity\r\n"),
    "chunked twice": shape(CHUNKED * 2),
    "coding after a vertical tab": shape(b"Transfer-Encoding:\x0bchunked\r\n"),
    "space before the colon": shape(b"Transfer-Encoding : chunked\r\n"),
    "space before the name": shape(b" Transfer-Encoding: chunked\r\n"),
    "folded": shape(b"X: a\r\n Transfer-Encoding: chunked\r\n"),
    "no name": shape(b": chunked\r\n"),
    "nul in a value": shape(b"X: a\0b\r\n"),
    "bare line feeds": shape(LENGTH, GOOD).replace(b"\r\n", b"\n"),
    "bare carriage returns": shape(LENGTH, GOOD).replace(b"\r\n", b"\r"),
    "overflowing chunk": shape(CHUNKED, b"F" * 18 + b"\r\n"),
    "negative chunk": shape(CHUNKED, b"-1\r\n"),
    "prefixed chunk": shape(CHUNKED, b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk with a bare line feed": shape(CHUNKED, b"3\nabc\n0\n\n"),
    "chunk longer than it says": shape(CHUNKED, b"3\r\nabcd\r\n0\r\n\r\n"),
    "authority for a target": b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown version": b"GET / HTTP/3.7\r\nHost: x\r\n\r\n",
    "another protocol": b"GET / RTSP/1.0\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_it_is_rejected_and_what_follows_is_not_read(server: Server, key: Json, name: str) -> None:
    request = MALFORMED[name].replace(b"{key}", key["key"].encode())
    hidden = shape(LENGTH + b"Connection: close\r\n", GOOD).replace(b"{key}", key["key"].encode())
    for pieces in ((request + hidden,), (request[:40], request[40:] + hidden)):
        (response,) = responses_in(talk(server, *pieces))
        assert (response.status, response.code) == (505 if name in OTHER_VERSIONS else 400, "malformed_request")


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        (b"POST http://y/api/v1/events HTTP/1.1\r\n", ["ok"]),
        (b"POST /api/v1/events HTTP/1.0\r\n", ["ok"]),
        (b"POST //api/v1/events HTTP/1.1\r\n", ["ok"]),
        (b"POST /api/v1/%65vents HTTP/1.1\r\n", ["ok"]),
        (b"POST /api/v1/../v1/events HTTP/1.1\r\n", ["not_found"]),
    ],
    ids=["absolute", "HTTP/1.0", "slashes", "percent", "dots"],
)
def test_targets(server: Server, key: Json, line: bytes, codes: list[str]) -> None:
    request = shape(LENGTH + b"Connection: close\r\n", GOOD, line).replace(b"{key}", key["key"].encode())
    assert [response.code for response in responses_in(talk(server, request))] == codes
