"""An export of rare events: empty lines keep its connection alive, compressed or not."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast
from uuid import UUID

import pytest

from server.core import exports
from server.core.compression import compressed
from server.core.deadline import Deadline
from server.core.events.catalog import CatalogStore
from server.core.events.model import EventFilter
from server.core.events.store import Course, EventScanner, Scanned
from server.core.exports import KEEP_ALIVE, Exports
from server.core.read_limits import ReadLimits
from tests.support.exports import decoder

LINE = b'{"id":1}\n'


class RareEvents:
    """A catalog, and a scan that finds an event, then none twice, then another."""

    def __init__(self) -> None:
        self.left = [LINE, None, None, LINE]

    async def may_match(self, *_: object) -> bool:
        return True

    def scan(self, *_: object) -> "RareEvents":
        return self

    async def fetch(self, _deadline: Deadline) -> Scanned:
        if not self.left:
            return Scanned(iter(()), 0, is_last=True)
        line = self.left.pop(0)
        return Scanned(iter([line] if line else ()), len(line or b""), is_last=False)


async def parts_of_export() -> AsyncIterator[bytes]:
    store = RareEvents()
    found = Exports(cast("EventScanner", store), cast("CatalogStore", store), ReadLimits())
    course = Course(oldest_first=True, after=None)
    async with found.export(UUID(int=1), EventFilter(), course, Deadline()) as lines:
        async for part in lines:
            yield part


def test_empty_lines_are_sent_while_nothing_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    async def export() -> list[bytes]:
        return [part async for part in parts_of_export() if part]

    assert asyncio.run(export()) == [LINE, LINE]
    monkeypatch.setattr(exports, "KEEP_ALIVE_S", 0)
    assert asyncio.run(export()) == [LINE, KEEP_ALIVE, KEEP_ALIVE, KEEP_ALIVE, LINE, KEEP_ALIVE]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_all_up_to_an_empty_line_can_be_decompressed(encoding: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in (LINE, KEEP_ALIVE, b"", KEEP_ALIVE, b"", LINE):
            yield part

    async def decompress() -> list[bytes]:
        decompressor = decoder(encoding)
        return [decompressor.decompress(each) async for each in compressed(parts(), encoding, KEEP_ALIVE)]

    decompressed = asyncio.run(decompress())
    assert decompressed == [b"", LINE + KEEP_ALIVE, b"", KEEP_ALIVE, b"", b"", LINE]
