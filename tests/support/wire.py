"""HTTP/1.1 over raw sockets: sends requests as bytes, and parses the responses."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import NamedTuple

from server.core.errors import Code
from server.status import STATUS
from tests.support.harness import Json, Server

RESPONSE_TIMEOUT_S = 40
"""Longer than the server ever takes: it rejects a body that stalls after 30 s."""

EVENTS = "/api/v1/events"

UNSUPPORTED = (501, 505)
"""For a method that is unknown, and a version of HTTP that is not 1.1."""


class Response(NamedTuple):
    """One response of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """`ok`, also for a redirection, or the code of an error. Fails if the error lacks a required part."""
        return "ok" if self.status < 400 else code_of(self)


def code_of(response: Response) -> str:
    """The code of an error response. Fails unless it is a problem+json whose code goes with the status."""
    assert response.headers["content-type"] == "application/problem+json", response
    problem: Json = json.loads(response.body)
    code = Code(problem["code"])
    assert response.status == problem["status"], response
    assert response.status in {STATUS[code].http, *(UNSUPPORTED if code is Code.MALFORMED_REQUEST else ())}, response
    assert problem["detail"], response
    if STATUS[code].retryable:
        assert int(response.headers["retry-after"]) >= 1, response
    return code.value


def connect(server: Server, timeout_s: float = RESPONSE_TIMEOUT_S) -> socket.socket:
    """A connection to the REST port."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def talk(server: Server, *pieces: bytes) -> bytes:
    """Send the pieces one by one. Returns all bytes that come until the server closes the connection."""
    with connect(server) as connection:
        with suppress(ConnectionError):  # it may stop reading early
            for piece in pieces:
                connection.sendall(piece)
        return rest_of(connection)


def rest_of(connection: socket.socket) -> bytes:
    """All bytes that come until the server closes the connection."""
    received = b""
    with suppress(ConnectionError):
        while chunk := connection.recv(65_536):
            received += chunk
    return received


def responses_in(received: bytes) -> list[Response]:
    """The responses in the bytes that were received."""
    return list(read_responses(BytesIO(received)))


def read_responses(received: BytesIO) -> Iterator[Response]:
    """The responses in the bytes that were received, one after the other."""
    while status_line := received.readline():
        version, status, _ = status_line.split(b" ", 2)
        assert version == b"HTTP/1.1", status_line
        headers = dict(iter(lambda: read_header(received), ("", "")))
        yield Response(int(status), headers, read_body(received, headers))


def read_header(received: BytesIO) -> tuple[str, str]:
    """The next header; two empty strings after the last."""
    name, _, value = received.readline().decode("latin-1").partition(":")
    return name.strip().lower(), value.strip()


def read_body(received: BytesIO, headers: dict[str, str]) -> bytes:
    """The body of a response."""
    if "content-length" in headers:
        return received.read(int(headers["content-length"]))
    assert headers["transfer-encoding"] == "chunked"
    body = b""
    while size := int(received.readline(), 16):
        body += received.read(size)
        received.readline()
    received.readline()
    return body


def post(key: str, body: bytes, *headers: str) -> bytes:
    """The bytes of a POST, after which the connection is closed unless a header says otherwise."""
    return head(key, f"Content-Length: {len(body)}", *headers) + body


def head(key: str, *headers: str) -> bytes:
    """The bytes of a POST up to its body."""
    lines = (f"POST {EVENTS} HTTP/1.1", "Host: x", f"X-API-Key: {key}", "Content-Type: application/json")
    return "\r\n".join((*lines, *headers, "", "")).encode()
