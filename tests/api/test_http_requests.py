"""Requests that RFC 9110 and 9112 allow, or forbid, and what every response carries."""

import gzip
import json
import re
import socket
import time
from contextlib import closing
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest

from server.rest.http.ending import LINGER_S
from tests.support.harness import Json, Server, batch
from tests.support.problems import read_response
from tests.support.timing import assert_faster_than
from tests.support.wire import EVENTS, connect, head, post, responses_in, rest_of, talk

GOOD = json.dumps(batch()).encode()
CLOSE = "Connection: close"
GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"

# --- the end of a connection


def half_closed(server: Server, *pieces: bytes) -> bytes:
    """What comes for the pieces if the client then sends no more."""
    with connect(server) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        return rest_of(connection)


def test_a_client_that_sends_no_more_is_answered(server: Server, key: Json) -> None:
    body = json.dumps({"source": "a", "events": [{"type": "a", "data": {"s": "x" * 5_000}}] * 1_000}).encode()
    for request in (post(key["key"], GOOD), post(key["key"], body)):
        (answer,) = responses_in(half_closed(server, request))
        assert answer.status == 201
    received = half_closed(server, post(key["key"], GOOD) * 3)
    assert [answer.status for answer in responses_in(received)] == [201] * 3
    received = half_closed(server, post(key["key"], GOOD) + GET)  # the last one is incomplete
    assert [answer.status for answer in responses_in(received)] == [201]
    received = half_closed(server, post(key["key"], GOOD) + head(key["key"], "Content-Length: 9") + b"{")
    assert [answer.status for answer in responses_in(received)] == [201]


@pytest.mark.parametrize("request_bytes", [b"", b"GET / HT", GET, head("slc_x", "Content-Length: 9")[:-2]])
def test_a_client_that_sends_no_whole_request_is_not(server: Server, request_bytes: bytes) -> None:
    def send() -> None:
        assert half_closed(server, request_bytes) == b""

    assert_faster_than(1, send)


@pytest.mark.parametrize("status", [401, 415, 404, 413])
def test_a_large_request_that_is_rejected_early_gets_its_response(server: Server, key: Json, status: int) -> None:
    size = 11_000_000 if status == 413 else 8_000_000
    path = "/nothing" if status == 404 else EVENTS
    headers = {"X-API-Key": "slc_x" if status == 401 else key["key"], "Connection": "close"}
    headers["Content-Type"] = "text/plain" if status == 415 else "application/json"
    answered = 0
    while answered < 5:
        with closing(HTTPConnection(urlsplit(server.url).netloc, timeout=30)) as connection:
            began = time.monotonic()
            try:
                connection.request("POST", path, bytes(size), headers)
            except ConnectionError:  # this process stood still, and sent nothing for too long
                assert time.monotonic() - began >= LINGER_S
                continue
            response = connection.getresponse()
            assert response.status == status
            assert json.loads(response.read())["status"] == status
            answered += 1


def test_an_idle_connection_says_how_long_it_is_kept(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        for path in ("/health/live", EVENTS, "/nothing", "/schema"):
            assert client.get(path).headers["keep-alive"] == "timeout=90"
        assert "keep-alive" not in client.get(EVENTS, headers={"Connection": "close"}).headers


# --- heads


def test_empty_lines_before_a_request_are_no_request(server: Server, key: Json) -> None:
    with connect(server) as connection:
        connection.sendall(b"\r\n\r\n" + post(key["key"], GOOD))
        assert read_response(connection).status_code == 201
        connection.sendall(b"\r\n")
        time.sleep(11)  # longer than a head may take
        connection.sendall(b"\r")
        time.sleep(0.1)
        connection.sendall(b"\n" + post(key["key"], GOOD, CLOSE))
        assert [answer.code for answer in responses_in(rest_of(connection))] == ["ok"]


@pytest.mark.parametrize("name", ["Upgrade", "UPGRADE", "upgrade"])
def test_an_upgrade_in_pieces_is_ignored_too(server: Server, key: Json, name: str) -> None:
    request = post(key["key"], GOOD, "Connection: Upgrade, close", f"{name}: h2c", "X: y")
    start = request.index(name.encode())
    for cut in (start - 1, start, start + 1, start + 4, start + len(name), start + len(name) + 1, start + 12):
        with connect(server) as connection:
            connection.sendall(request[:cut])
            time.sleep(0.02)
            connection.sendall(request[cut:])
            assert [answer.code for answer in responses_in(rest_of(connection))] == ["ok"]
    assert [
        answer.code for answer in responses_in(talk(server, *(request[n : n + 1] for n in range(len(request)))))
    ] == ["ok"]


def test_an_upgrade_of_a_later_request_is_ignored_too(server: Server, key: Json) -> None:
    upgrade = post(key["key"], GOOD, "Connection: Upgrade", "Upgrade: h2c")
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
    chunked = head(key["key"], "Transfer-Encoding: chunked", "Upgrade: websocket", "Connection: upgrade") + chunks
    received = talk(server, upgrade * 3 + chunked + GET + b"Upgrade: x\r\nConnection: upgrade, close\r\n\r\n")
    assert [answer.status for answer in responses_in(received)] == [201, 201, 201, 201, 200]


def test_a_body_is_not_searched_for_an_upgrade(server: Server, key: Json) -> None:
    hidden = b"\nupgrade: h2c\r\n"  # no JSON: the error counts the bytes up to it
    request = post(key["key"], hidden, CLOSE)
    cut = len(request) - len(hidden) - 1  # within the end of the head
    (answer,) = responses_in(talk(server, request[:cut], request[cut:]))
    assert answer.code == "malformed_json"
    assert "byte 1" in json.loads(answer.body)["detail"]


BAD_HOSTS = {
    "none": b"",
    "two": b"Host: x\r\nHost: y\r\n",
    "a bad port": b"Host: x:abc\r\n",
    "a path": b"Host: x/y\r\n",
}


@pytest.mark.parametrize("host", BAD_HOSTS.values(), ids=BAD_HOSTS)
def test_a_bad_host_is_rejected(server: Server, key: Json, host: bytes) -> None:
    request = post(key["key"], GOOD).replace(b"Host: x\r\n", host)
    for pieces in ((request,), (request[:60], request[60:]), (request + post(key["key"], GOOD),)):
        (answer,) = responses_in(talk(server, *pieces))
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert "Host" in json.loads(answer.body)["detail"]
    received = talk(server, post(key["key"], GOOD) + request)
    assert [answer.code for answer in responses_in(received)] == ["ok", "malformed_request"]


# --- HTTP/1.0


def test_http_1_0_knows_no_chunks(server: Server, client: httpx.Client, key: Json) -> None:
    assert client.post(EVENTS, json=batch(3)).status_code == 201
    request = f"GET {EVENTS} HTTP/1.0\r\nX-API-Key: {key['key']}\r\n\r\n".encode()
    headers, _, body = talk(server, request).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in headers
    assert b"connection: close" in headers
    assert len(json.loads(body)) == 3


def test_http_1_0_knows_no_100_continue(server: Server, key: Json) -> None:
    request = post(key["key"], GOOD, "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    received = talk(server, request[: -len(GOOD)], GOOD)
    assert received.startswith(b"HTTP/1.1 201 ")


# --- HEAD


def test_head_is_get_without_a_body(server: Server, client: httpx.Client, key: Json) -> None:
    event_id = client.post(EVENTS, json=batch(3)).json()["events"][0]["id"]
    paths = ["/", "/health/live", "/health/ready", EVENTS, f"{EVENTS}?limit=2", f"{EVENTS}/{event_id}"]
    paths += [
        "/schema",
        "/schema/openapi.json",
        "/schema/files/page.js",
        "/nothing",
        f"{EVENTS}?limit=0",
        f"{EVENTS}/7",
    ]
    varying = {"date", "x-request-id"}
    for path in paths:
        got, headed = client.get(path), client.head(path)
        assert headed.status_code == got.status_code, path
        headers = {name: value for name, value in got.headers.items() if name not in {*varying, "transfer-encoding"}}
        assert {name: value for name, value in headed.headers.items() if name not in varying} == headers, path
        assert headed.content == b""
    request = f"HEAD {EVENTS} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key['key']}\r\n\r\n".encode()
    received = talk(server, request * 2 + GET + CLOSE.encode() + b"\r\n\r\n")
    assert len(re.findall(b"HTTP/1.1 200 OK", received)) == 3
    assert received.count(b'{"status":"live"}') == 1
    assert b"[" not in received


def test_head_needs_a_key_as_get_does(server: Server) -> None:
    with server.client() as client:
        assert client.head(EVENTS).status_code == 401


# --- headers of responses


def raw_rejections(server: Server) -> dict[str, bytes]:
    """Responses that no handler makes."""
    return {
        "not HTTP": talk(server, b"nonsense\r\n\r\n"),
        "a large head": talk(server, GET + b"X: " + b"x" * 70_000),
        "no host": talk(server, b"GET / HTTP/1.1\r\n\r\n"),
    }


def test_every_response_has_a_date_and_is_not_stored(server: Server, client: httpx.Client) -> None:
    began = time.time()
    event_id = client.post(EVENTS, json=batch()).json()["events"][0]["id"]
    responses = [client.get(path).headers for path in ("/", "/health/live", "/nothing", EVENTS, f"{EVENTS}/{event_id}")]
    responses += [client.post(EVENTS, json=batch()).headers, client.post(EVENTS, json={}).headers]
    responses += [client.put(EVENTS).headers, client.options(EVENTS).headers]
    for received in raw_rejections(server).values():
        (answer,) = responses_in(received)
        responses.append(httpx.Headers(answer.headers))
    for headers in responses:
        assert headers.get_list("cache-control") == ["no-store"]
        (date,) = headers.get_list("date")
        assert began - 5 < parsedate_to_datetime(date).timestamp() <= time.time()


def test_files_of_the_page_may_be_stored(client: httpx.Client) -> None:
    for path in ("/schema", "/schema/openapi.json", "/schema/files/swagger-ui-bundle.js"):
        assert "no-store" not in client.get(path).headers["cache-control"]


def test_a_401_has_a_challenge(server: Server) -> None:
    with server.client() as client:
        for answer in (client.get(EVENTS), client.post(EVENTS, json=batch()), client.get(f"{EVENTS}/7")):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Bearer realm="sluice"'
        assert "www-authenticate" not in client.get("/nothing").headers


def test_two_keys_are_401(server: Server, key: Json) -> None:
    with server.client() as client:
        for second in (key["key"], "slc_x"):
            answer = client.get(EVENTS, headers=[("X-API-Key", key["key"]), ("X-API-Key", second)])
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("name", ["Origin", "Referer"])
def test_a_key_is_checked_before_the_headers_of_a_page(server: Server, key: Json, name: str) -> None:
    page = [(name, "https://a.example")] * 2
    with server.client() as client:
        for method, path in (("POST", EVENTS), ("GET", EVENTS), ("GET", f"{EVENTS}/7")):
            for secret, expected in (("slc_x", (401, "unauthenticated")), (key["key"], (400, "invalid_header"))):
                answer = client.request(method, path, headers=[("X-API-Key", secret), *page])
                assert (answer.status_code, answer.json()["code"]) == expected


# --- how a body is sent


@pytest.mark.parametrize("charset", ["utf8", "UTF8", "'utf-8'", "us-ascii", '""', ""])
def test_names_of_utf_8(client: httpx.Client, charset: str) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    assert client.post(EVENTS, content=GOOD, headers=headers).status_code == 201


@pytest.mark.parametrize("encoding", ["x-gzip", "identity, gzip", "GZIP"])
def test_names_of_gzip(client: httpx.Client, encoding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    assert client.post(EVENTS, content=gzip.compress(GOOD), headers=headers).status_code == 201


def test_an_unknown_encoding_is_told_the_known_ones(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post(EVENTS, content=GOOD, headers={**headers, "Content-Encoding": "br"})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, zstd")
    answer = client.post(EVENTS, content=GOOD, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert "accept-encoding" not in answer.headers
