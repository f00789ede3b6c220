"""A small HTTP/1.1 client for load: one connection, one request at a time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from tests.support.reading import EVENTS
from tests.support.tail import TAIL


class Connection:
    """One connection with a key."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str) -> None:
        self._reader = reader
        self._writer = writer
        self._headers = f"Host: x\r\nX-API-Key: {secret}\r\n"

    @classmethod
    async def open(cls, host: str, port: int, secret: str) -> Self:
        """A new connection."""
        return cls(*await asyncio.open_connection(host, port), secret)

    async def post(self, body: bytes) -> int:
        """The status of the response to a batch."""
        head = f"POST {EVENTS} HTTP/1.1\r\n{self._headers}Content-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        response = await self._reader.readuntil(b"\r\n\r\n")
        length = response.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await self._reader.readexactly(int(length))
        return int(response.split()[1])

    async def follow(self) -> AsyncIterator[bytes]:
        """The data of each message of a tail. HTTP/1.0 has no chunks."""
        self._writer.write(f"GET {TAIL} HTTP/1.0\r\n{self._headers}\r\n".encode())
        assert b" 200 " in await self._reader.readuntil(b"\r\n\r\n")
        while line := await self._reader.readline():
            if line.startswith(b"data: "):
                yield line.removeprefix(b"data: ")
