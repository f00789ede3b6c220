"""HTTP/1.1 by raw sockets: requests as bytes, and what comes back as answers."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import NamedTuple

from server.core.errors import Code
from server.status import STATUS
from tests.support.harness import Json, Server

ANSWER_TIMEOUT_S = 40
"""Longer than anything takes that the server does: a body that stalls is given up after 30 s."""

EVENTS = "/api/v1/events"


class Answer(NamedTuple):
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of a refusal, which is checked to be as it must; `ok` for what is none."""
        return "ok" if self.status < 300 else code_of(self)


def code_of(answer: Answer) -> str:
    """The code of a refusal: a problem+json whose code is known and goes with the status."""
    assert answer.headers["content-type"] == "application/problem+json", answer
    problem: Json = json.loads(answer.body)
    code = Code(problem["code"])
    assert answer.status == problem["status"] == STATUS[code].http, answer
    assert problem["detail"], answer
    if STATUS[code].retryable:
        assert int(answer.headers["retry-after"]) >= 1, answer
    return code.value


def connect(server: Server, timeout_s: float = ANSWER_TIMEOUT_S) -> socket.socket:
    """A connection."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def talk(server: Server, *pieces: bytes) -> bytes:
    """Everything that the server answers to the pieces, sent one by one, until it closes the connection."""
    with connect(server) as connection:
        with suppress(ConnectionError):  # it need not listen to the end
            for piece in pieces:
                connection.sendall(piece)
        return rest_of(connection)


def rest_of(connection: socket.socket) -> bytes:
    """Everything that comes until the server closes the connection."""
    received = b""
    with suppress(ConnectionError):
        while chunk := connection.recv(65_536):
            received += chunk
    return received


def answers_in(received: bytes) -> list[Answer]:
    """The answers that were received."""
    return list(read_answers(BytesIO(received)))


def read_answers(received: BytesIO) -> Iterator[Answer]:
    """The answers that were received, one after the other."""
    while status_line := received.readline():
        version, status, _ = status_line.split(b" ", 2)
        assert version == b"HTTP/1.1", status_line
        headers = dict(iter(lambda: read_header(received), ("", "")))
        yield Answer(int(status), headers, read_body(received, headers))


def read_header(received: BytesIO) -> tuple[str, str]:
    """The next header; two empty strings where there is none."""
    name, _, value = received.readline().decode("latin-1").partition(":")
    return name.strip().lower(), value.strip()


def read_body(received: BytesIO, headers: dict[str, str]) -> bytes:
    """The body of an answer."""
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
