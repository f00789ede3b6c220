"""What is not read is dropped, and what is read slowly is not."""

import asyncio
import fcntl
import socket
import termios
from collections.abc import Callable
from typing import Any, cast

import pytest

from server.rest.http.response_writing import CHECK_INTERVAL_S, WRITE_TIMEOUT_S, WriteWatch

SIZE = 50_000_000

TAKEN_BYTES = 200_000
"""What a slow client reads at a time."""


class Clock:
    """The part of an event loop that a watch uses. Its time goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._next: Callable[[], None] | None = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> "Clock":
        assert delay_s == CHECK_INTERVAL_S
        self._next = callback
        return self

    def cancel(self) -> None:
        self._next = None

    def go_on(self, checks: int) -> None:
        """Let the time of some checks pass."""
        for _ in range(checks):
            self.now += CHECK_INTERVAL_S
            if self._next is not None:
                self._next()


class Writer(asyncio.Protocol):
    """Writes more than the kernel takes, and closes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(bytes(SIZE))
        transport.close()
        self.watch = WriteWatch(cast("Any", self._clock), transport)
        self.watch.start()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.watch.stop()
        self.lost.set()


async def take_some(reader: socket.socket, writer: socket.socket) -> None:
    """Read until the kernel of the writer has noticed."""
    before = unsent(writer)
    while unsent(writer) == before:
        reader.recv(TAKEN_BYTES)
        await asyncio.sleep(0.001)


def unsent(writer: socket.socket) -> int:
    """How many bytes the kernel holds until the client has them."""
    return int.from_bytes(fcntl.ioctl(writer.fileno(), termios.TIOCOUTQ, bytes(4)), "little")


async def is_lost(reader: socket.socket, writer: socket.socket, is_read: bool) -> bool:
    """Let three times the timeout pass, and read a little within each. Returns whether the connection was lost."""
    clock = Clock()
    transport, protocol = await asyncio.get_running_loop().create_connection(lambda: Writer(clock), sock=writer)
    for _ in range(3):
        if is_read:
            await take_some(reader, writer)
        clock.go_on(int(WRITE_TIMEOUT_S / CHECK_INTERVAL_S) - 1)
    await asyncio.sleep(0)
    lost = protocol.lost.is_set()
    transport.abort()
    await protocol.lost.wait()
    return lost


@pytest.mark.parametrize(("is_read", "lost"), [(False, True), (True, False)], ids=["nothing", "slowly"])
def test_progress_counts(is_read: bool, lost: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        reader = socket.create_connection(listening.getsockname())
        writer, _ = listening.accept()
        with reader, writer:
            assert asyncio.run(is_lost(reader, writer, is_read)) is lost
