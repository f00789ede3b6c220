"""Decompresses bodies, fairly between tenants.

No more of a body is decompressed than is allowed, however large it would become, and no more members than an honest
client makes. All bodies of an API share one thread, which works in small steps (`slow_work.py`): however many bombs
arrive, other requests must not notice.
"""

import re
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.errors import MalformedJson, PayloadTooLarge
from server.core.slow_work import SlowWork, Steps, on_thread, run_at_once

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_ZSTD_WINDOW_LOG = 24
"""The largest window a zstd body may ask for, as a power of two: 16 MiB, enough for any body within the limit."""

STEP_BYTES = 64 * 1024
"""What is read or made in one step, whichever is reached first. It takes 0.1 ms, and at most some 10 ms."""

MAX_MEMBERS = 2_000
"""Members of gzip, or frames of zstd, one after the other in a body: two for each event that a batch may have. An empty
one has 9 bytes and takes some 20 microseconds, so without a limit 10 MiB of them would take 20 s."""

PADDING = re.compile(rb"\0*+")
"""What may follow a member of gzip."""


class Decoder(Protocol):
    """Decompresses one member."""

    @property
    def eof(self) -> bool:
        """Whether the member is complete."""

    @property
    def unused_data(self) -> bytes:
        """What follows the member in what was given."""

    @property
    def needs_input(self) -> bool:
        """Whether all that was given is decompressed."""

    def decompress(self, data: bytes, size: int, /) -> bytes:
        """At most `size` bytes more, of `data` and of what was given before."""


class ZlibDecoder:
    """Decompresses a member of gzip, or a zlib stream, by `wbits`."""

    def __init__(self, wbits: int) -> None:
        self._decoder = zlib.decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the member is complete."""
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        """What follows the member in what was given."""
        return self._decoder.unused_data

    def decompress(self, data: bytes, size: int, /) -> bytes:
        """At most `size` bytes more, of `data` and of what was given before."""
        decoded = self._decoder.decompress(self._decoder.unconsumed_tail + data, size)
        self.needs_input = len(decoded) < size and not self._decoder.unconsumed_tail
        return decoded


def zstd_decoder() -> Decoder:
    """Decompresses a frame of zstd."""
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW_LOG})


DECODERS: dict[str, Callable[[], Decoder]] = {
    "gzip": lambda: ZlibDecoder(16 + zlib.MAX_WBITS),
    "zstd": zstd_decoder,
    "deflate": lambda: ZlibDecoder(zlib.MAX_WBITS),
}
"""By the name that HTTP and gRPC give an encoding. What gRPC calls `deflate` is a zlib stream."""

DECODING_ERRORS = (EOFError, zlib.error, zstd.ZstdError)


class Decompressor:
    """Decompresses the bodies of one API on its thread. A body may have `max_bytes` once decompressed."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._slow_work = SlowWork(on_thread("decompress"))

    async def __call__(self, body: bytes, encoding: str, tenant_id: UUID, deadline: Deadline) -> bytes:
        """`body` decompressed. Raises what `decompressing` and `SlowWork` do."""
        return await self._slow_work(decompressing(body, encoding, self._max_bytes), len(body), tenant_id, deadline)


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """A small `body` decompressed at once. Raises what `decompressing` does."""
    return run_at_once(decompressing(body, encoding, max_bytes))


def decompressing(body: bytes, encoding: str, max_bytes: int) -> Steps[bytes]:
    """`body` decompressed, in steps.

    Raises PayloadTooLarge past `max_bytes` or MAX_MEMBERS, and MalformedJson if it is not valid.
    """
    decoded, size = list[bytes](), 0
    try:
        for part in parts_of(body, encoding):
            decoded.append(part)
            size += len(part)
            if size > max_bytes:
                raise PayloadTooLarge(f"The body is over {max_bytes >> 20} MiB once decompressed: send fewer events")
            yield
    except DECODING_ERRORS:
        raise MalformedJson(f"The body is not valid {encoding}, as its encoding says") from None
    return b"".join(decoded)


def parts_of(body: bytes, encoding: str) -> Iterator[bytes]:
    """What `body` is once decompressed, in parts of at most STEP_BYTES, some of them empty.

    Raises PayloadTooLarge past MAX_MEMBERS, EOFError if the body ends too early, and what the decoders raise.
    """
    at = members = 0
    while at < len(body) or not members:
        if members == MAX_MEMBERS:
            raise PayloadTooLarge(f"The body has over {MAX_MEMBERS} compressed parts: compress it as a whole")
        members += 1
        decoder = DECODERS[encoding]()
        while not decoder.eof:
            given = body[at : at + STEP_BYTES] if decoder.needs_input else b""
            if decoder.needs_input and not given:
                raise EOFError
            at += len(given)
            yield decoder.decompress(given, STEP_BYTES)
        at -= len(decoder.unused_data)
        if encoding == "gzip":
            padding = PADDING.match(body, at)
            at = padding.end() if padding else at
