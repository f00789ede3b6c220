"""Drives a server over gRPC streams, each on its own connection.

`grpc.aio` costs a client about as much CPU as a server. So small batches need more generator processes than over REST,
and the table shows their share of a core.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import cycle
from random import Random
from typing import Any

import grpc
import uvloop
from sluice.v1 import event_service_pb2 as pb

from loadtests.benchmark.jobs import Job, Result, due_times
from loadtests.support.payloads import VARIETY, Json, encode, make_events

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""Without this option, the channels of a process share one connection."""

STREAM_EVENTS = "/sluice.v1.EventService/StreamEvents"


def run_grpc(job: Job, start: Callable[[], None]) -> Result:
    """Send batches over streams. Each stream has one of the job's keys."""
    random = Random(job.seed)
    messages = [stream_request(make_events(random, job.batch_size)) for _ in range(VARIETY)]
    return uvloop.run(stream_all(job, cycle(messages), start))


async def stream_all(job: Job, messages: Iterator[bytes], start: Callable[[], None]) -> Result:
    """Open the streams, call `start`, and send messages over all of them."""
    result = Result()
    async with AsyncExitStack() as stack:
        streams = []
        for index in range(job.connections):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(job.url, OWN_CONNECTION))
            await channel.channel_ready()
            method: Any = channel.stream_stream(STREAM_EVENTS)  # bytes in, bytes out
            streams.append(method(metadata=(("x-api-key", job.keys[index % len(job.keys)]),)))
        start()
        result.begin()
        dues = due_times(job, result.started_s)
        await asyncio.gather(*(stream_in_turn(stream, job.window, messages, dues, result) for stream in streams))
        result.end()
    return result


async def stream_in_turn(
    stream: Any, window: int, messages: Iterator[bytes], dues: Iterator[float], result: Result
) -> None:
    """Keep `window` messages in flight on a stream, and read every response."""
    sent: deque[float] = deque()
    while True:
        while len(sent) < window and (sent_s := next(dues, None)) is not None:
            sent.append(sent_s)
            await stream.write(next(messages))
        if not sent:
            break
        response = pb.StreamEventsResponse.FromString(await stream.read())
        result.latencies_s.append(time.monotonic() - sent.popleft())
        result.acknowledged += response.receipt.events_received
        if response.HasField("error"):
            result.rejections.append(response.error.message)
    await stream.done_writing()


def stream_request(events: list[Json]) -> bytes:
    """Encode events as a message on a stream."""
    batch = pb.EventBatch(source="backend")
    for event in events:
        added = batch.events.add(
            type=event["type"], data_json=encode(event["data"]), metadata_json=encode(event["metadata"])
        )
        added.timestamp.FromJsonString(event["timestamp"])
    return pb.StreamEventsRequest(batch=batch).SerializeToString()
