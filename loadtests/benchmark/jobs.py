"""The job of a load generator, and its result. They pass between processes as JSON.

A job has a duration, not a number of requests. The number of requests is a result.
"""

import time
from collections.abc import Iterator
from itertools import count
from typing import Literal
from uuid import UUID

import msgspec

Driven = Literal["insert_command", "insert_many", "insert_one", "rest", "grpc"]
"""What is driven: MongoDB without a server in one of three ways (`drive_mongodb.py`), or one of the server's APIs."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of `batch_size` events for `seconds` over `connections`, with `window` requests in flight on each."""

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
    """The rate at which requests are due, also if earlier ones are unanswered. 0: each when one before is answered."""
    seed: int


class Result(msgspec.Struct, kw_only=True):
    """The result of a job. Times are by the monotonic clock, which all processes of a machine share."""

    started_s: float = 0.0
    ended_s: float = 0.0
    cpu_s: float = 0.0
    acknowledged: int = 0
    latencies_s: list[float] = []
    rejections: list[str] = []

    def begin(self) -> None:
        """Start the clock."""
        self.cpu_s, self.started_s = -time.process_time(), time.monotonic()

    def end(self) -> None:
        """Stop the clock."""
        self.ended_s = time.monotonic()
        self.cpu_s += time.process_time()


def due_times(job: Job, started_s: float) -> Iterator[float]:
    """Yield the time at which each request is due, until the job's time is over."""
    until_s = started_s + job.seconds
    if job.requests_per_s:
        for number in count():
            due_s = started_s + number / job.requests_per_s
            if due_s >= until_s:
                return
            yield due_s
    while (now_s := time.monotonic()) < until_s:
        yield now_s
