"""The port of the metrics: it serves nothing else, and nobody can keep a scraper from it."""

import socket
from contextlib import ExitStack
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.harness import Server
from tests.support.logs import tells_of_an_error
from tests.support.wire import Response, responses_in, rest_of

SENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736"

CLOSE = f"Host: x\r\nX-Request-ID: {SENT_ID}\r\nConnection: close\r\n\r\n".encode()


def connect_to_metrics(server: Server) -> socket.socket:
    host, port = urlsplit(server.metrics).netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def ask(server: Server, request: bytes) -> Response:
    """The only response to the bytes of a request."""
    with connect_to_metrics(server) as connection:
        connection.sendall(request)
        (response,) = responses_in(rest_of(connection))
        return response


class Refused(NamedTuple):
    request: bytes
    status: int
    code: str


REFUSED = {
    "another path": Refused(b"GET /api/v1/events HTTP/1.1\r\n" + CLOSE, 404, "not_found"),
    "POST": Refused(b"POST /metrics HTTP/1.1\r\nContent-Length: 2\r\n" + CLOSE + b"{}", 405, "method_not_allowed"),
    "DELETE": Refused(b"DELETE /metrics HTTP/1.1\r\n" + CLOSE, 405, "method_not_allowed"),
    "OPTIONS": Refused(b"OPTIONS /metrics HTTP/1.1\r\n" + CLOSE, 405, "method_not_allowed"),
    "a header that is not UTF-8": Refused(
        b"GET /metrics HTTP/1.1\r\nAccept: \xff\r\n" + CLOSE, 400, "malformed_request"
    ),
    "a query that is not ASCII": Refused(b"GET /metrics?a=\xff HTTP/1.1\r\n" + CLOSE, 400, "malformed_request"),
    "a bad chunk": Refused(
        b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"xyz\r\n", 400, "malformed_request"
    ),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_only_metrics_are_served(server: Server, refused: Refused) -> None:
    before = len(server.stderr())
    response = ask(server, refused.request)
    assert (response.status, response.code) == (refused.status, refused.code)
    assert response.headers["x-request-id"] == SENT_ID
    assert response.headers.get("allow") == ("GET, HEAD" if refused.status == 405 else None)
    assert not tells_of_an_error(server.stderr()[before:])


def test_get_and_head(server: Server) -> None:
    for method in ("GET", "HEAD"):
        response = httpx.request(method, server.metrics, trust_env=False)
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/plain")


UNUSED = {
    "nothing": b"",
    "half a head": b"GET /metrics HTTP/1.1\r\n",
    "requests that were answered": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", UNUSED.values(), ids=UNUSED)
def test_connections_that_are_not_used_keep_nobody_from_the_metrics(server: Server, sent: bytes) -> None:
    with ExitStack() as opened, httpx.Client(trust_env=False, timeout=10) as scraper:
        for _ in range(300):
            opened.enter_context(connect_to_metrics(server)).sendall(sent)
        for _ in range(3):
            assert scraper.get(server.metrics).status_code == 200
            assert httpx.get(server.metrics, trust_env=False).status_code == 200


def test_a_scraper_may_keep_its_connection(server: Server) -> None:
    """Between two scrapes there are up to 60 s, and the server says how long it keeps connections."""
    response = httpx.get(server.metrics, trust_env=False)
    assert response.headers["keep-alive"] == "timeout=90"
