"""Drives a server over REST, with POSTs on keep-alive connections.

A request costs the generator little more than its system calls. Its bytes are made in advance, and only the status, the
length and the number of events are read from a response. So the generator does not limit the figures.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from random import Random
from typing import Any
from urllib.parse import urlsplit

import uvloop

from loadtests.benchmark.jobs import Job, Result, due_times
from loadtests.support.payloads import VARIETY, make_batch

REJECTION_BYTES = 300
"""The start of an error that is kept: enough for its reason."""

TIMER_S = 0.001
"""The resolution of the event loop's timers. A request may be sent late by this, which counts as latency."""

END_OF_HEAD = b"\r\n\r\n"
CREATED = b"HTTP/1.1 201 "
EVENTS_RECEIVED = re.compile(rb'"events_received":(\d+)')
CONTENT_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """A connection with at most one request in flight."""

    def __init__(self) -> None:
        self._received = b""
        self._response: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:  # uvloop's transport has no type of asyncio's
        """Keep the transport."""
        self._transport = transport

    def send(self, message: bytes) -> asyncio.Future[bytes]:
        """Send a request. The result of the future is the response, head and body."""
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return self._response

    def data_received(self, data: bytes) -> None:
        """Complete the response when all of it has arrived."""
        self._received += data
        head_size = self._received.find(END_OF_HEAD)
        if head_size < 0 or self._response is None:
            return
        if len(self._received) >= head_size + len(END_OF_HEAD) + int(found(CONTENT_LENGTH, self._received)):
            self._response.set_result(self._received)
            self._received, self._response = b"", None

    def connection_lost(self, exc: Exception | None) -> None:
        """End the job with an error if a request is in flight."""
        if self._response is not None:
            self._response.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


def run_rest(job: Job, start: Callable[[], None]) -> Result:
    """Post batches, with the job's keys in turn."""
    random = Random(job.seed)
    bodies = [make_batch(random, job.batch_size) for _ in range(VARIETY)]
    messages = [
        request(job, job.keys[index % len(job.keys)], bodies[index % VARIETY])
        for index in range(max(VARIETY, len(job.keys)))
    ]
    return uvloop.run(post_all(job, cycle(messages), start))


async def post_all(job: Job, messages: Iterator[bytes], start: Callable[[], None]) -> Result:
    """Open the connections, call `start`, and send requests over all of them."""
    host, _, port = urlsplit(job.url).netloc.rpartition(":")
    result, loop = Result(), asyncio.get_running_loop()
    connections = [(await loop.create_connection(Connection, host, int(port)))[1] for _ in range(job.connections)]
    start()
    result.begin()
    dues = due_times(job, result.started_s)
    await asyncio.gather(*(post_in_turn(connection, messages, dues, result) for connection in connections))
    result.end()
    for connection in connections:
        connection.close()
    return result


async def post_in_turn(
    connection: Connection, messages: Iterator[bytes], dues: Iterator[float], result: Result
) -> None:
    """Send one request after the other. If all connections are busy when one is due, the delay counts as latency."""
    for due_s in dues:
        early_s = due_s - time.monotonic()
        if early_s > 0:
            await asyncio.sleep(math.ceil(early_s / TIMER_S) * TIMER_S)
        since_s = min(due_s, time.monotonic())  # a timer may fire a little early
        response = await connection.send(next(messages))
        result.latencies_s.append(time.monotonic() - since_s)
        if response.startswith(CREATED):
            result.acknowledged += int(found(EVENTS_RECEIVED, response))
        else:
            head, _, body = response.partition(END_OF_HEAD)
            result.rejections.append(f"{head.splitlines()[0].decode()}: {body[:REJECTION_BYTES].decode()}")


def request(job: Job, key: str, body: bytes) -> bytes:
    """Encode a POST, head and body."""
    head = (
        "POST /api/v1/events HTTP/1.1",
        f"Host: {urlsplit(job.url).netloc}",
        f"X-API-Key: {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "".join(f"{line}\r\n" for line in (*head, "")).encode() + body


def found(pattern: re.Pattern[bytes], text: bytes) -> bytes:
    """Return the first group of the pattern's first match. The text must have one."""
    match = pattern.search(text)
    assert match is not None, text[:1000]
    return match[1]
