"""Decompresses bodies, fairly between tenants.

No more of a body is decompressed than is allowed, however large it would become. All bodies share one thread, which
works in small steps: however many gzip bombs arrive, other requests must not notice. The thread takes one body of each
tenant in turn, and no body after its request's deadline. So a tenant that sends 1,000 bombs delays the next body of
another tenant by one bomb, which is some 0.1 s.
"""

import asyncio
import gzip
import io
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, Self
from uuid import UUID

from server.core.deadline import Deadline
from server.core.errors import MalformedJson, PayloadTooLarge, Unavailable

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
TOO_LATE = "The body could not be decompressed in time: retry after the time in Retry-After"


def open_gzip(file: io.BytesIO) -> io.BufferedIOBase:
    """The decompressed form of a gzip file."""
    return gzip.GzipFile(fileobj=file)


def open_zstd(file: io.BytesIO) -> io.BufferedIOBase:
    """The decompressed form of a zstd file."""
    return zstd.ZstdFile(file, options={zstd.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW_LOG})


class DeflateFile:
    """The decompressed form of a zlib stream, which gRPC calls `deflate`."""

    def __init__(self, file: io.BytesIO) -> None:
        self._input = file.read()
        self._decoder = zlib.decompressobj()

    def __enter__(self) -> "DeflateFile":
        return self

    def __exit__(self, *_error: object) -> None:
        """Nothing to close."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes more; none at the end. Raises EOFError if the stream is not complete."""
        decoded = self._decoder.decompress(self._input, size)
        self._input = self._decoder.unconsumed_tail
        if not decoded and not self._decoder.eof:
            raise EOFError
        return decoded


class Readable(Protocol):
    """What a decoder opens, as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


DECODERS: dict[str, Callable[[io.BytesIO], Readable]] = {
    "gzip": open_gzip,
    "zstd": open_zstd,
    "deflate": DeflateFile,
}
"""By the name that HTTP and gRPC give an encoding."""

DECODING_ERRORS = (OSError, EOFError, zlib.error, zstd.ZstdError)


class Job(NamedTuple):
    """A body that waits for the thread."""

    body: bytes
    encoding: str
    result: asyncio.Future[bytes]


class Decompressor:
    """The thread, and the bodies that wait for it, by tenant. A body may have `max_bytes` once decompressed."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._thread = ThreadPoolExecutor(1, "decompress")
        self._waiting: dict[UUID, deque[Job]] = {}
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, body: bytes, encoding: str, tenant_id: UUID, deadline: Deadline) -> bytes:
        """`body` decompressed.

        Raises PayloadTooLarge, MalformedJson, and Unavailable if it was not decompressed by the deadline, or if too
        many bytes wait and most of them are of this tenant.
        """
        job = Job(body, encoding, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(tenant_id, deque()).append(job)
        self._waiting_bytes += len(body)
        while self._waiting_bytes > MAX_WAITING_BYTES:
            self._reject_one()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(deadline.remaining()):
                return await job.result
        except TimeoutError:
            raise Unavailable("not_stored", TOO_LATE) from None

    async def _run(self) -> None:
        """Decompress until no body waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            job = self._next()
            if job.result.done():  # its deadline has passed, or its client is gone
                continue
            try:
                decoded = await loop.run_in_executor(self._thread, decompress, job.body, job.encoding, self._max_bytes)
            except Exception as error:  # noqa: BLE001 (it is raised where the body is waited for)
                if not job.result.done():
                    job.result.set_exception(error)
            else:
                if not job.result.done():
                    job.result.set_result(decoded)
        self._task = None

    def _next(self) -> Job:
        """Take the oldest body of the tenant whose turn it is, and put that tenant last."""
        tenant_id, jobs = next(iter(self._waiting.items()))
        del self._waiting[tenant_id]
        job = jobs.popleft()
        if jobs:
            self._waiting[tenant_id] = jobs
        self._waiting_bytes -= len(job.body)
        return job

    def _reject_one(self) -> None:
        """Reject the newest body of the tenant with the most bytes waiting."""
        tenant_id = max(self._waiting, key=lambda each: sum(len(job.body) for job in self._waiting[each]))
        job = self._waiting[tenant_id].pop()
        if not self._waiting[tenant_id]:
            del self._waiting[tenant_id]
        self._waiting_bytes -= len(job.body)
        if not job.result.done():
            job.result.set_exception(Unavailable("not_stored", NO_CAPACITY))


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """`body` decompressed. Raises PayloadTooLarge past `max_bytes`, and MalformedJson if it is not valid."""
    decoded, size = list[bytes](), 0
    try:
        with DECODERS[encoding](io.BytesIO(body)) as file:
            began = time.monotonic()
            while step := file.read(STEP_BYTES):
                time.sleep(REST_PER_WORK * (time.monotonic() - began))
                began = time.monotonic()
                decoded.append(step)
                size += len(step)
                if size > max_bytes:
                    raise PayloadTooLarge(
                        f"The body is over {max_bytes >> 20} MiB once decompressed: send fewer events"
                    )
    except DECODING_ERRORS:
        raise MalformedJson(f"The body is not valid {encoding}, as its encoding says") from None
    return b"".join(decoded)
