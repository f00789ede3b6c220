"""What a rejection does to the connection: which bodies are not read, and that the next request is served."""

import json
import socket
import struct
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.bodies import GOOD, JSON, MIB
from tests.support.harness import Json, Server
from tests.support.logs import tells_of_an_error
from tests.support.problems import EVENTS, assert_problem, read_response
from tests.support.wire import connect, head


def test_too_large_a_body_is_rejected_without_reading_it(server: Server, stranger: Json) -> None:
    with connect(server) as connection:
        connection.sendall(head(stranger["key"], f"Content-Length: {10 * MIB + 1}", "Expect: 100-continue"))
        first = connection.recv(20, socket.MSG_PEEK)
        assert first.startswith(b"HTTP/1.1 413 ")
        assert_problem(read_response(connection), 413, "payload_too_large", "10 MiB")


def test_a_body_is_asked_for(server: Server, key: Json) -> None:
    with connect(server) as connection:
        connection.sendall(head(key["key"], f"Content-Length: {len(GOOD)}", "Expect: 100-continue"))
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert read_response(connection).status_code == 201


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
def test_a_connection_survives_a_rejection(
    server: Server, key: Json, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    """This client sends its whole body before it reads a byte of the response."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.connect()
    connection.auto_open = 0
    try:
        connection.request(method, path, **{**options, "headers": {"X-API-Key": key["key"], **options["headers"]}})
        rejection = connection.getresponse()
        assert rejection.status == status
        assert json.loads(rejection.read())["status"] == status
        connection.request("POST", EVENTS, body=GOOD, headers={**JSON, "X-API-Key": key["key"]})
        assert connection.getresponse().status == 201
    finally:
        connection.close()


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("length", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_client_that_goes_away_is_no_internal_error(server: Server, stranger: Json, length: str, abort: bool) -> None:
    before = len(server.stderr())
    for _ in range(10):
        with connect(server) as connection:
            connection.sendall(head(stranger["key"], length) + b"5\r\n{")
            if abort:  # with a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(10):  # on new connections, to reach every worker
        with server.client(stranger["key"]) as client:
            assert client.get(EVENTS).json() == []
    assert not tells_of_an_error(server.stderr()[before:])
