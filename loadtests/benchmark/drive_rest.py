"""Drive a server over REST: posts on keep-alive connections. Imports uvloop, the payloads and the job.

A request costs the generator little more than its system calls: its bytes are ready-made, and of the answer no more is
read than its end and its count. So the generator is not what is measured.
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

REFUSAL_BYTES = 300
"""What is kept of an answer that is no receipt: enough for its reason."""

TIMER_S = 0.001
"""The event loop's timers tick so often: what falls due in between is sent so much late at most, and that counts."""

END_OF_HEAD = b"\r\n\r\n"
CREATED = b"HTTP/1.1 201 "
EVENTS_RECEIVED = re.compile(rb'"events_received":(\d+)')
CONTENT_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """A connection with one request under way at most."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:  # uvloop's is none of asyncio's
        """Remember where to write."""
        self._transport = transport

    def ask(self, message: bytes) -> asyncio.Future[bytes]:
        """Send a request; the result is its answer, head and body."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Hand over the answer when all of it is there."""
        self._received += data
        head_size = self._received.find(END_OF_HEAD)
        if head_size < 0 or self._answer is None:
            return
        if len(self._received) >= head_size + len(END_OF_HEAD) + int(found(CONTENT_LENGTH, self._received)):
            self._answer.set_result(self._received)
            self._received, self._answer = b"", None

    def connection_lost(self, exc: Exception | None) -> None:
        """A server that hangs up amid a request ends the job."""
        if self._answer is not None:
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


def run_rest(job: Job, start: Callable[[], None]) -> Result:
    """Post batches with each of the job's keys in turn."""
    random = Random(job.seed)
    bodies = [make_batch(random, job.batch_size) for _ in range(VARIETY)]
    messages = [
        request(job, job.keys[index % len(job.keys)], bodies[index % VARIETY])
        for index in range(max(VARIETY, len(job.keys)))
    ]
    return uvloop.run(post_all(job, cycle(messages), start))


async def post_all(job: Job, messages: Iterator[bytes], start: Callable[[], None]) -> Result:
    """Send requests over connections that are opened before the start."""
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
    """Send one request after the other. One that falls due while all connections are busy is late, and it shows."""
    for due_s in dues:
        early_s = due_s - time.monotonic()
        if early_s > 0:
            await asyncio.sleep(math.ceil(early_s / TIMER_S) * TIMER_S)
        since_s = min(due_s, time.monotonic())  # a timer may go off a little early
        answer = await connection.ask(next(messages))
        result.latencies_s.append(time.monotonic() - since_s)
        if answer.startswith(CREATED):
            result.acknowledged += int(found(EVENTS_RECEIVED, answer))
        else:
            head, _, body = answer.partition(END_OF_HEAD)
            result.refusals.append(f"{head.splitlines()[0].decode()}: {body[:REFUSAL_BYTES].decode()}")


def request(job: Job, key: str, body: bytes) -> bytes:
    """The bytes of a POST."""
    head = (
        "POST /api/v1/events HTTP/1.1",
        f"Host: {urlsplit(job.url).netloc}",
        f"X-API-Key: {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "".join(f"{line}\r\n" for line in (*head, "")).encode() + body


def found(pattern: re.Pattern[bytes], text: bytes) -> bytes:
    """The first group of the pattern's first match, which must be there."""
    match = pattern.search(text)
    assert match is not None, text[:1000]
    return match[1]
