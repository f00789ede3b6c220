"""HTTP/2 frames (RFC 9113) that no correct library would send."""

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote

from tests.support.harness import Server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9

END_STREAM, END_HEADERS = 0x1, 0x4

CANCEL = 8

INGEST = b"/sluice.v1.EventService/IngestEvents"

FRAME_HEAD_BYTES = 9
FRAME_BYTES = 16_384
TIMEOUT_S = 30


class Frame(NamedTuple):
    """A frame as it was received."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A frame as it goes over the wire."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header of HPACK that uses no table."""
    return b"\x00" + integer(len(name)) + name + integer(len(value)) + value


def integer(value: int) -> bytes:
    """A length of HPACK, with no Huffman code."""
    if value < 127:
        return bytes([value])
    value -= 127
    more = b""
    while value >= 128:
        more += bytes([value % 128 + 128])
        value //= 128
    return b"\x7f" + more + bytes([value])


def call_headers(*others: tuple[bytes, bytes], path: bytes = INGEST) -> bytes:
    """The headers of a call."""
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *others,
    ]
    return b"".join(literal(*header) for header in headers)


def message(content: bytes, size: int | None = None, *, compressed: bool = False) -> bytes:
    """A message of gRPC, or its beginning if `size` says that it has more than `content`."""
    return struct.pack(">BI", compressed, len(content) if size is None else size) + content


def data_frames(stream: int, payload: bytes, *, last: bool = False) -> bytes:
    """DATA frames of the usual size."""
    pieces = [payload[start : start + FRAME_BYTES] for start in range(0, len(payload), FRAME_BYTES)] or [b""]
    flags = [0] * (len(pieces) - 1) + [END_STREAM if last else 0]
    return b"".join(frame(DATA, flag, stream, piece) for flag, piece in zip(flags, pieces, strict=True))


def status_of(received: bytes, stream: int = 1) -> tuple[int, str] | None:
    """The status and the message with which a call ended; None if it has not ended.

    gRPC writes these headers as plain text.
    """
    frames = frames_of(received, are_whole=True)
    headers = b"".join(item.payload for item in frames if item.kind == HEADERS and item.stream == stream)
    status = re.search(rb"grpc-status.(\d+)", headers, re.DOTALL)
    if status is None:
        return None
    text = re.search(rb"grpc-message[\x01-\x7f][^\x20-\x7e]*([\x20-\x7e]*)", headers, re.DOTALL)
    return int(status[1]), unquote(text[1].decode()) if text else ""


def open_http2(server: Server, settings: bytes = b"") -> socket.socket:
    """A connection to the gRPC port, after the preface of HTTP/2."""
    host, port = server.grpc.split(":")
    connection = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
    connection.sendall(PREFACE + frame(SETTINGS, payload=settings))
    return connection


def frames_of(received: bytes, *, are_whole: bool = False) -> Iterator[Frame]:
    """The frames that were received. Of the last one a part may be missing, unless they must be whole."""
    while len(received) >= FRAME_HEAD_BYTES:
        size = int.from_bytes(received[:3], "big")
        if are_whole and len(received) < FRAME_HEAD_BYTES + size:
            return
        kind, flags, stream = struct.unpack(">BBI", received[3:FRAME_HEAD_BYTES])
        yield Frame(kind, flags, stream, received[FRAME_HEAD_BYTES : FRAME_HEAD_BYTES + size])
        received = received[FRAME_HEAD_BYTES + size :]


def flood(connection: socket.socket, unit: bytes, times: int) -> bool:
    """Send `unit` this many times and read nothing. Returns whether the server closed the connection meanwhile."""
    connection.settimeout(2)
    for _ in range(times):
        try:
            connection.sendall(unit)
        except TimeoutError:  # the server reads no more, which is fine too
            return False
        except ConnectionError:
            return True
    return False


def until_end(connection: socket.socket, stream: int = 1) -> bytes:
    """What arrives until the end of a call, or until the server closes the connection."""
    received = b""
    with suppress(ConnectionError):
        while not any(map(partial(ends_call, stream), frames_of(received, are_whole=True))):
            if not (chunk := connection.recv(65_536)):
                break
            received += chunk
    return received


def ends_call(stream: int, item: Frame) -> bool:
    """Whether a frame is the last of a call."""
    ends = item.kind == RST_STREAM or (item.kind in {DATA, HEADERS} and bool(item.flags & END_STREAM))
    return ends and item.stream == stream


def rest_of(connection: socket.socket) -> bytes:
    """What arrives until 2 s pass without data, or the server closes the connection."""
    received = b""
    with suppress(TimeoutError, ConnectionError):
        connection.settimeout(2)
        while chunk := connection.recv(65_536):
            received += chunk
    return received
