"""Connections to the gRPC port: more than there may be, and one whose client has vanished."""

import resource
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.abuse.http2 import END_HEADERS, HEADERS, SETTINGS, call_headers, frame, open_http2
from tests.support.grpc_client import SERVICE, channel_to, code_of, ingest
from tests.support.harness import Server, batch, wait_until

FILES = 256
CONNECTIONS = 260
LOG_TIMEOUT_S = 15
VANISHED_S = 110

STREAM = f"/{SERVICE}/StreamEvents".encode()


@pytest.fixture
def few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers that are started by the test have FILES files in each process."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nulimit -n {FILES}\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


@pytest.mark.usefixtures("few_files")
def test_more_connections_than_the_share_of_grpc(tmp_path: Path) -> None:
    with Server(tmp_path) as server, ExitStack() as stack:
        (worker,) = server.worker_pids()
        assert resource.prlimit(worker, resource.RLIMIT_NOFILE) == (FILES, FILES)
        opened = [stack.enter_context(open_http2(server)) for _ in range(CONNECTIONS)]
        with server.client(server.first_key) as client:
            assert client.get("/health/ready").status_code == 200
            assert client.post("/api/v1/events", json=batch()).status_code == 201
        lines = "more are closed"
        wait_until(lambda: lines in server.stderr(), "a log line", LOG_TIMEOUT_S)
        assert server.stderr().count(lines) == 1
        wait_until(lambda: sum(map(is_open, opened)) <= FILES // 3, "the rest is closed")
        for connection in opened:
            connection.close()
        wait_until(lambda: takes_calls(server), "calls are taken again")
        assert server.worker_pids() == [worker]


def is_open(connection: socket.socket) -> bool:
    """Whether the server keeps a connection."""
    connection.settimeout(0.05)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return True
    except ConnectionError:
        return False
    return False


def takes_calls(server: Server) -> bool:
    """Whether a good client is served."""
    with channel_to(server.grpc) as channel:
        try:
            return ingest(channel, server.first_key).events_received == 1
        except grpc.RpcError as error:
            if code_of(error) is grpc.StatusCode.UNAVAILABLE:
                return False
            raise


@pytest.mark.long
@pytest.mark.slow
def test_stream_whose_client_has_vanished(tmp_path: Path) -> None:
    with Server(tmp_path) as server, open_http2(server) as connection:
        headers = call_headers((b"x-api-key", server.first_key.encode()), path=STREAM)
        connection.sendall(frame(SETTINGS, 1) + frame(HEADERS, END_HEADERS, 1, headers))
        begun = time.monotonic()
        connection.settimeout(VANISHED_S)
        while connection.recv(65_536):  # no ping is answered, as by a peer that is not there
            pass
        assert time.monotonic() - begun < VANISHED_S
