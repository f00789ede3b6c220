"""What a load generator of the benchmark is told to do, and what it answers. Imports the standard library and msgspec.

A job lasts for a time, not for a number of requests: how many there were is a result.
"""

import time
from collections.abc import Iterator
from itertools import count
from typing import Literal
from uuid import UUID

import msgspec

Driven = Literal["insert_many", "insert_one", "rest", "grpc"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of `batch_size` events for `seconds` over `connections`, with `window` requests under way on each."""

    driven: Driven
    url: str
    database: str
    tenant_id: UUID
    keys: list[str]
    batch_size: int
    connections: int
    window: int
    seconds: float
    requests_per_s: float
    """At this pace requests fall due, ready or not; 0: each as soon as the one before it is answered."""
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


def due_times(job: Job, started_s: float) -> Iterator[float]:
    """When each request is to be sent, until the job's time is up."""
    until_s = started_s + job.seconds
    if job.requests_per_s:
        for number in count():
            due_s = started_s + number / job.requests_per_s
            if due_s >= until_s:
                return
            yield due_s
    while (now_s := time.monotonic()) < until_s:
        yield now_s
