"""`sluice.v1.EventService`: a batch a call, or batches for hours on a stream. Imports grpc.aio and the core.

Requests arrive as bytes and are parsed here, so that what is no message gets our own error. A stream outlives a bad
batch; a bad key, a request that is no message, and a drain end it, once what came before is answered.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_status import rpc_status

from proto.sluice.v1 import event_service_pb2 as pb
from server.core.access import Key
from server.core.deadline import Deadline
from server.core.errors import InvalidHeader, Unauthenticated, Unavailable
from server.core.idempotency import parse_idempotency_key
from server.rpc.errors import status_of, trailer_status_of
from server.rpc.messages import check_size, parse_message, read_batch, read_slowly, receipt_message
from server.services import Services

SERVICE = "sluice.v1.EventService"

DRAINING = "This server is draining: send what was not answered to another, or again"

WINDOW_BATCHES = 16
"""Batches of one stream that are taken before their answers have left: enough to hide the database's latency, few
enough that a caller who does not read its answers holds little memory."""

HANDLINGS = frozenset(pb.Handling.values())

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Ending:
    """A stream ends here, after everything before it: with `error`, or well where that is None."""

    error: Exception | None = None


Outcome = pb.StreamEventsResponse | Ending


class Window:
    """The answers of one stream that are due, in order, and places for so many and no more."""

    def __init__(self) -> None:
        self._due: asyncio.Queue[asyncio.Task[Outcome] | Ending] = asyncio.Queue()
        self._places = asyncio.Semaphore(WINDOW_BATCHES)

    async def free_place(self) -> None:
        """Take a place, once there is one: only then is a request read, so that a slow reader stops the sender."""
        await self._places.acquire()

    def add(self, answer: asyncio.Task[Outcome] | Ending) -> None:
        """An answer is due."""
        self._due.put_nowait(answer)

    async def next(self) -> Outcome:
        """What came of the request whose turn it is."""
        answer = await self._due.get()
        return answer if isinstance(answer, Ending) else await answer

    def written(self) -> None:
        """An answer has left."""
        self._places.release()

    def cancel(self) -> None:
        """Give up the answers that are due."""
        while not self._due.empty():
            if isinstance(answer := self._due.get_nowait(), asyncio.Task):
                answer.cancel()


class EventService:
    """The service's methods. `draining` is set when streams should come to their end."""

    def __init__(self, services: Services, draining: asyncio.Event) -> None:
        self._services = services
        self._draining = draining

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
        """Store one batch. A refused one has no response: the call's status says why."""
        try:
            deadline = Deadline()
            with self._services.backlog.place() as place:
                place.add_bytes(len(serialized))
                key = await self._admit(secret_of(context), deadline)
                batch = parse_message(pb.IngestEventsRequest, serialized).batch
                place.add_events(len(batch.events))
                receipt = await self._store(key, batch, len(serialized), deadline)
            return pb.IngestEventsResponse(receipt=receipt)
        except Exception as error:  # noqa: BLE001 (its text must not reach the caller)
            refuse(context, error)
            return None

    async def stream_events(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        """Store batches until the client ends the stream, answering each in its turn."""
        secret = secret_of(context)
        try:
            may_write(await self._services.admission.authenticate(secret, Deadline()))
        except Exception as error:  # noqa: BLE001 (its text must not reach the caller)
            return refuse(context, error)
        window = Window()
        reading = asyncio.create_task(self._read(secret, context, window))
        ending = asyncio.create_task(self._end_when_draining(reading, window))
        try:
            await answer(context, window)
        finally:  # the client may have vanished: leave nothing running
            ending.cancel()
            reading.cancel()
            window.cancel()

    async def _read(self, secret: str | None, context: Context, window: Window) -> None:
        """Start the work on every request, in turn; wait while too many answers are due."""
        try:
            while True:
                await window.free_place()
                await self._services.backlog.room()
                serialized = await context.read()
                if serialized is grpc.aio.EOF:
                    return window.add(Ending())
                request = parse_message(pb.StreamEventsRequest, serialized)
                window.add(asyncio.create_task(self._respond(secret, request, len(serialized))))
        except Exception as error:  # noqa: BLE001 (no message, so there is no sequence to answer to; or a fault of ours)
            window.add(Ending(error))

    async def _end_when_draining(self, reading: asyncio.Task[None], window: Window) -> None:
        """Once the server drains, read no more: the stream ends when all that came before is answered."""
        await self._draining.wait()
        reading.cancel()
        window.add(Ending(Unavailable("not_stored", DRAINING)))

    async def _respond(self, secret: str | None, request: pb.StreamEventsRequest, size: int) -> Outcome:
        """The response to one request of a stream."""
        try:
            await self._services.backlog.room()  # others may have taken it while this request was read
            deadline = Deadline()
            with self._services.backlog.place() as place:
                place.add_bytes(size)
                place.add_events(len(request.batch.events))
                key = await self._admit(secret, deadline)
                receipt = await self._store(key, request.batch, size, deadline)
        except Unauthenticated as error:
            return Ending(error)
        except Exception as error:  # noqa: BLE001 (its text must not reach the caller)
            return pb.StreamEventsResponse(sequence=request.sequence, error=status_of(error))
        return pb.StreamEventsResponse(sequence=request.sequence, receipt=receipt)

    async def _admit(self, secret: str | None, deadline: Deadline) -> Key:
        """The key of a request that may go on. Raises Unauthenticated, InsufficientScope, RateLimited, Unavailable."""
        key, _ = await self._services.admission.admit(secret, may_write, deadline)
        return key

    async def _store(self, key: Key, batch: pb.EventBatch, size: int, deadline: Deadline) -> pb.Receipt:
        """Store a batch that came in a message of `size` bytes."""
        idempotency_key = parse_idempotency_key([batch.idempotency_key] if batch.idempotency_key else [])
        lenient = is_lenient(batch.handling)
        check_size(size)
        candidate = read_batch(batch)
        if candidate is None:
            candidate = await asyncio.to_thread(read_slowly, batch)
        ingest = self._services.ingest
        return receipt_message(await ingest(key.tenant_id, candidate, lenient, idempotency_key, deadline))


async def answer(context: Context, window: Window) -> None:
    """Write every response when it is ready, in turn, until the end of the stream."""
    while not isinstance(outcome := await window.next(), Ending):
        try:
            await context.write(outcome)
        except grpc.aio.InternalError:  # the client is gone
            return
        window.written()
    if outcome.error is not None:
        refuse(context, outcome.error)


def secret_of(context: Context) -> str | None:
    """The key in a call's metadata."""
    values = [value for name, value in context.invocation_metadata() or () if name == "x-api-key"]
    return values[0] if values and isinstance(values[0], str) else None


def may_write(key: Key) -> None:
    """Raises InsufficientScope unless the key may store events."""
    key.require("events:write")


def is_lenient(handling: pb.Handling) -> bool:
    """Whether lenient handling is asked for. Raises InvalidHeader for a number that is no handling."""
    if handling not in HANDLINGS:
        raise InvalidHeader("handling: may be HANDLING_STRICT or HANDLING_LENIENT")
    return handling == pb.HANDLING_LENIENT


def refuse(context: Context, error: Exception) -> None:
    """Let a call end with an error, once its method returns.

    The library's `abort` raises an error that it also keeps, in a circle with all that led there: every bad batch would
    stay in memory until the garbage collector comes by, which is minutes.
    """
    status = rpc_status.to_status(trailer_status_of(error))
    context.set_code(status.code)
    context.set_details(status.details)
    context.set_trailing_metadata(status.trailing_metadata)
