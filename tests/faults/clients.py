"""Clients of a host: POSTs, unary calls, and a stream that is opened again when it has ended.

None of them sends a request twice by itself, since an attempt must have exactly one outcome.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any, Protocol

import grpc
import httpx
from sluice.v1 import event_service_pb2 as pb

from tests.faults.ledger import Batch
from tests.faults.responses import UNKNOWN, Response, of_receipt, of_rest, of_rpc_error, of_status
from tests.support.grpc_client import OWN_CONNECTION, metadata

SERVICE = "/sluice.v1.EventService"

SOURCE, EVENT_TYPE = "faults", "row"

NOTE = "x" * 60
"""Makes an event as large as a small real one."""

RECONNECT_MS = 200
"""Between two attempts to connect to a host, so that it is used soon after its restart, which takes seconds."""

CHANNEL_OPTIONS = [
    *OWN_CONNECTION,
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
]


class Client(Protocol):
    """A client of one host with one key."""

    name: str

    async def send(self, batch: Batch, timeout_s: float) -> Response:
        """Send a batch, and wait up to `timeout_s` for its response."""

    async def close(self) -> None:
        """Close the connections."""


class Rest:
    """Posts batches over connections that are kept alive."""

    name = "rest"

    def __init__(self, url: str, secret: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, headers={"X-API-Key": secret}, trust_env=False)

    async def send(self, batch: Batch, timeout_s: float) -> Response:
        """Post a batch."""
        headers = {"Content-Type": "application/json"}
        if batch.has_key:
            headers["Idempotency-Key"] = batch.idempotency_key
        body = json_of(batch)
        try:
            response = await self._client.post("/api/v1/events", content=body, headers=headers, timeout=timeout_s)
        except httpx.TransportError:
            return UNKNOWN
        return of_rest(response)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class Unary:
    """Calls IngestEvents."""

    name = "unary"

    def __init__(self, target: str, secret: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)
        self._call: Any = self._channel.unary_unary(
            f"{SERVICE}/IngestEvents", response_deserializer=pb.IngestEventsResponse.FromString
        )
        self._metadata = metadata(secret)

    async def send(self, batch: Batch, timeout_s: float) -> Response:
        """Call with a batch."""
        request = pb.IngestEventsRequest(batch=message_of(batch)).SerializeToString()
        try:
            response = await self._call(request, metadata=self._metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return of_rpc_error(error)
        return of_receipt(response.receipt)

    async def close(self) -> None:
        """Close the connections."""
        await self._channel.close()


class Call:
    """One StreamEvents call. Each batch gets its response in turn, or else the error that ends the call."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._due: deque[tuple[int, asyncio.Future[Response]]] = deque()
        self.has_ended = False
        self._reading = asyncio.create_task(self._read())

    async def send(self, batch: Batch) -> asyncio.Future[Response]:
        """Send a batch. Returns a future for its response."""
        response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._due.append((batch.number, response))
        request = pb.StreamEventsRequest(sequence=batch.number, batch=message_of(batch))
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call has ended; `_read` notices that
            await self._call.write(request.SerializeToString())
        return response

    async def _read(self) -> None:
        """Set the responses, and at the end the outcome of batches without one."""
        ending = Response("unknown", improper="the stream ended well, with batches unanswered")
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                number, future = self._due.popleft()
                future.set_result(response_on_stream(response, number))
        except grpc.aio.AioRpcError as error:
            ending = of_rpc_error(error)
        finally:
            self.has_ended = True
            for _, future in self._due:
                future.set_result(ending)

    async def close(self) -> None:
        """Half-close, and wait until the server has ended the stream."""
        if not self.has_ended:
            await self._call.done_writing()
        await self._reading


class Stream:
    """Sends batches over one stream after the other."""

    name = "stream"

    def __init__(self, target: str, secret: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)
        self._open: Any = self._channel.stream_stream(
            f"{SERVICE}/StreamEvents", response_deserializer=pb.StreamEventsResponse.FromString
        )
        self._metadata = metadata(secret)
        self._sending = asyncio.Lock()
        self._call: Call | None = None
        self._attempts: set[asyncio.Task[Response]] = set()

    async def send(self, batch: Batch, timeout_s: float) -> Response:
        """Send a batch on the open stream."""
        attempt = asyncio.create_task(self._send(batch))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)
        await asyncio.wait({attempt}, timeout=timeout_s)  # to cancel it would end the stream for other batches, too
        return attempt.result() if attempt.done() else UNKNOWN

    async def _send(self, batch: Batch) -> Response:
        """Send a batch and wait for its response."""
        async with self._sending:  # responses come in the order in which batches were written
            if self._call is None or self._call.has_ended:
                self._call = Call(self._open(metadata=self._metadata))
            response = await self._call.send(batch)
        return await response

    async def close(self) -> None:
        """Wait for all responses, end the stream and close the connection."""
        await asyncio.gather(*self._attempts)
        if self._call is not None:
            await self._call.close()
        await self._channel.close()


def response_on_stream(response: pb.StreamEventsResponse, number: int) -> Response:
    """The response to the batch whose turn it is."""
    if response.sequence != number:
        return Response("unknown", improper=f"{response.sequence} came in place of {number}")
    return of_receipt(response.receipt) if response.HasField("receipt") else of_status(response.error)


def json_of(batch: Batch) -> bytes:
    """A batch as JSON."""
    events = ",".join(f'{{"type":"{EVENT_TYPE}","data":{data_of(mark)}}}' for mark in batch.marks)
    return f'{{"source":"{SOURCE}","events":[{events}]}}'.encode()


def message_of(batch: Batch) -> pb.EventBatch:
    """A batch as a message."""
    events = [pb.Event(type=EVENT_TYPE, data_json=data_of(mark).encode()) for mark in batch.marks]
    return pb.EventBatch(source=SOURCE, events=events, idempotency_key=batch.idempotency_key)


def data_of(mark: int) -> str:
    """The data of an event: a JSON object that differs for each mark."""
    return f'{{"mark":{mark},"note":"{NOTE}"}}'
