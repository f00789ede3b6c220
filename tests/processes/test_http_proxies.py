"""REST through nginx and HAProxy, as the README configures them: large bodies, errors, connections, drains."""

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bodies import GOOD, JSON, MIB, padded
from tests.support.harness import Json, Server, batch, event, wait_until
from tests.support.proxies import Proxy, proxy, through
from tests.support.wire import EVENTS, connect

DRAIN_S = 25
"""Less than a body may pause, so that the drain lasts until the test ends it."""


@pytest.fixture
def via(server: Server, tmp_path: Path, name: str) -> Iterator[Proxy]:
    with proxy(name, tmp_path / "proxy", server) as running:
        yield running


def large_batch(megabytes: int) -> bytes:
    """A batch of this number of megabytes, in events of 100 kB."""
    events = [event(index, metadata={"text": "x" * 100_000}) for index in range(megabytes * 10)]
    return json.dumps({"source": "backend", "events": events}).encode()


@through
@pytest.mark.parametrize("megabytes", [2, 9])
@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_pass(via: Proxy, key: Json, megabytes: int, chunked: bool) -> None:
    body = large_batch(megabytes)
    pieces = (body[start : start + MIB] for start in range(0, len(body), MIB))
    with via.client(key["key"]) as client:
        response = client.post(EVENTS, content=pieces if chunked else body, headers=JSON)
        assert response.status_code == 201, response.text
        assert response.json()["events_received"] == megabytes * 10
        assert len(client.get(EVENTS, params={"limit": 1000}).json()) == megabytes * 10


@through
@pytest.mark.parametrize(
    ("body", "secret", "status", "code"),
    [
        (GOOD, "slc_wrong", 401, "unauthenticated"),
        (large_batch(9), "slc_wrong", 401, "unauthenticated"),
        (b'{"source": "backend"}', None, 400, "invalid_batch"),
        (padded(11 * MIB), None, 413, "payload_too_large"),
    ],
    ids=["key", "key and large body", "batch", "size"],
)
def test_errors_are_those_of_sluice(
    via: Proxy, key: Json, body: bytes, secret: str | None, status: int, code: str
) -> None:
    with via.client(secret or key["key"]) as client:
        response = client.post(EVENTS, content=body, headers=JSON)
        assert response.status_code == status
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["code"] == code
        assert ("WWW-Authenticate" in response.headers) == (status == 401)
        assert client.get("/health/ready").status_code == 200


@through
def test_connections_stay_open_until_the_client_closes_them(via: Proxy, key: Json) -> None:
    host, port = via.rest.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection, connection.makefile("rb") as answers:
        for last in (False, False, True):
            connection.sendall(request_head(key["key"], close=last) + GOOD)
            assert answers.readline().startswith(b"HTTP/1.1 201")
            headers = dict(line.split(b": ", 1) for line in iter(answers.readline, b"\r\n"))
            headers = {name.lower(): value.strip().lower() for name, value in headers.items()}
            assert (headers.get(b"connection") == b"close") == last
            assert len(answers.read(int(headers[b"content-length"]))) > 0
        assert answers.read() == b""


def request_head(secret: str, *, close: bool = False, expect: bool = False) -> bytes:
    lines = [f"POST {EVENTS} HTTP/1.1", "Host: sluice", f"X-API-Key: {secret}", f"Content-Length: {len(GOOD)}"]
    lines += ["Content-Type: application/json"]
    lines += ["Connection: close"] * close + ["Expect: 100-continue"] * expect
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs Debian's package haproxy")
def test_the_check_sees_a_drain(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server, proxy("haproxy", tmp_path / "proxy", server) as via:
        wait_until(lambda: via.states() == {"rest": "UP", "grpc": "UP"}, "the servers to be up")
        with via.client(server.first_key) as client:
            assert client.post(EVENTS, json=batch()).status_code == 201
        with connect(server) as waiting:  # a request that was accepted, and keeps the drain from its end
            waiting.sendall(request_head(server.first_key, expect=True))
            assert b" 100 " in waiting.recv(4096)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: via.states() == {"rest": "DOWN", "grpc": "DOWN"}, "the servers to be down", DRAIN_S)
            assert server.process.poll() is None
            waiting.sendall(GOOD)
            assert waiting.recv(4096).startswith(b"HTTP/1.1 201")
        assert server.process.wait(DRAIN_S) == 0
