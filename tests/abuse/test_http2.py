"""Floods of HTTP/2 frames on the gRPC port: they are cut or cost nearly nothing, and other calls are served."""

import socket
import struct
import time
from collections.abc import Iterator

import grpc
import pytest
from sluice.v1 import event_service_pb2 as pb

from server.rpc.server import HANDSHAKE_TIMEOUT_MS, MAX_METADATA_BYTES
from tests.abuse.http2 import (
    CANCEL,
    CONTINUATION,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    call_headers,
    flood,
    frame,
    frames_of,
    literal,
    open_http2,
    rest_of,
    status_of,
)
from tests.support.grpc_client import Stream, channel_to, code_of, good_batch, metadata, stub_of
from tests.support.harness import Json, Server
from tests.support.logs import without_rejections
from tests.support.pressure import memory_mib

MAX_GROWTH_MIB = 150
"""The growth of the memory of all workers by one connection."""

UNKNOWN_KEY = (b"x-api-key", b"slc_none")


def memory_of(server: Server) -> float:
    """The memory of all workers, in MiB."""
    return sum(map(memory_mib, server.worker_pids()))


def ingest(server: Server, key: Json, *others: tuple[str, str]) -> None:
    """Make one good call on a connection of its own."""
    with channel_to(server.grpc) as channel:
        request = pb.IngestEventsRequest(batch=good_batch())
        stub_of(channel).IngestEvents(request, metadata=[*metadata(key["key"]), *others], timeout=20)


def resets(count: int) -> Iterator[bytes]:
    """Calls that are cancelled as soon as they are made, a thousand at a time."""
    headers, reset = call_headers(UNKNOWN_KEY), struct.pack(">I", CANCEL)
    for first in range(1, 2 * count, 2_000):
        streams = range(first, first + 2_000, 2)
        yield b"".join(frame(HEADERS, END_HEADERS, n, headers) + frame(RST_STREAM, 0, n, reset) for n in streams)


def calls(count: int) -> Iterator[bytes]:
    """Calls that never end, a thousand at a time."""
    headers = call_headers(UNKNOWN_KEY)
    for first in range(1, 2 * count, 2_000):
        yield b"".join(frame(HEADERS, END_HEADERS, n, headers) for n in range(first, first + 2_000, 2))


FLOODS = {
    "pings": [frame(PING, payload=bytes(8)) * 1_000] * 100,
    "settings": [frame(SETTINGS, payload=b"\0\4\0\0\xff\xff" * 10) * 1_000] * 50,
    "headers without an end": [frame(HEADERS, 0, 1, call_headers())]
    + [frame(CONTINUATION, 0, 1, literal(b"x-a", b"a" * 4_000)) * 100] * 50,
    "nothing for headers": [frame(HEADERS, 0, 1, call_headers()), frame(CONTINUATION, 0, 1) * 50_000],
    "rapid resets": [*resets(20_000)],
    "calls without an end": [*calls(20_000)],
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods(server: Server, key: Json, name: str) -> None:
    before = memory_of(server)
    with open_http2(server) as connection:
        for piece in FLOODS[name]:
            if flood(connection, piece, 1):
                break
        ingest(server, key)
        assert memory_of(server) - before < MAX_GROWTH_MIB
        if name == "pings":
            assert GOAWAY in [item.kind for item in frames_of(rest_of(connection))]
    ingest(server, key)


@pytest.mark.parametrize("size", [MAX_METADATA_BYTES, 10 * MAX_METADATA_BYTES])
def test_huge_metadata_is_rejected(server: Server, key: Json, size: int) -> None:
    ingest(server, key, ("x-filler", "x" * (MAX_METADATA_BYTES - 2_000)))
    with pytest.raises(grpc.RpcError) as rejected:
        ingest(server, key, ("x-filler", "x" * size))
    assert code_of(rejected.value) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_connection_that_says_nothing_is_cut(server: Server) -> None:
    host, port = server.grpc.split(":")
    begun = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        while connection.recv(65_536):
            pass
    assert time.monotonic() - begun < HANDSHAKE_TIMEOUT_MS / 1_000 + 5


def test_a_path_that_is_no_text(server: Server, key: Json) -> None:
    """Only that call is rejected: other calls and streams go on, and nothing is logged but how many were rejected."""
    before = len(server.stderr())
    with channel_to(server.grpc) as channel, Stream(channel, key["key"]) as stream:
        for sequence, path in enumerate([b"/\xff", b"/\xed\xa0\x80", b"\xff", b"/a/\xc3\x28" * 1_000] * 20):
            with open_http2(server) as connection:
                connection.sendall(frame(HEADERS, END_HEADERS, 1, call_headers(path=path)))
                received = b""
                while status_of(received) is None:
                    received += connection.recv(65_536)
            assert status_of(received) == (grpc.StatusCode.UNIMPLEMENTED.value[0], "Method not found!")
            ingest(server, key)
            stream.send(sequence, good_batch())
            assert stream.receive().HasField("receipt")
    assert without_rejections(server.stderr()[before:]) == []
