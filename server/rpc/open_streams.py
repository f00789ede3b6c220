"""Streams that are open: how many there may be, and which of them end if the worker runs out of memory.

A stream reads to wait for its next batch. From then on, the library takes a message from the wire for it. It does not
tell how much of the message has arrived, and a read cannot be taken back. So clients with a good key could make a
worker hold a part of a message for each of their streams. The memory of the process is all that can be watched.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from time import monotonic
from uuid import UUID

from server.core.errors import Unavailable
from server.core.memory import memory_bytes, return_free_memory
from server.rpc.connections import break_connections

MAX_OPEN_STREAMS = 2_000
"""Streams that a worker has open, half of them of one tenant. Each takes some 50 KB if it does nothing."""

MAX_HELD_BYTES = 64 * 1024 * 1024
"""Messages that arrived while the server was at its limits, and wait for capacity: the same as is in flight."""

MAX_MEMORY_BYTES = 640 * 1024 * 1024
"""The memory of a worker from which on streams are ended. The limits on what is in flight keep it below."""

CHECK_INTERVAL_S = 0.25
"""How often the memory is looked at: a client on the same network sends some 30 MB in this time."""

LOG_INTERVAL_S = 60
"""How often it is logged that streams were ended."""

TOO_MANY = "This server has as many open streams as it can hold: retry after the time in RetryInfo"
NO_CAPACITY = "This server is at the limit of what it can hold: retry after the time in RetryInfo"
SHORT_OF_MEMORY = "This server is short of memory: send what was not answered after the time in RetryInfo"

log = logging.getLogger("sluice")


class OpenStream:
    """One open stream of the client `peer`. `shed` is set to end it."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.shed = asyncio.Event()


class OpenStreams:
    """The open streams of this worker, by tenant."""

    def __init__(self) -> None:
        self._by_tenant: dict[UUID, set[OpenStream]] = {}
        self._count = 0
        self._held_bytes = 0
        self._watching: asyncio.Task[None] | None = None
        self._logged_at = -float(LOG_INTERVAL_S)

    @contextmanager
    def stream(self, tenant_id: UUID, peer: str) -> Iterator[OpenStream]:
        """An open stream of a tenant. Raises Unavailable if there are too many."""
        streams = self._by_tenant.get(tenant_id, set())
        if self._count >= MAX_OPEN_STREAMS or len(streams) >= MAX_OPEN_STREAMS // 2:
            raise Unavailable("not_stored", TOO_MANY)
        opened = OpenStream(peer)
        self._by_tenant[tenant_id] = streams
        streams.add(opened)
        self._count += 1
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), context=Context())  # not that of this stream
        try:
            yield opened
        finally:
            self._count -= 1
            streams.discard(opened)
            if not streams:
                self._by_tenant.pop(tenant_id, None)

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """A message of `size` bytes that waits for capacity. Raises Unavailable if too many bytes wait."""
        if self._held_bytes and self._held_bytes + size > MAX_HELD_BYTES:
            raise Unavailable("not_stored", NO_CAPACITY)
        self._held_bytes += size
        try:
            yield
        finally:
            self._held_bytes -= size

    async def _watch(self) -> None:
        """While streams are open: if memory is short, end the streams of the tenant that has most."""
        while self._by_tenant:
            await asyncio.sleep(CHECK_INTERVAL_S)
            if memory_bytes() > MAX_MEMORY_BYTES:
                return_free_memory()
                if self._by_tenant and memory_bytes() > MAX_MEMORY_BYTES:
                    self._shed()

    def _shed(self) -> None:
        """End the streams of the tenant that has most, and the connections of those that were to end before."""
        streams = max(self._by_tenant.values(), key=len)
        break_connections({stream.peer for stream in streams if stream.shed.is_set()})
        for stream in streams:
            stream.shed.set()
        if monotonic() - self._logged_at > LOG_INTERVAL_S:
            self._logged_at = monotonic()
            log.warning("over %d MiB of memory: %d streams of one tenant end", MAX_MEMORY_BYTES >> 20, len(streams))
