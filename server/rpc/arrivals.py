"""Reads messages within limits: how many are arriving at one time, for how long, and how large one may become.

The library takes a message from the wire when it is read, and keeps the rest of it back by HTTP/2 flow control. So a
message costs nothing before it is read. It does not tell how much of it has arrived, so each counts as the largest.
The library must not decompress messages: its limit is on the compressed size only.
"""

import asyncio
from functools import partial
from time import monotonic
from typing import Any
from uuid import UUID

import grpc

from server.core.arrivals import STALLED, Arrivals
from server.core.deadline import Deadline
from server.core.decompression import Decompressor, decompress
from server.core.errors import ClientGone, InvalidBatch, PayloadTooLarge, Unavailable
from server.core.fair_limit import FairLimit
from server.core.ingest.ingest import AdmittedRequest
from server.rpc.open_reads import OpenReads

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""A message, compressed or not: more than a batch may have, so that a batch over its limit gets our own error."""

MAX_LIBRARY_BYTES = 17 * 1024 * 1024
"""What the library takes at most, compressed or not. It ends a call whose message says that it is larger, with an error
of its own and with the responses that are due. So messages that are a little too large get our own error."""

MAX_KEYED_READS = 16
"""Messages that are arriving from clients with a good key. Most have arrived before they are read, and take no time."""

MAX_WAITING_READS = 2_000
"""Calls that wait to be read, half of them of one tenant. Each takes some 30 KB."""

MAX_OPEN_MESSAGE_BYTES = 4096
"""A message of a method that needs no key. Reflection repeats it in its response."""

OPEN_READ_S = 0.01
"""How long such a message may take if others wait to be read: what arrives in this time is all that it can hold."""

OPEN_READ_TIMEOUT_S = 60
"""How long it may take if no other waits: the pause that a client of reflection may make."""

GZIP = b"\x1f"
"""How gzip begins. No message of ours does: it would be of field 3, and of no type."""

ZLIB = frozenset(b"\x18\x28\x38\x48\x58\x68\x78")
"""How zlib begins, for a window of 512 bytes to 32 KiB (RFC 1950). In a message of ours it would be a number in field
3, 5, 7, 9, 11, 13 or 15: none has one. A window of 256 bytes, which zlib itself never uses, would begin as a `sequence`
does."""

ZLIB_CHECK = 31
"""The first two bytes of zlib, as a number with the highest first, are a multiple of it."""

NO_CAPACITY = "This server is receiving as many messages as it can: retry after the time in RetryInfo"
NO_MESSAGE = "The call has no complete message: send one"
TOO_LARGE = f"The message is over {MAX_MESSAGE_BYTES >> 20} MiB: send fewer events at a time"
OPEN_TOO_LARGE = f"The message is over {MAX_OPEN_MESSAGE_BYTES >> 10} KiB"
TOO_SLOW = "The message did not arrive with the call: send it at once, or retry after the time in RetryInfo"

Context = grpc.aio.ServicerContext[Any, Any]


class SlowMessage(Unavailable):
    """A message has not arrived with its call. The library goes on taking it until the call ends: end it at once."""


async def receive(context: Context) -> bytes | None:
    """The next message of a call as it arrived; None at the end of its messages. Raises ClientGone."""
    try:
        message = await context.read()
    except grpc.aio.BaseError:  # the call was cancelled
        raise ClientGone from None
    return None if message is grpc.aio.EOF else message


def encoding_of(message: bytes) -> str | None:
    """How a message is compressed; None if it is not. The library does not tell, so its first bytes do."""
    if message[:1] == GZIP:
        return "gzip"
    if message[:1] and message[0] in ZLIB and int.from_bytes(message[:2]) % ZLIB_CHECK == 0:
        return "deflate"
    return None


def checked_encoding(message: bytes) -> str | None:
    """How a message with a batch is compressed; None if it is not. Raises PayloadTooLarge."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise PayloadTooLarge(TOO_LARGE)
    return encoding_of(message)


def decompress_small(message: bytes | None) -> bytes | None:
    """A message of a method that needs no key, decompressed. Raises PayloadTooLarge and MalformedJson."""
    if message is None:
        return None
    if len(message) > MAX_OPEN_MESSAGE_BYTES:
        raise PayloadTooLarge(OPEN_TOO_LARGE)
    encoding = encoding_of(message)
    try:
        return message if encoding is None else decompress(message, encoding, MAX_OPEN_MESSAGE_BYTES)
    except PayloadTooLarge:
        raise PayloadTooLarge(OPEN_TOO_LARGE) from None


class MessageReader:
    """Reads the messages of all calls to this worker."""

    def __init__(self) -> None:
        self._slots = FairLimit(MAX_KEYED_READS, MAX_KEYED_READS // 2)
        self._arrivals = Arrivals(
            MAX_KEYED_READS * MAX_MESSAGE_BYTES, partial(Unavailable, "not_stored", STALLED), self._slots.waiting
        )
        self._draining_because = ""
        self._decompressor = Decompressor(MAX_MESSAGE_BYTES)

    async def read_batch(self, context: Context, request: AdmittedRequest) -> bytes:
        """The only message of a call that was admitted, decompressed.

        Raises InvalidBatch if there is none, PayloadTooLarge, MalformedJson, ClientGone, and Unavailable if it does
        not arrive in time, if too many are arriving, or if the server drains.
        """
        tenant_id = request.tenant_id
        acquired = self._slots.try_acquire(tenant_id, 1)
        try:
            if not acquired:
                with request.slot.released():  # while it waits for messages of others; leaving this may raise
                    await self._wait_for_slot(tenant_id, request.deadline)
                    acquired = True
            with request.slot.released(paused=request.deadline), self._arrivals.arrival():
                self._check_not_draining()
                message = await receive(context)
        finally:
            if acquired:
                self._slots.add(tenant_id, -1)
        if message is None:
            raise InvalidBatch(NO_MESSAGE)
        encoding = checked_encoding(message)
        if encoding is None:
            return message
        with request.slot.released():  # while it waits for messages of others
            return await self._decompressor(message, encoding, request.tenant_id, request.deadline)

    async def _wait_for_slot(self, tenant_id: UUID, deadline: Deadline) -> None:
        """Take a slot as soon as one is free. Raises Unavailable if too many wait, or at the deadline."""
        if self._slots.waiting() >= MAX_WAITING_READS or self._slots.waiting_of(tenant_id) >= MAX_WAITING_READS // 2:
            raise Unavailable("not_stored", NO_CAPACITY)
        try:
            await self._slots.acquire(tenant_id, 1, deadline)
        except TimeoutError:
            raise Unavailable("not_stored", NO_CAPACITY) from None

    def _check_not_draining(self) -> None:
        """Raises Unavailable if the server drains."""
        if self._draining_because:
            raise Unavailable("not_stored", self._draining_because)

    async def read_open(self, context: Context, reads: OpenReads) -> bytes | None:
        """The next message of a call that needs no key; None at the end of its messages, or if the server drains.

        `reads` limits the messages that are arriving for calls of its kind. Raises SlowMessage if it is slow while
        others wait, Unavailable, PayloadTooLarge, MalformedJson and ClientGone.
        """
        connection = context.peer()
        try:
            async with reads.slot(connection):
                return decompress_small(await self._received(context, reads))
        except TimeoutError:
            raise Unavailable(detail=NO_CAPACITY) from None
        except SlowMessage:
            reads.pause(connection)
            raise

    async def _received(self, context: Context, reads: OpenReads) -> bytes | None:
        """The next message, as it arrived. Raises SlowMessage and ClientGone."""
        reading = asyncio.ensure_future(receive(context))
        end = monotonic() + OPEN_READ_TIMEOUT_S
        try:
            while not (await asyncio.wait([reading], timeout=OPEN_READ_S))[0]:
                if self._draining_because:
                    return None
                if reads.others_wait() or monotonic() > end:
                    raise SlowMessage(detail=TOO_SLOW)
            return reading.result()
        finally:
            reading.cancel()

    async def decompress(self, message: bytes, tenant_id: UUID) -> bytes:
        """A message of a stream, decompressed if need be. Raises PayloadTooLarge, MalformedJson and Unavailable."""
        encoding = checked_encoding(message)
        return message if encoding is None else await self._decompressor(message, encoding, tenant_id, Deadline())

    def drain(self, why: str) -> None:
        """Reject calls whose message has not arrived. `why` is the detail of their error."""
        self._draining_because = why
        self._arrivals.cancel_all(why)
