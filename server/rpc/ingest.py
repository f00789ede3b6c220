"""The methods `IngestEvents` and `StreamEvents` of `sluice.v1.EventService`.

Requests arrive as bytes and are parsed here, so that bytes that are no message get our own error. A stream outlives a
bad batch. A bad key, a request that is no message, or a drain ends it, after everything before was answered.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_status import rpc_status
from sluice.v1 import event_service_pb2 as pb

from server.core.access.keys import Credentials
from server.core.deadline import Deadline
from server.core.errors import InvalidHeader, Unauthenticated, Unavailable
from server.core.in_flight import Arrived, Slot
from server.core.ingest.idempotency import parse_idempotency_key
from server.core.ingest.ingest import IngestOptions, Submission
from server.rpc.errors import status_of, trailer_status_of
from server.rpc.messages import check_size, decode_batch, decode_slowly, parse_message, receipt_message
from server.rpc.stream_window import StreamEnd, StreamResult, StreamWindow
from server.services import Services

SERVICE = "sluice.v1.EventService"

DRAINING = "This server is draining: send what was not answered to another, or again"

HANDLINGS = frozenset(pb.Handling.values())

Context = grpc.aio.ServicerContext[Any, Any]


class EventService:
    """The service's methods."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods, as a server takes them."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "IngestEvents": grpc.unary_unary_rpc_method_handler(
                    self.ingest_events, response_serializer=pb.IngestEventsResponse.SerializeToString
                ),
                "StreamEvents": grpc.stream_stream_rpc_method_handler(
                    self.stream_events, response_serializer=pb.StreamEventsResponse.SerializeToString
                ),
            },
        )

    async def ingest_events(self, serialized: bytes, context: Context) -> pb.IngestEventsResponse | None:
        """Store one batch. A rejected one has no response: the call's status says why."""
        size = len(serialized)

        async def read(slot: Slot, deadline: Deadline) -> Submission:
            batch = parse_message(pb.IngestEventsRequest, serialized).batch
            slot.add_events(len(batch.events))
            return await reader(batch, size)(slot, deadline)

        try:
            receipt, _ = await self._services.ingest(credentials_of(context), read, Arrived(size))
            return pb.IngestEventsResponse(receipt=receipt_message(receipt))
        except Exception as error:  # noqa: BLE001 (its text must not reach the client)
            end_with(context, error)
            return None

    async def stream_events(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        """Store batches until the client ends the stream, and answer each in its turn."""
        credentials = credentials_of(context)
        try:
            await self._services.admission.authenticate(credentials, "events:write", Deadline())
        except Exception as error:  # noqa: BLE001 (its text must not reach the client)
            return end_with(context, error)
        window = StreamWindow()
        reading = asyncio.create_task(self._read(credentials, context, window))
        ending = asyncio.create_task(self._end_when_draining(reading, window))
        try:
            await write_responses(context, window)
        finally:  # also if the client is gone: leave nothing running
            ending.cancel()
            reading.cancel()
            window.cancel()

    async def _read(self, credentials: Credentials, context: Context, window: StreamWindow) -> None:
        """Start the work on every request, in turn. Wait while the window or the server is full."""
        try:
            while True:
                await window.acquire_slot()
                await self._services.in_flight.wait_for_capacity()
                serialized = await context.read()
                if serialized is grpc.aio.EOF:
                    return window.add(StreamEnd())
                request = parse_message(pb.StreamEventsRequest, serialized)
                window.add(asyncio.create_task(self._respond(credentials, request, len(serialized))))
        except Exception as error:  # noqa: BLE001 (a request that is no message has no sequence to answer to; or a bug)
            window.add(StreamEnd(error))

    async def _end_when_draining(self, reading: asyncio.Task[None], window: StreamWindow) -> None:
        """Once the server drains, read no more. The stream ends when everything before is answered."""
        await self._services.draining.wait()
        reading.cancel()
        window.add(StreamEnd(Unavailable("not_stored", DRAINING)))

    async def _respond(self, credentials: Credentials, request: pb.StreamEventsRequest, size: int) -> StreamResult:
        """The response to one request of a stream."""
        try:
            await self._services.in_flight.wait_for_capacity()  # others may have used it while this request was read
            arrived = Arrived(size, len(request.batch.events))
            receipt, _ = await self._services.ingest(credentials, reader(request.batch, size), arrived)
        except Unauthenticated as error:
            return StreamEnd(error)
        except Exception as error:  # noqa: BLE001 (its text must not reach the client)
            return pb.StreamEventsResponse(sequence=request.sequence, error=status_of(error))
        return pb.StreamEventsResponse(sequence=request.sequence, receipt=receipt_message(receipt))


def reader(batch: pb.EventBatch, size: int) -> Callable[[Slot, Deadline], Awaitable[Submission]]:
    """What decodes a batch that came in a message of `size` bytes, once its key is admitted.

    It raises InvalidHeader, PayloadTooLarge, InvalidBatch, and Unavailable.
    """

    async def read(_slot: Slot, _deadline: Deadline) -> Submission:
        options = ingest_options_of(batch)
        check_size(size)
        decoded = decode_batch(batch)
        if decoded is None:
            decoded = await asyncio.to_thread(decode_slowly, batch)
        return Submission(decoded, options)

    return read


async def write_responses(context: Context, window: StreamWindow) -> None:
    """Write every response as soon as it is ready, in order, until the end of the stream."""
    while not isinstance(result := await window.next(), StreamEnd):
        try:
            await context.write(result)
        except grpc.aio.InternalError:  # the client is gone
            return
        window.release_slot()
    if result.error is not None:
        end_with(context, result.error)


def credentials_of(context: Context) -> Credentials:
    """The key in a call's metadata."""
    values = [value for name, value in context.invocation_metadata() or () if name == "x-api-key"]
    return Credentials(values[0] if values and isinstance(values[0], str) else None)


def ingest_options_of(batch: pb.EventBatch) -> IngestOptions:
    """What the client asks for beside its events. Raises InvalidHeader, also for a number that is no handling."""
    idempotency_key = parse_idempotency_key([batch.idempotency_key]) if batch.idempotency_key else None
    if batch.handling not in HANDLINGS:
        raise InvalidHeader("handling: may be HANDLING_STRICT or HANDLING_LENIENT")
    return IngestOptions(idempotency_key, lenient=batch.handling == pb.HANDLING_LENIENT)


def end_with(context: Context, error: Exception) -> None:
    """Let a call end with an error as soon as its method returns.

    The library's `abort` raises an error that it also keeps, and that error keeps its traceback. So every bad batch
    would stay in memory until the garbage collector runs, which is minutes.
    """
    status = rpc_status.to_status(trailer_status_of(error))
    context.set_code(status.code)
    context.set_details(status.details)
    context.set_trailing_metadata(status.trailing_metadata)
