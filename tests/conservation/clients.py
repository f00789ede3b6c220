"""Clients that send a batch again and again under its idempotency key, until it is acknowledged.

So in the end each of their events is in the database once, whatever happened meanwhile.
"""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, NamedTuple

import grpc
import httpx
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import OWN_CONNECTION, metadata
from tests.support.wire import EVENTS

TIMEOUT_S = 30

SHORT_TIMEOUTS_S = (0.002, 0.05)
"""The range of deadlines that end some unary calls while the server works on them."""

HASTY_SHARE = 0.1

PAUSE_S = 0.05
"""Before a batch is sent again."""

LINES = {"Content-Type": "application/x-ndjson"}
LENIENT = {"Prefer": "handling=lenient"}


class Acknowledged(NamedTuple):
    """What a receipt says."""

    events: int
    replayed: bool


class Tally:
    """The events that were acknowledged, and the attempts that were not."""

    def __init__(self) -> None:
        self.new = 0
        """Events whose receipt says that they were stored by that very request."""
        self.replayed = 0
        """Events whose first receipt says that an earlier request, which got no response, may have stored them."""
        self.failures: Counter[str] = Counter()

    def add(self, acknowledged: Acknowledged) -> None:
        """Count a batch, once."""
        if acknowledged.replayed:
            self.replayed += acknowledged.events
        else:
            self.new += acknowledged.events


class Retry(Exception):
    """A batch must be sent again. The text says why."""


Send = Callable[[Random, str], Awaitable[Acknowledged]]
"""Sends a batch that the random numbers determine, under an idempotency key. Raises Retry."""


async def until_acknowledged(send: Send, tally: Tally, seed: int) -> None:
    """Send a batch until it is acknowledged."""
    key = uuid.uuid4().hex
    while True:
        try:
            tally.add(await send(Random(seed), key))
        except Retry as error:
            tally.failures[str(error)] += 1
            await asyncio.sleep(PAUSE_S)
        else:
            return


async def forever(send: Send, tally: Tally, random: Random, stop: asyncio.Event) -> None:
    """Send one batch after the other until `stop` is set, and then until the last is acknowledged."""
    while not stop.is_set():
        await until_acknowledged(send, tally, random.getrandbits(60))


def events_of(random: Random, most: int) -> list[dict[str, Any]]:
    """At least one event."""
    return [{"type": "row", "data": {"index": index}} for index in range(random.randint(1, most))]


class RestClients:
    """Clients over REST."""

    def __init__(self, url: str, secret: str) -> None:
        limits = httpx.Limits(max_connections=300)
        self.client = httpx.AsyncClient(
            base_url=url, headers={"X-API-Key": secret}, timeout=TIMEOUT_S, trust_env=False, limits=limits
        )

    async def strict(self, random: Random, key: str) -> Acknowledged:
        """A batch whose events are all good."""
        return await self._post(key, {"source": "rest", "events": events_of(random, 300)})

    async def lenient(self, random: Random, key: str) -> Acknowledged:
        """A batch with a bad event."""
        events = [*events_of(random, 300), {"type": "no data"}]
        return await self._post(key, {"source": "lenient", "events": events}, LENIENT)

    async def large(self, _random: Random, key: str) -> Acknowledged:
        """A batch of 1,000 events: a hundred of them at a time are more than a worker holds."""
        return await self._post(key, {"source": "large", "events": [{"type": "t", "data": {}}] * 1_000})

    async def raw(self, random: Random, key: str) -> Acknowledged:
        """A raw body of some batches, with a bad line."""
        lines = "\n".join([*map(json.dumps, events_of(random, 3_000)), "no JSON"])
        return await self._send(key, LINES, params={"source": "raw"}, content=lines)

    async def _post(self, key: str, batch: dict[str, Any], headers: dict[str, str] | None = None) -> Acknowledged:
        return await self._send(key, headers or {}, json=batch)

    async def _send(self, key: str, headers: dict[str, str], **options: Any) -> Acknowledged:
        try:
            response = await self.client.post(EVENTS, headers={"Idempotency-Key": key, **headers}, **options)
        except httpx.TransportError:
            raise Retry("connection lost") from None
        if response.status_code in (429, 503):
            raise Retry(f"{response.status_code} {response.json().get('outcome', '')}".strip())
        assert response.status_code == 201, response.text
        return Acknowledged(response.json()["events_received"], "idempotent-replayed" in response.headers)


class GrpcClients:
    """Clients over gRPC, each with a connection of its own."""

    def __init__(self, target: str, secret: str) -> None:
        self._target = target
        self._metadata = metadata(secret)
        self._channel = grpc.aio.insecure_channel(target, options=OWN_CONNECTION)

    async def unary(self, random: Random, key: str) -> Acknowledged:
        """A call. Some have a deadline that passes."""
        attempt = Random()  # not the same at each attempt, or some would never come further
        timeout = attempt.uniform(*SHORT_TIMEOUTS_S) if attempt.random() < HASTY_SHARE else TIMEOUT_S
        call: Any = self._channel.unary_unary(
            "/sluice.v1.EventService/IngestEvents",
            pb.IngestEventsRequest.SerializeToString,
            pb.IngestEventsResponse.FromString,
        )
        request = pb.IngestEventsRequest(batch=message_of(random, key))
        try:
            response = await call(request, metadata=self._metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise Retry(retried(error)) from None
        return Acknowledged(response.receipt.events_received, response.receipt.replayed)

    async def stream(self, tally: Tally, random: Random, stop: asyncio.Event) -> None:
        """Send windows of batches over one stream after the other. What gets no receipt is sent again."""
        due: list[tuple[int, str]] = []
        while due or not stop.is_set():
            if not stop.is_set():
                due += [(random.getrandbits(60), uuid.uuid4().hex) for _ in range(8 - len(due))]
            try:
                due = await self._window(due, tally)
            except Retry as error:
                tally.failures[str(error)] += 1
                await asyncio.sleep(PAUSE_S)

    async def _window(self, due: Sequence[tuple[int, str]], tally: Tally) -> list[tuple[int, str]]:
        """Send some batches over a new stream. Returns those that were not acknowledged. Raises Retry."""
        call: Any = self._channel.stream_stream(
            "/sluice.v1.EventService/StreamEvents",
            pb.StreamEventsRequest.SerializeToString,
            pb.StreamEventsResponse.FromString,
        )(metadata=self._metadata, timeout=TIMEOUT_S)
        left = list(due)
        try:
            for sequence, (seed, key) in enumerate(due):
                await call.write(pb.StreamEventsRequest(sequence=sequence, batch=message_of(Random(seed), key)))
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it ended before all was written
            raise Retry("stream ended early") from None
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                if response.HasField("receipt"):
                    tally.add(Acknowledged(response.receipt.events_received, response.receipt.replayed))
                    left.remove(due[response.sequence])
                else:
                    tally.failures[f"stream {response.error.code}"] += 1
        except grpc.aio.AioRpcError as error:
            tally.failures[retried(error)] += 1
        return left

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


def message_of(random: Random, key: str) -> pb.EventBatch:
    """A batch as a message."""
    events = [pb.Event(type="row", data_json=json.dumps(each["data"]).encode()) for each in events_of(random, 100)]
    return pb.EventBatch(source="grpc", events=events, idempotency_key=key)


def retried(error: grpc.aio.AioRpcError) -> str:
    """The status of a call that is made again. Fails for one that says that the batch is bad."""
    bad = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.UNAUTHENTICATED)
    assert error.code() not in bad, error
    return str(error.code().name)
