"""Sends requests over gRPC: a request is a call of StreamEvents, with up to 1,000 events in a message.

The server works on several messages of a stream at a time, and answers them in order. What it did not answer, or could
not store now, is sent again in another call, under the same idempotency keys.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import grpc
import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from msgspec import UNSET, Raw, Struct, UnsetType
from sluice.v1 import event_service_pb2 as pb
from sluice.v1.event_service_pb2_grpc import EventServiceStub

from server.cli.grpc_server import GrpcServer
from server.cli.importing.batches import Request
from server.cli.importing.sending import GIVE_UP_AFTER_S, Outcome, refusal
from server.cli.remote import RemoteError, Retryable, Unreachable
from server.cli.retries import Retries
from server.cli.tls import trusted_certificates
from server.core.errors import Code
from server.core.events.model import MAX_BATCH_EVENTS
from server.core.times import MS_PER_S, NS_PER_MS, parse_time

MAX_PIECE_BYTES = 4 * 1024 * 1024
"""JSON of a message, but for its last event. With one of 6.5 MiB it is below the 16 MiB that a server receives."""

RESPONSE_TIMEOUT_S = 60
"""How long no response may come. The server decides within 10 s."""

KEEPALIVE_MS = 15_000
"""After this time without a byte the server is asked whether it is there."""


class EventParts(Struct):
    """The JSON of an event, in the parts of a message."""

    type: str
    data: Raw
    timestamp: str | None = None
    metadata: Raw | UnsetType = UNSET


decode_parts = msgspec.json.Decoder(EventParts).decode


class Piece(NamedTuple):
    """Events that are sent in one message."""

    first: int
    """The index of the first one in the request."""
    texts: list[bytes]


class GrpcTransport:
    """Sends requests to `server` by its `stub`, one after the other."""

    def __init__(self, stub: Any, server: GrpcServer, key: str, say: Callable[[str], None]) -> None:
        self._stub = stub
        self._server = server
        self._address = server.name
        self._metadata = (("x-api-key", key),)
        self._retries = Retries(GIVE_UP_AFTER_S, say)

    async def __call__(self, request: Request) -> Outcome:
        """What `Transport` does."""
        outcome, left = Outcome(refused={}), pieces_of(request)
        while left:
            sent = len(left)
            try:
                await self._send(request, left, outcome)
            except Retryable as error:
                if error.problem.get("code") == Code.RATE_LIMITED:  # it is normal, and passes
                    await asyncio.sleep(error.retry_after_s)
                    continue
                if isinstance(error, Unreachable):
                    await self._server.check_tls()
                if len(left) < sent:
                    self._retries.succeeded()
                await self._retries.wait(error)
        self._retries.succeeded()
        return outcome

    async def _send(self, request: Request, left: list[Piece], outcome: Outcome) -> None:
        """Send pieces in one call. Those that are settled are taken from `left`, and added to the outcome.

        Raises RemoteError; Retryable if others are left.
        """
        pieces, later = list(left), None
        async for response in self._responses(request, pieces):
            piece = pieces[response.sequence]
            try:
                add_response(response, piece, outcome, self._address)
            except Retryable as error:
                later = error
            else:
                left.remove(piece)
        if left:
            raise later or Retryable(f"{self._address} did not answer all that was sent")

    async def _responses(self, request: Request, pieces: list[Piece]) -> AsyncIterator[pb.StreamEventsResponse]:
        """The responses to pieces that are sent in one call. Raises RemoteError."""

        async def messages() -> AsyncIterator[pb.StreamEventsRequest]:
            await call.initial_metadata()  # the key is accepted; else the library may lose the status of a bad one
            for number, piece in enumerate(pieces):
                yield pb.StreamEventsRequest(sequence=number, batch=batch_of(request, piece))

        call = self._stub.StreamEvents(messages(), metadata=self._metadata)
        try:
            while (response := await asyncio.wait_for(call.read(), RESPONSE_TIMEOUT_S)) is not grpc.aio.EOF:
                yield response
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(cast("grpc.Call", error)) or status_of(error)
            raise error_of(status, self._address) from None
        except TimeoutError:
            raise Retryable(f"{self._address} does not answer") from None
        finally:
            call.cancel()


@asynccontextmanager
async def grpc_transport(server: GrpcServer, key: str, say: Callable[[str], None]) -> AsyncIterator[GrpcTransport]:
    """A transport to a server."""
    async with channel_to(server) as channel:
        yield GrpcTransport(EventServiceStub(channel), server, key, say)  # type: ignore[no-untyped-call]


def channel_to(server: GrpcServer) -> grpc.aio.Channel:
    """A channel to a server, over TLS if its name says so."""
    options = [("grpc.keepalive_time_ms", KEEPALIVE_MS)]
    if not server.is_tls:
        return grpc.aio.insecure_channel(server.target, options=options)
    credentials = grpc.ssl_channel_credentials(trusted_certificates() or None)  # None: those that gRPC brings
    return grpc.aio.secure_channel(server.target, credentials, options=options)


def pieces_of(request: Request) -> list[Piece]:
    """The events of a request in pieces, which are cut by number and size alone."""
    pieces, size = list[Piece](), 0
    for index, text in enumerate(request.texts):
        if not pieces or size >= MAX_PIECE_BYTES or len(pieces[-1].texts) == MAX_BATCH_EVENTS:
            pieces.append(Piece(index, []))
            size = 0
        pieces[-1].texts.append(text)
        size += len(text)
    return pieces


def batch_of(request: Request, piece: Piece) -> pb.EventBatch:
    """A piece as a batch."""
    return pb.EventBatch(
        source=request.source,
        source_id=request.source_id,
        events=[event_of(text) for text in piece.texts],
        idempotency_key=f"{request.key}-{piece.first}" if piece.first else request.key,
        handling=pb.HANDLING_LENIENT,
    )


def event_of(text: bytes) -> pb.Event:
    """An event from its JSON, which is good."""
    parts = decode_parts(text)
    event = pb.Event(type=parts.type, data_json=bytes(parts.data))
    if parts.timestamp is not None:
        seconds, milliseconds = divmod(parse_time(parts.timestamp), MS_PER_S)
        event.timestamp.CopyFrom(Timestamp(seconds=seconds, nanos=milliseconds * NS_PER_MS))
    if parts.metadata is not UNSET:
        event.metadata_json = bytes(parts.metadata)
    return event


def add_response(response: pb.StreamEventsResponse, piece: Piece, outcome: Outcome, address: str) -> None:
    """Add what became of a piece to the outcome. Raises RemoteError; Retryable if it may be stored later."""
    if response.HasField("receipt"):
        receipt = response.receipt
        outcome.stored += receipt.events_received
        outcome.replayed = outcome.replayed or receipt.replayed
        errors = [(each.path, each.message) for each in receipt.rejections]
    else:
        bad = detail_of(response.error, error_details_pb2.BadRequest)
        errors = [] if bad is None else [(each.field, each.description) for each in bad.field_violations]
        if not errors:
            raise error_of(response.error, address)
    for path, message in errors:
        if (found := refusal(path, message)) is not None:
            outcome.refused[piece.first + found[0]] = found[1]


def error_of(status: status_pb2.Status, address: str) -> RemoteError:
    """The error that a status tells."""
    info = detail_of(status, error_details_pb2.ErrorInfo)
    retry = detail_of(status, error_details_pb2.RetryInfo)
    problem = {} if info is None else {"code": info.reason.lower()}
    name = next((code.name for code in grpc.StatusCode if code.value[0] == status.code), "UNKNOWN")
    if info is None:  # not from Sluice, but from the library: the connection failed
        return Unreachable(f"{address} cannot be reached over gRPC ({name})")
    reason = f"{status.message} ({name} from {address})"
    if retry is None:
        return RemoteError(reason, problem)
    return Retryable(reason, problem, retry.retry_delay.ToTimedelta().total_seconds())


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The status of an error that has no details."""
    return status_pb2.Status(code=error.code().value[0], message=error.details() or "")


def detail_of(status: status_pb2.Status, kind: Any) -> Any:
    """The detail of a kind in a status, or None."""
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            return detail
    return None
