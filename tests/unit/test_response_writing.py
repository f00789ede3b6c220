"""What is not read is dropped, and what is read slowly is not."""

import asyncio
import socket
import time

import pytest

from server.rest.http import response_writing
from server.rest.http.response_writing import WriteWatch

TIMEOUT_S = 0.4
SIZE = 50_000_000


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that a test can wait for."""
    monkeypatch.setattr(response_writing, "WRITE_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(response_writing, "CHECK_INTERVAL_S", 0.05)


class Writer(asyncio.Protocol):
    """Writes more than the kernel takes, and closes."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(bytes(SIZE))
        transport.close()
        self.watch = WriteWatch(asyncio.get_running_loop(), transport)
        self.watch.start()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.watch.stop()
        self.lost.set()


async def write_to(reader: socket.socket, writer: socket.socket, bytes_at_a_time: int, seconds: float) -> bool:
    """Read for that long, every 0.1 s. Returns whether the connection was lost meanwhile."""
    transport, protocol = await asyncio.get_running_loop().create_connection(Writer, sock=writer)
    began = time.monotonic()
    while time.monotonic() - began < seconds and not protocol.lost.is_set():
        if bytes_at_a_time:
            reader.recv(bytes_at_a_time)
        await asyncio.sleep(0.1)
    lost = protocol.lost.is_set()
    transport.abort()
    await protocol.lost.wait()
    return lost


@pytest.mark.parametrize(("bytes_at_a_time", "lost"), [(0, True), (200_000, False)], ids=["nothing", "slowly"])
def test_progress_counts(bytes_at_a_time: int, lost: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        reader = socket.create_connection(listening.getsockname())
        writer, _ = listening.accept()
        with reader, writer:
            assert asyncio.run(write_to(reader, writer, bytes_at_a_time, 5 * TIMEOUT_S)) is lost
