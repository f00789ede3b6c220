"""Clients that do everything wrong: what they send is refused, and counts nowhere as stored."""

import asyncio
from contextlib import suppress
from random import Random
from typing import Any

import grpc
import httpx
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import OWN_CONNECTION, metadata
from tests.support.wire import EVENTS

PAUSE_S = 0.01

BAD_BATCHES: tuple[Any, ...] = (
    {},
    {"source": "bad", "events": []},
    {"source": "bad", "events": [{"type": "t"}]},
    {"source": "bad", "events": [{"type": "t", "data": {}}, {"type": "", "data": {}}]},
    {"source": "bad", "events": [{"type": "t", "data": {}}] * 1_001},
    {"source": "bad", "events": [{"type": "t", "data": {"n": 2**70}}]},
)

RAW_REQUESTS = (
    b"no HTTP\r\n\r\n",
    b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf a body",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000,
)


async def bad_rest(url: str, secret: str, limited: str, stop: asyncio.Event) -> None:
    """Bad batches, bad keys, paths that do not exist, no JSON, and more requests than a key may make."""
    random = Random(1)
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        while not stop.is_set():
            keys = [{"X-API-Key": secret}, {"X-API-Key": "slc_wrong"}, {}, {"X-API-Key": limited}]
            with suppress(httpx.TransportError):
                match random.randrange(5):
                    case 0:
                        response = await client.post(EVENTS, json=random.choice(BAD_BATCHES), headers=keys[0])
                        assert response.status_code in (400, 503), response.text
                    case 1:
                        await client.post(EVENTS, content=b'{"source":', headers=random.choice(keys))
                    case 2:
                        await client.request(random.choice(["GET", "PUT", "POST"]), random.choice(["/x", EVENTS]))
                    case 3:
                        await client.post(EVENTS, json=BAD_BATCHES[2], headers=keys[3])
                    case 4:
                        await raw_request(url, random.choice(RAW_REQUESTS))
            await asyncio.sleep(PAUSE_S)


async def raw_request(url: str, request: bytes) -> None:
    """Send some bytes, and go away."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with suppress(OSError):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        await writer.drain()
        await asyncio.sleep(PAUSE_S)
        writer.close()
        await writer.wait_closed()


async def bad_grpc(target: str, secret: str, stop: asyncio.Event) -> None:
    """Bad batches, bad keys and bytes that are no message, as calls and on streams."""
    random = Random(2)
    requests = (b"\xff\xff", b"", pb.IngestEventsRequest(batch=pb.EventBatch(source="bad")).SerializeToString())
    async with grpc.aio.insecure_channel(target, options=OWN_CONNECTION) as channel:
        while not stop.is_set():
            key = metadata(random.choice([secret, "slc_wrong"]))
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                if random.random() < 0.5:
                    call: Any = channel.unary_unary("/sluice.v1.EventService/IngestEvents")
                    await call(random.choice(requests), metadata=key, timeout=30)
                else:
                    stream: Any = channel.stream_stream("/sluice.v1.EventService/StreamEvents")(
                        metadata=key, timeout=30
                    )
                    request = pb.StreamEventsRequest(sequence=1, batch=pb.EventBatch(source="bad"))
                    await stream.write(request.SerializeToString())
                    await stream.read()
                    stream.cancel()
            await asyncio.sleep(PAUSE_S)
