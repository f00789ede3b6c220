"""Decompresses the bodies of requests.

No more of a body is decompressed than is allowed, however large it would become. All bodies share one thread, which
works in small steps: however many gzip bombs arrive, other requests must not notice.
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
from server.core.events.model import MAX_BODY_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_ZSTD_WINDOW_LOG = 24
"""The largest window a zstd body may ask for, as a power of two: 16 MiB, enough for any body within the limit."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Compressed bodies that wait for the thread: more than it can decompress within a request's deadline."""

STEP_BYTES = 64 * 1024
"""What is decompressed in one step. Between two steps the thread holds the interpreter for a few microseconds only."""

REST_PER_WORK = 2
"""The thread rests twice as long as it worked. So it uses a third of a core, which is some 250 MB a second. A low
thread priority would not do: on a busy machine such a thread can lose the processor while it holds the interpreter."""

NO_CAPACITY = "This server holds as many compressed bodies as it can: retry after the time in Retry-After"


def open_gzip(file: io.BytesIO) -> io.BufferedIOBase:
    """The decompressed form of a gzip file."""
    return gzip.GzipFile(fileobj=file)


def open_zstd(file: io.BytesIO) -> io.BufferedIOBase:
    """The decompressed form of a zstd file."""
    return zstd.ZstdFile(file, options={zstd.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW_LOG})


DECODERS: dict[str, Callable[[io.BytesIO], io.BufferedIOBase]] = {"gzip": open_gzip, "zstd": open_zstd}
DECODING_ERRORS = (OSError, EOFError, zlib.error, zstd.ZstdError)


class Decompressor:
    """The thread, and the bodies that wait for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "decompress")
        self._waiting_bytes = 0

    async def __call__(self, body: bytes, encoding: str) -> bytes:
        """`body` decompressed. Raises PayloadTooLarge, MalformedJson, and Unavailable if too many bytes wait."""
        if self._waiting_bytes + len(body) > MAX_WAITING_BYTES:
            raise Unavailable("not_stored", NO_CAPACITY)
        self._waiting_bytes += len(body)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, decompress, body, encoding)
        finally:
            self._waiting_bytes -= len(body)


def decompress(body: bytes, encoding: str) -> bytes:
    """`body` decompressed. Raises PayloadTooLarge as soon as that is known, and MalformedJson if it is not valid."""
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
