"""Decompressing the bodies of requests. Imports the core's errors and limits.

Never more than is allowed of a body, however much it would come to; and all of them in one thread and in small steps,
for however many callers send bombs, others must not notice.
"""

import asyncio
import gzip
import io
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from server.core.errors import MalformedJson, PayloadTooLarge, Unavailable
from server.core.events import MAX_BODY_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_ZSTD_WINDOW_LOG = 24
"""The largest window a zstd body may ask for, as a power of two: 16 MiB, enough for any body within the limit."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Compressed bodies that wait for their turn: more than the thread gets through in the time that a request has."""

STEP_BYTES = 64 * 1024
"""What is decompressed at a time: between two steps the thread holds the interpreter for some microseconds only."""

REST_PER_WORK = 2
"""The thread rests for so many times as long as it worked: it takes a third of a core, which is some 250 MB a second.
Niceness would not do: on a busy machine a thread of low priority can lose the processor while it holds the interpreter.
"""

NO_ROOM = "This server has as many compressed bodies in hand as it can hold: retry after a moment"


def open_gzip(file: io.BytesIO) -> io.BufferedIOBase:
    """The decompressed form of a gzip file."""
    return gzip.GzipFile(fileobj=file)


def open_zstd(file: io.BytesIO) -> io.BufferedIOBase:
    """The decompressed form of a zstd file."""
    return zstd.ZstdFile(file, options={zstd.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW_LOG})


DECODERS: dict[str, Callable[[io.BytesIO], io.BufferedIOBase]] = {"gzip": open_gzip, "zstd": open_zstd}
DECODING_ERRORS = (OSError, EOFError, zlib.error, zstd.ZstdError)


class Inflater:
    """The thread, and the line before it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "inflate")
        self._waiting_bytes = 0

    async def __call__(self, body: bytes, encoding: str) -> bytes:
        """`body` decoded. Raises PayloadTooLarge, MalformedJson, and Unavailable where too much waits before it."""
        if self._waiting_bytes + len(body) > MAX_WAITING_BYTES:
            raise Unavailable("not_stored", NO_ROOM)
        self._waiting_bytes += len(body)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, decompress, body, encoding)
        finally:
            self._waiting_bytes -= len(body)


def decompress(body: bytes, encoding: str) -> bytes:
    """`body` decoded, but never more of it than is allowed. Raises PayloadTooLarge, and MalformedJson for nonsense."""
    decoded, size = list[bytes](), 0
    try:
        with DECODERS[encoding](io.BytesIO(body)) as file:
            began = time.monotonic()
            while step := file.read(STEP_BYTES):
                time.sleep(REST_PER_WORK * (time.monotonic() - began))
                began = time.monotonic()
                decoded.append(step)
                size += len(step)
                if size > MAX_BODY_BYTES:
                    raise PayloadTooLarge(
                        f"The body is over {MAX_BODY_BYTES >> 20} MiB once decompressed: send fewer events"
                    )
    except DECODING_ERRORS:
        raise MalformedJson(f"The body is not valid {encoding}, as its Content-Encoding says") from None
    return b"".join(decoded)
