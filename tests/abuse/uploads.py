"""Uploads over HTTP/2 by hand: many calls on one connection, each of which sends as much as the server lets it."""

import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.abuse import http2
from tests.abuse.http2 import END_HEADERS, FRAME_BYTES, FRAME_HEAD_BYTES, PREFACE, Frame, call_headers, frame

INITIAL_WINDOW = 65_535
INITIAL_WINDOW_SIZE = 4
"""The setting of this name."""
ACK = 0x1


class Upload(NamedTuple):
    """A call that begins with `head` and goes on with zeros, up to `size` bytes of messages in all. It never ends."""

    path: bytes
    head: bytes
    size: int
    headers: Sequence[tuple[bytes, bytes]] = ()


class Uploads:
    """Calls on one connection, each of which keeps to the windows that the server grants."""

    def __init__(self, target: str, calls: Sequence[Upload]) -> None:
        host, port = target.split(":")
        self._connection = socket.create_connection((host, int(port)), timeout=30)
        self._received = b""
        self._initial, self._window = INITIAL_WINDOW, INITIAL_WINDOW
        self._windows: dict[int, int] = {}
        self._calls = {2 * number + 1: call for number, call in enumerate(calls)}
        self._sent = dict.fromkeys(self._calls, 0)
        opening = [
            frame(http2.HEADERS, END_HEADERS, number, call_headers(*call.headers, path=call.path))
            for number, call in self._calls.items()
        ]
        self._connection.sendall(PREFACE + frame(http2.SETTINGS) + b"".join(opening))
        self._windows = dict.fromkeys(self._calls, self._initial)

    @property
    def sent_bytes(self) -> int:
        """Bytes of messages that the server has taken."""
        return sum(self._sent.values())

    def run(self, end: float) -> bool:
        """Send until `end`, in the time of `monotonic`. Returns False once there is no call or no connection left."""
        try:
            while (left := end - time.monotonic()) > 0:
                if not self._windows or not self._receive(0 if self._can_send() else min(left, 0.1)):
                    return False
                self._send_some()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _can_send(self) -> bool:
        return self._window > 0 and any(self._allowed(number) > 0 for number in self._windows)

    def _allowed(self, number: int) -> int:
        """Bytes that a call may and can send now."""
        return min(self._window, self._windows[number], self._calls[number].size - self._sent[number])

    def _send_some(self) -> None:
        """Send a frame of each call that may."""
        frames = []
        for number in self._windows:
            size = min(self._allowed(number), FRAME_BYTES)
            if size > 0:
                start = self._sent[number]
                head = self._calls[number].head[start : start + size]
                frames.append(frame(http2.DATA, 0, number, head + bytes(size - len(head))))
                self._sent[number] += size
                self._windows[number] -= size
                self._window -= size
        self._connection.sendall(b"".join(frames))

    def _receive(self, timeout_s: float) -> bool:
        """Handle what the server sent. Returns False once it has closed the connection."""
        if not select.select([self._connection], [], [], timeout_s)[0]:
            return True
        chunk = self._connection.recv(65_536)
        self._received += chunk
        for received in self._whole_frames():
            self._handle(received)
        return bool(chunk)

    def _whole_frames(self) -> Iterator[Frame]:
        while len(self._received) >= FRAME_HEAD_BYTES:
            size = int.from_bytes(self._received[:3], "big")
            if len(self._received) < FRAME_HEAD_BYTES + size:
                return
            kind, flags, stream = struct.unpack(">BBI", self._received[3:FRAME_HEAD_BYTES])
            payload = self._received[FRAME_HEAD_BYTES : FRAME_HEAD_BYTES + size]
            self._received = self._received[FRAME_HEAD_BYTES + size :]
            yield Frame(kind, flags, stream, payload)

    def _handle(self, received: Frame) -> None:
        match received.kind:
            case http2.SETTINGS if not received.flags & ACK:
                for name, value in struct.iter_unpack(">HI", received.payload):
                    if name == INITIAL_WINDOW_SIZE:
                        self._windows = {n: window + value - self._initial for n, window in self._windows.items()}
                        self._initial = value
                self._connection.sendall(frame(http2.SETTINGS, ACK))
            case http2.WINDOW_UPDATE if received.stream == 0:
                self._window += int.from_bytes(received.payload, "big")
            case http2.WINDOW_UPDATE if received.stream in self._windows:
                self._windows[received.stream] += int.from_bytes(received.payload, "big")
            case http2.RST_STREAM:
                self._windows.pop(received.stream, None)
            case http2.PING if not received.flags & ACK:
                self._connection.sendall(frame(http2.PING, ACK, 0, received.payload))
            case _:
                pass
