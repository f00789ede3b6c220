"""HTTP/1.1 over raw sockets: what a proxy in front may read differently, and what is not HTTP."""

import json

import pytest

from tests.support.harness import Json, Server, batch
from tests.support.wire import post, talk


@pytest.mark.parametrize("upgrade", ["Upgrade: h2c", "UPGRADE:websocket"])
def test_upgrade_is_ignored(server: Server, key: Json, upgrade: str) -> None:
    request = post(key["key"], json.dumps(batch()).encode(), upgrade, "Connection: Upgrade, close")
    assert talk(server, request).startswith(b"HTTP/1.1 201 ")


def test_body_behind_an_upgrade_is_no_request(server: Server, key: Json) -> None:
    hidden = f"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {key['key']}\r\nConnection: close\r\n\r\n".encode()
    whole = post("slc_none", hidden, "Upgrade: h2c", "Connection: Upgrade, close")
    cut = whole.index(b"Upgrade: h2c") + 4
    for pieces in ((whole,), (whole[: -len(hidden)], hidden), (whole[:cut], whole[cut:])):
        answer = talk(server, *pieces)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    ],
    ids=["path", "nonsense", "both lengths", "two lengths"],
)
def test_what_is_not_http_is_a_problem_too(server: Server, request_bytes: bytes) -> None:
    head, _, body = talk(server, request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["code"] == "malformed_request"


def test_coded_transfer_is_rejected(server: Server, key: Json) -> None:
    lines = (b"POST /api/v1/events HTTP/1.1", b"Host: x", b"X-API-Key: " + key["key"].encode(), b"Connection: close")
    response = talk(server, b"\r\n".join((*lines, b"Transfer-Encoding: gzip, chunked", b"", b"2\r\n{}\r\n0\r\n\r\n")))
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"malformed_request" in response


def test_space_around_a_header_is_not_its_value(server: Server, key: Json) -> None:
    request = post(key["key"] + " \t", json.dumps(batch()).encode(), "Idempotency-Key:  a  ", "Connection: close")
    assert talk(server, request).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("name", ["X-API-Key", "Content-Type", "Content-Encoding", "Idempotency-Key", "Origin"])
def test_header_given_twice_is_rejected(server: Server, key: Json, name: str) -> None:
    headers = [("X-API-Key", key["key"]), ("Content-Type", "application/json"), (name, "identity"), (name, "identity")]
    with server.client() as client:
        answer = client.post("/api/v1/events", content=json.dumps(batch()), headers=headers)
    expected = (401, "unauthenticated") if name == "X-API-Key" else (400, "invalid_header")
    assert (answer.status_code, answer.json()["code"]) == expected
