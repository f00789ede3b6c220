"""Compresses what is sent, in steps on a thread: compressing lets other threads use the interpreter.

All responses of a worker share the one thread. It takes less time than making what is compressed.
"""

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_LEVEL = 2
ZSTD_LEVEL = 1
"""The quick levels: the JSON of events becomes a tenth with them, and hardly less with the slow ones."""

GZIP_WBITS = 16 + zlib.MAX_WBITS
"""The largest window, in the form of gzip."""


class Compressor(Protocol):
    """Compresses one stream."""

    def compress(self, data: bytes, /) -> bytes:
        """What is ready of the compressed stream after `data`."""

    def flush(self, mode: Any = ..., /) -> bytes:
        """The end of the compressed stream, or with the mode of `SYNC` all of it up to now."""


COMPRESSORS: dict[str, Callable[[], Compressor]] = {
    "gzip": lambda: zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WBITS),
    "zstd": lambda: zstd.ZstdCompressor(level=ZSTD_LEVEL),
}
SYNC = {"gzip": zlib.Z_SYNC_FLUSH, "zstd": zstd.ZstdCompressor.FLUSH_BLOCK}
"""By the name that HTTP gives an encoding."""

thread = ThreadPoolExecutor(1, "compress")


async def compressed(parts: AsyncIterator[bytes], encoding: str, urgent: bytes) -> AsyncIterator[bytes]:
    """The compressed form of a stream. It has its end only if `parts` come to theirs without an error.

    The next part is made while one is compressed. A part that equals `urgent` is sent with all before it, so that a
    client can decompress them; others may wait in the compressor.
    """
    loop, compressor = asyncio.get_running_loop(), COMPRESSORS[encoding]()

    def compress(part: bytes) -> bytes:
        ready = compressor.compress(part)
        return ready + compressor.flush(SYNC[encoding]) if part == urgent else ready

    compressing = None
    async for part in parts:
        earlier, compressing = compressing, loop.run_in_executor(thread, compress, part)
        if earlier is not None:
            yield await earlier
    if compressing is not None:
        yield await compressing
    yield compressor.flush()
