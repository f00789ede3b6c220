"""The methods `IngestEvents` and `StreamEvents` of `sluice.v1.EventService`.

Requests arrive as bytes and are parsed here, so that bytes that are no message get our own error. A stream outlives a
bad batch, also one that cannot be parsed. A bad key, a request without a sequence, or a drain ends it, after everything
before was answered.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from time import perf_counter_ns
from typing import NamedTuple
from uuid import UUID

import grpc
from sluice.v1 import event_service_pb2 as pb

from server.authorization import Schemes, bearer_token, secret_of
from server.core.access.keys import Credentials
from server.core.deadline import Deadline
from server.core.errors import (
    ClientGone,
    InvalidBatch,
    InvalidHeader,
    PayloadTooLarge,
    SluiceError,
    Unauthenticated,
    Unavailable,
)
from server.core.events.decode import TOO_MANY
from server.core.events.model import MAX_BATCH_EVENTS, MAX_BODY_BYTES, DecodedBatch
from server.core.in_flight import Arrived
from server.core.ingest.idempotency import parse_idempotency_key
from server.core.ingest.ingest import AdmittedRequest, IngestOptions, Submission
from server.core.request_context import begin_request
from server.core.tracing import parse_traceparent
from server.rpc.accepting import Handlers
from server.rpc.arrivals import Context, MessageReader, receive
from server.rpc.batches import STREAMED, UNARY, ReceivedBatch, decode_fast, decoding, look_at_batch
from server.rpc.errors import end_with, status_of, unless_failed
from server.rpc.messages import envelope_of, receipt_message
from server.rpc.open_streams import SHORT_OF_MEMORY, OpenStream, OpenStreams
from server.rpc.pacing import Pace
from server.rpc.stream_window import StreamEnd, StreamResult, StreamWindow
from server.rpc.tracing import as_request, end_span, start_span
from server.services import Services

SERVICE = "sluice.v1.EventService"
STREAM_METHOD = f"{SERVICE}/StreamEvents"

KEY_CHECK_S = 5.0
"""How often the key of a stream is checked, and so how long one on which nothing arrives outlives its key."""

DRAINING = "This server is draining: send what was not answered to another, or again"

TOO_LARGE = f"The message is over {MAX_BODY_BYTES >> 20} MiB: send fewer events at a time"

NO_REQUEST = "The message is not a sluice.v1.StreamEventsRequest"

SCHEMES: Schemes = {"bearer": bearer_token}
"""The schemes of `authorization` that may hold a key. No gRPC library sends `Basic`."""

HANDLINGS = frozenset(pb.Handling.values())


class StreamClient(NamedTuple):
    """Who opened a stream. Its key is checked again with every batch."""

    credentials: Credentials
    tenant_id: UUID


class EventService:
    """The service's methods."""

    def __init__(self, services: Services, messages: MessageReader, pace: Pace) -> None:
        self._services = services
        self._messages = messages
        self._streams = OpenStreams()
        self._pace = pace

    def open_streams(self) -> int:
        """How many streams are open."""
        return self._streams.count()

    def handlers(self) -> Handlers:
        """The methods by path.

        `IngestEvents` is registered as a method that takes a stream, which looks the same on the wire. So the key is
        checked before its message is read, and until then HTTP/2 flow control keeps the message at the client.
        """
        return {
            f"/{SERVICE}/IngestEvents": grpc.stream_unary_rpc_method_handler(
                self.ingest_events, response_serializer=pb.IngestEventsResponse.SerializeToString
            ),
            f"/{SERVICE}/StreamEvents": grpc.stream_stream_rpc_method_handler(
                self.stream_events, response_serializer=pb.StreamEventsResponse.SerializeToString
            ),
        }

    async def ingest_events(self, _requests: AsyncIterator[bytes], context: Context) -> pb.IngestEventsResponse | None:
        """Store one batch. A rejected one has no response: the call's status says why."""
        handled = unless_failed(self._ingest(context), context, self._pace)
        return await as_request(handled, f"{SERVICE}/IngestEvents", context, self._services.tracer)

    async def _ingest(self, context: Context) -> pb.IngestEventsResponse:
        async def read(request: AdmittedRequest) -> Submission:
            message = await self._messages.read_batch(context, request)
            request.slot.add_bytes(len(message))
            request.origin.size = len(message)
            received = look_at_batch(message, UNARY)
            request.slot.add_events(received.event_count)
            return await submission_of(request, received)

        with self._services.requests.open("grpc") as origin:
            self._check_not_draining()
            receipt, _ = await self._services.ingest(origin, credentials_of(context), read)
            return pb.IngestEventsResponse(receipt=receipt_message(receipt))

    def _check_not_draining(self) -> None:
        """Raises Unavailable if the server drains."""
        if self._services.draining.is_set():
            raise Unavailable("not_stored", DRAINING)

    async def stream_events(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        """Store batches until the client ends the stream, and answer each in its turn."""
        handled = unless_failed(self._stream(context), context, self._pace)
        await as_request(handled, STREAM_METHOD, context, None)  # each of its batches has a span

    async def _stream(self, context: Context) -> None:
        try:
            self._check_not_draining()
            credentials = credentials_of(context)
            key = await self._services.admission.authenticate(credentials, "events:write", Deadline())
            with self._streams.stream(key.tenant_id, context.peer()) as stream:
                await context.send_initial_metadata(())  # some clients send nothing before they have it
                await self._serve(StreamClient(credentials, key.tenant_id), context, stream)
        except SluiceError as error:  # the stream was not opened
            rejection = error.for_batch() if isinstance(error, Unavailable) else error
            with self._services.requests.open("grpc"):
                raise rejection from None

    async def _serve(self, client: StreamClient, context: Context, stream: OpenStream) -> None:
        """Read requests and write responses until the stream ends."""
        window = StreamWindow()
        reading = asyncio.create_task(self._read(client, context, window))
        endings = [
            asyncio.create_task(end_when(self._services.draining, reading, window, DRAINING)),
            asyncio.create_task(end_when(stream.shed, reading, window, SHORT_OF_MEMORY)),
            asyncio.create_task(self._end_with_key(client.credentials, reading, window)),
        ]
        try:
            await write_responses(context, window)
        finally:  # also if the client is gone: leave nothing running
            for task in (*endings, reading):
                task.cancel()
            window.cancel()

    async def _end_with_key(self, credentials: Credentials, reading: asyncio.Task[None], window: StreamWindow) -> None:
        """Once the key is no longer good, end also a stream on which nothing arrives."""
        try:
            await self._services.admission.until_rejected(credentials, "events:write", KEY_CHECK_S)
        except SluiceError as error:
            reading.cancel()
            window.add(StreamEnd(error))

    async def _read(self, client: StreamClient, context: Context, window: StreamWindow) -> None:
        """Start the work on every request, in turn. Wait while the window or the server is full."""
        try:
            while True:
                await window.acquire_slot()
                await self._services.in_flight.wait_for_capacity()
                message = await receive(context)
                if message is None:
                    return window.add(StreamEnd())
                window.add(asyncio.create_task(self._respond(client, message)))
        except ClientGone:
            window.add(StreamEnd())
        except Exception as error:  # noqa: BLE001 (its text must not reach the client)
            window.add(StreamEnd(error))

    async def _respond(self, client: StreamClient, message: bytes) -> StreamResult:
        """The response to one request of a stream."""
        origin = begin_request()
        try:
            with self._services.requests.open("grpc"):
                if self._services.in_flight.is_full():  # others may have used the capacity while this request was read
                    with self._streams.held(len(message)):
                        await self._services.in_flight.wait_for_capacity()
                try:
                    message = await self._messages.decompress(message, client.tenant_id)
                    origin.size = len(message)
                    received = look_at_batch(message, STREAMED)
                except SluiceError:
                    await self._check_key(client)
                    raise
                origin.parent = parse_traceparent(received.traceparent)
                start_span(origin, STREAM_METHOD, self._services.tracer)
                arrived = Arrived(len(message), received.event_count)
                receipt, _ = await self._services.ingest(
                    origin, client.credentials, lambda request: submission_of(request, received), arrived
                )
        except Unauthenticated as error:
            origin.code = error.code
            return StreamEnd(error)
        except Exception as error:  # noqa: BLE001 (its text must not reach the client)
            known = envelope_of(message)
            if known is None:  # there is nothing to answer to
                return StreamEnd(InvalidBatch(NO_REQUEST) if isinstance(error, InvalidBatch) else error)
            return pb.StreamEventsResponse(sequence=known.sequence, error=status_of(error))
        finally:
            end_span(origin)
        return pb.StreamEventsResponse(sequence=received.sequence, receipt=receipt_message(receipt))

    async def _check_key(self, client: StreamClient) -> None:
        """Check whose request it is, though it is no batch. Raises Unauthenticated if the key was revoked meanwhile."""
        with suppress(Unavailable):
            await self._services.admission.authenticate(client.credentials, "events:write", Deadline())


async def submission_of(request: AdmittedRequest, received: ReceivedBatch) -> Submission:
    """The batch of a message.

    Raises InvalidHeader, PayloadTooLarge, InvalidBatch, and Unavailable if it is not decoded by the deadline.
    """
    options, size = ingest_options_of(received.batch), len(received.message)
    if size > MAX_BODY_BYTES:
        raise PayloadTooLarge(TOO_LARGE)
    if received.event_count > MAX_BATCH_EVENTS:
        raise InvalidBatch(TOO_MANY, field="events")

    async def decode_slowly() -> DecodedBatch:
        return await request.slowly(decoding(received.message, received.kind), size)

    started_ns = perf_counter_ns()
    try:
        decoded = decode_fast(received)
        if decoded is None:
            decoded = await decode_slowly()
    finally:
        request.origin.end_step("decode", started_ns)
    return Submission(decoded, options, size, decode_slowly)


async def end_when(event: asyncio.Event, reading: asyncio.Task[None], window: StreamWindow, why: str) -> None:
    """Once `event` is set, read no more. The stream ends with `why` when everything before is answered."""
    await event.wait()
    reading.cancel()
    window.add(StreamEnd(Unavailable("not_stored", why)))


async def write_responses(context: Context, window: StreamWindow) -> None:
    """Write every response as soon as it is ready, in order, until the end of the stream."""
    while not isinstance(result := await window.next(), StreamEnd):
        try:
            await context.write(result)
        except grpc.aio.BaseError:  # the client is gone
            return
        window.release_slot()
    if result.error is not None:
        end_with(context, result.error)


def credentials_of(context: Context) -> Credentials:
    """The key in a call's metadata. Raises Unauthenticated for more than one key, as `secret_of` does."""
    values: dict[str, list[str]] = {"x-api-key": [], "authorization": []}
    for name, value in context.invocation_metadata() or ():
        if name in values and isinstance(value, str):  # the library gives bytes for names in `-bin` only
            values[name].append(value)
    return Credentials(secret_of(values["x-api-key"], values["authorization"], SCHEMES))


def ingest_options_of(batch: pb.EventBatch) -> IngestOptions:
    """What the client asks for beside its events. Raises InvalidHeader, also for a number that is no handling."""
    idempotency_key = parse_idempotency_key([batch.idempotency_key]) if batch.idempotency_key else None
    if batch.handling not in HANDLINGS:
        raise InvalidHeader("handling: may be HANDLING_STRICT or HANDLING_LENIENT", field="handling")
    return IngestOptions(idempotency_key, lenient=batch.handling == pb.HANDLING_LENIENT)
