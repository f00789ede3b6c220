"""One load-generator process of the benchmark: `python -m loadtests.generator`, started by `loadtests.benchmark` only.

A job comes as a line of JSON on stdin. All that can be made beforehand is made before `ready` goes to stdout; the work
begins at the next line on stdin, and its result is a line of JSON on stdout. In between, a request costs little more
than its system calls, so that the generator is not what is measured: its CPU time is in the result to show it.
"""

import asyncio
import gc
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
import msgspec
import uvloop
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, WriteConcern

from loadtests.payloads import Json, encode, make_batch, make_events
from proto.sluice.v1 import event_service_pb2 as pb
from server.core.decode import decode_batch
from server.core.events import Header
from server.core.ids import new_ids
from storage import documents
from storage.indexes import EVENTS

VARIETY = 20
"""Different batches that a generator makes and sends again and again: enough that no two neighbours are alike."""

ID_START = 4 + len(documents.ID_ELEMENT)
ID_END = ID_START + 16
"""Where the 16 bytes of `_id` stand in a document: behind its size, and what BSON says before them."""

READ_LIMIT_BYTES = 2**20
"""What a connection buffers: more than the receipt of 1,000 events, so that it is read in one go."""

REFUSAL_BYTES = 300
"""What is kept of an answer that is no receipt: enough for its reason."""

STREAM_WINDOW = 4
"""Batches under way on one stream: a client that waited for each answer would not need a stream."""

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""Channels of one process share a connection unless told otherwise."""

NS_PER_MS = 1_000_000

EVENTS_RECEIVED = re.compile(rb'"events_received":(\d+)')
CONTENT_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
CREATED = b"HTTP/1.1 201 "


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one generator is to do: `batches` requests of `batch_size` events over `connections` connections."""

    target: Literal["mongodb", "rest", "grpc"]
    url: str
    database: str = ""
    key: str = ""
    batch_size: int
    batches: int
    connections: int
    seed: int


class Result(msgspec.Struct, kw_only=True):
    """What came of a job. Times are of the monotonic clock, which all processes of a machine share."""

    started_s: float = 0.0
    ended_s: float = 0.0
    cpu_s: float = 0.0
    acknowledged: int = 0
    latencies_s: list[float] = []
    refusals: list[str] = []

    def begin(self) -> None:
        """Start the clock."""
        self.cpu_s, self.started_s = -time.process_time(), time.monotonic()

    def end(self) -> None:
        """Stop the clock."""
        self.ended_s = time.monotonic()
        self.cpu_s += time.process_time()


def run_rest(job: Job, start: Callable[[], None]) -> Result:
    """Post batches to a server over keep-alive connections, each with one request under way."""
    random = Random(job.seed)
    requests = [request(job, make_batch(random, job.batch_size)) for _ in range(VARIETY)]
    queue = iter(requests[index % VARIETY] for index in range(job.batches))
    return uvloop.run(post_all(job, queue, start))


async def post_all(job: Job, queue: Iterator[bytes], start: Callable[[], None]) -> Result:
    """Send every request of `queue`, over connections opened before the start."""
    where, result = urlsplit(job.url), Result()
    streams = [
        await asyncio.open_connection(where.hostname, where.port, limit=READ_LIMIT_BYTES)
        for _ in range(job.connections)
    ]
    start()
    result.begin()
    await asyncio.gather(*(post_in_turn(reader, writer, queue, result) for reader, writer in streams))
    result.end()
    for _, writer in streams:
        writer.close()
    return result


async def post_in_turn(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, queue: Iterator[bytes], result: Result
) -> None:
    """Send requests one after the other while there are any."""
    for message in queue:
        sent_s = time.monotonic()
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(found(CONTENT_LENGTH, head)))
        result.latencies_s.append(time.monotonic() - sent_s)
        if head.startswith(CREATED):
            result.acknowledged += int(found(EVENTS_RECEIVED, body))
        else:
            result.refusals.append(f"{head.splitlines()[0].decode()}: {body[:REFUSAL_BYTES].decode()}")


def request(job: Job, body: bytes) -> bytes:
    """The bytes of a POST."""
    head = (
        "POST /api/v1/events HTTP/1.1",
        f"Host: {urlsplit(job.url).netloc}",
        f"X-API-Key: {job.key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "".join(f"{line}\r\n" for line in (*head, "")).encode() + body


def found(pattern: re.Pattern[bytes], text: bytes) -> bytes:
    """The first group of the pattern's first match, which must be there."""
    match = pattern.search(text)
    assert match is not None, text[:1000]
    return match[1]


def run_grpc(job: Job, start: Callable[[], None]) -> Result:
    """Stream batches to a server, each stream over a connection of its own with a few batches under way."""
    random = Random(job.seed)
    messages = [stream_request(make_events(random, job.batch_size)) for _ in range(VARIETY)]
    queue = iter(messages[index % VARIETY] for index in range(job.batches))
    return uvloop.run(stream_all(job, queue, start))


async def stream_all(job: Job, queue: Iterator[bytes], start: Callable[[], None]) -> Result:
    """Send every message of `queue`, over streams opened before the start."""
    result = Result()
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(job.connections):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(job.url, OWN_CONNECTION))
            await channel.channel_ready()
            method: Any = channel.stream_stream("/sluice.v1.EventService/StreamEvents")  # bytes in, bytes out
            streams.append(method(metadata=(("x-api-key", job.key),)))
        start()
        result.begin()
        await asyncio.gather(*(stream_in_turn(stream, queue, result) for stream in streams))
        result.end()
    return result


async def stream_in_turn(stream: Any, queue: Iterator[bytes], result: Result) -> None:
    """Keep a few messages under way while there are any, and read every response."""
    sent: deque[float] = deque()
    while True:
        while len(sent) < STREAM_WINDOW and (message := next(queue, None)) is not None:
            sent.append(time.monotonic())
            await stream.write(message)
        if not sent:
            break
        response = pb.StreamEventsResponse.FromString(await stream.read())
        result.latencies_s.append(time.monotonic() - sent.popleft())
        result.acknowledged += response.receipt.events_received
        if response.HasField("error"):
            result.refusals.append(response.error.message)
    await stream.done_writing()


def stream_request(events: list[Json]) -> bytes:
    """The bytes of a message on a stream."""
    batch = pb.EventBatch(source="backend")
    for event in events:
        added = batch.events.add(
            type=event["type"], data_json=encode(event["data"]), metadata_json=encode(event["metadata"])
        )
        added.timestamp.FromJsonString(event["timestamp"])
    return pb.StreamEventsRequest(batch=batch).SerializeToString()


def run_mongodb(job: Job, start: Callable[[], None]) -> Result:
    """Insert batches that are ready-made as BSON, as fast as the driver and the database can: the ceiling."""
    result = Result()
    with (
        MongoClient[dict[str, Any]](job.url) as client,
        ThreadPoolExecutor(job.connections) as threads,
    ):
        database = client.get_database(job.database, write_concern=WriteConcern(w="majority", j=True))
        collection = database.get_collection(EVENTS, codec_options=documents.RAW)
        queue = iter(ready_made(job))

        def insert_in_turn() -> None:
            for batch in queue:
                sent_s = time.monotonic()
                collection.insert_many(batch, ordered=False)
                result.latencies_s.append(time.monotonic() - sent_s)
                result.acknowledged += len(batch)

        client.admin.command("ping")
        start()
        result.begin()
        for work in [threads.submit(insert_in_turn) for _ in range(job.connections)]:
            work.result()
        result.end()
    return result


def ready_made(job: Job) -> list[list[RawBSONDocument]]:
    """The documents of every batch: the server's own, with ids that were never used and ascend."""
    random, tenant_id, now_ms = Random(job.seed), uuid4(), time.time_ns() // NS_PER_MS
    templates = []
    for _ in range(VARIETY):
        batch = decode_batch(make_batch(random, job.batch_size))
        assert batch is not None
        encode = documents.encoder(Header(tenant_id, batch.source, batch.source_id, datetime.now(UTC)))
        templates.append([encode(bytes(ID_END - ID_START), event) for event in batch.events])
    return [
        [
            RawBSONDocument(template[:ID_START] + event_id + template[ID_END:])
            for template, event_id in zip(
                templates[index % VARIETY], new_ids(now_ms + index, job.batch_size).binary, strict=True
            )
        ]
        for index in range(job.batches)
    ]


def wait_for_start() -> None:
    """Say that all is made, and wait for the word to begin."""
    gc.collect()
    gc.freeze()  # what was made beforehand is not looked at again
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit("nobody is there to say when to begin")


def main() -> None:
    """Take a job, do it, and print its result."""
    job = msgspec.json.decode(sys.stdin.readline(), type=Job)
    run = {"mongodb": run_mongodb, "rest": run_rest, "grpc": run_grpc}[job.target]
    result = msgspec.json.encode(run(job, wait_for_start)).decode()
    os.set_blocking(sys.stdout.fileno(), True)  # uvloop left it otherwise, and what a pipe cannot take would be lost
    print(result, flush=True)


if __name__ == "__main__":
    main()
