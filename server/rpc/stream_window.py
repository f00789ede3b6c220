"""The responses that one stream still has to send, in order, and the limit on their number."""

import asyncio
from dataclasses import dataclass

from sluice.v1 import event_service_pb2 as pb

WINDOW_BATCHES = 16
"""Batches of one stream that are read before their responses are written. It is enough to hide the latency of the
database, and few enough that a client that does not read its responses takes little memory."""


@dataclass
class StreamEnd:
    """The stream ends here, after everything before it: with `error`, or well if that is None."""

    error: Exception | None = None


StreamResult = pb.StreamEventsResponse | StreamEnd


class StreamWindow:
    """A queue of responses that are being worked on, and WINDOW_BATCHES slots for them."""

    def __init__(self) -> None:
        self._due: asyncio.Queue[asyncio.Task[StreamResult] | StreamEnd] = asyncio.Queue()
        self._slots = asyncio.Semaphore(WINDOW_BATCHES)

    async def acquire_slot(self) -> None:
        """Acquire a slot, as soon as one is free. Only then is a request read, so HTTP/2 flow control stops a client
        that does not read its responses."""
        await self._slots.acquire()

    def add(self, result: asyncio.Task[StreamResult] | StreamEnd) -> None:
        """Add the result of the request that was read last."""
        self._due.put_nowait(result)

    async def next(self) -> StreamResult:
        """The result of the earliest request whose result was not taken yet."""
        result = await self._due.get()
        return result if isinstance(result, StreamEnd) else await result

    def release_slot(self) -> None:
        """Release a slot, after a response was written."""
        self._slots.release()

    def cancel(self) -> None:
        """Cancel the work on all results that are due."""
        while not self._due.empty():
            if isinstance(result := self._due.get_nowait(), asyncio.Task):
                result.cancel()
