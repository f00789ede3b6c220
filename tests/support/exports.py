"""Exports, as clients read them."""

import json
import sys
import zlib
from collections.abc import Callable
from typing import Any

import httpx

from tests.support.harness import Json
from tests.support.reading import EVENTS, Query

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LINES = {"Accept": "application/x-ndjson"}

ENCODINGS = ("identity", "gzip", "zstd")


def export(client: httpx.Client, query: Query | None = None, encoding: str = "identity") -> list[Json]:
    """The events of a whole export."""
    response = client.get(EVENTS, params=query, headers={**LINES, "Accept-Encoding": encoding})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = response.content  # httpx has decoded gzip
    return events_of(zstd.decompress(lines) if encoding == "zstd" else lines)


def events_of(lines: bytes | bytearray) -> list[Json]:
    """The events of some whole lines."""
    assert lines.endswith(b"\n") or not lines
    return [json.loads(line) for line in lines.splitlines()]


def decoder(encoding: str) -> Any:
    """What decodes a stream of an encoding: `decompress(data)`, and `eof` once it had the end."""
    makers: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
        "zstd": zstd.ZstdDecompressor,
    }
    return makers[encoding]()
