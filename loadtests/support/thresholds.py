"""The thresholds of all load tests, each with its unit and its reason.

They are in one file, so that a reader sees what the load tests promise. A test measures a number for each threshold
that applies to it, and passes if all of them hold.
"""

import operator
from collections.abc import Callable
from typing import Literal, NamedTuple

Relation = Literal["=", "≤", "≥"]

RELATIONS: dict[Relation, Callable[[float, float], bool]] = {"=": operator.eq, "≤": operator.le, "≥": operator.ge}


class Threshold(NamedTuple):
    """A bound on a measured number."""

    what: str
    relation: Relation
    bound: float
    unit: str
    reason: str


class Check(NamedTuple):
    """A threshold and the number that was measured for it."""

    threshold: Threshold
    measured: float

    @property
    def passed(self) -> bool:
        """Whether the threshold holds."""
        return RELATIONS[self.threshold.relation](self.measured, self.threshold.bound)

    def __str__(self) -> str:
        bound = self.threshold
        return f"{bound.what}: {number(self.measured)} {bound.unit}, must be {bound.relation} {number(bound.bound)}"


def number(value: float) -> str:
    """Format a number: without decimals if it is whole or at least 1,000, else with two."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1_000 else f"{value:,.2f}"


WINDOW_S = 60.0
"""The period that the rate limit is about."""

SLACK_WINDOW_S = 62.0
"""No request is rejected while fewer than the limit were admitted in this period: 2 s of slack, as the API promises."""


# Every load test

FAILURES = Threshold(
    "requests with a response that none should get",
    "=",
    0,
    "requests",
    "no response, a late one, or a 5xx other than 503 is a bug",
)

UNEXPECTED_REJECTIONS = Threshold(
    "good requests rejected as bad", "=", 0, "requests", "the API accepts what the load test sends here"
)

BAD_WAITS = Threshold(
    "rejections without a usable wait",
    "=",
    0,
    "requests",
    "a client without a wait retries at once or gives up; after 62 s every rate limit admits again",
)

MAX_WAIT_S = SLACK_WINDOW_S
"""The longest usable wait: after it the window of the rate limit is empty."""

LOST = Threshold(
    "events acknowledged but not stored", "=", 0, "events", "the promise: an acknowledged event is on disk"
)

DUPLICATES = Threshold("events stored twice", "=", 0, "events", "no retry and no repeat stores an event again")

FOREIGN = Threshold(
    "stored events that were not sent", "=", 0, "events", "every event has a mark that only this run uses"
)

MISPLACED = Threshold(
    "events under another tenant, source or id",
    "=",
    0,
    "events",
    "an event belongs to the tenant of its key and has the id of its receipt; anything else is a leak",
)

STORED_THOUGH_REJECTED = Threshold(
    "events stored of rejected batches", "=", 0, "events", "a rejected batch leaves nothing stored"
)

WRONG_REPLAYS = Threshold(
    "repeats with another receipt than the first time",
    "=",
    0,
    "requests",
    "a retry under the same key gets the same receipt",
)

ACKNOWLEDGED = Threshold(
    "events acknowledged", "≥", 1, "events", "if nothing was acknowledged, the other checks prove nothing"
)


# limits

BURST_ADMITTED = Threshold(
    "requests admitted of the burst, above the limit (negative: below it)",
    "=",
    0,
    "requests",
    "the limit is exact over protocols and workers: neither more nor less",
)

BURST_S = Threshold(
    "the burst, from its first request to its last response",
    "≤",
    WINDOW_S,
    "s",
    "in a longer burst permits return before its end, so the number of admitted requests is not exact",
)

MOST_ADMITTED = Threshold(
    "the most admitted in any 60 s, above the limit",
    "≤",
    0,
    "requests",
    "no period of 60 s may admit more than the limit",
)

EARLY_REJECTIONS = Threshold(
    "rejections while less than 0.95 of the limit was admitted in the last 62 s",
    "=",
    0,
    "requests",
    "a client may use its whole limit; 0.95 allows for requests in flight",
)

USED_SHARE = 0.95
"""The share of the limit in EARLY_REJECTIONS."""

MISSING_LIMIT_HEADERS = Threshold(
    "REST responses without RateLimit headers", "=", 0, "requests", "clients set their pace by them"
)

LONE_REJECTED = Threshold(
    "rejections of the lone client before it waited",
    "=",
    1,
    "requests",
    "it stops at its first rejection; if there is none, there is no limit",
)

LONE_ADMITTED = Threshold(
    "requests of the lone client admitted after the wait", "=", 1, "requests", "the wait must be long enough"
)


# throughput. Speed depends on the machine: only a bug makes a server slower than these bounds.

LARGE_BATCH_RATE = Threshold(
    "events a second in batches of 1,000, the slowest API",
    "≥",
    15_000,
    "events/s",
    "a fifth of what one worker reaches on 4 cores (loadtests/README.md), with the load test on the same machine",
)

SINGLE_EVENT_RATE = Threshold(
    "events a second one by one, the slowest API",
    "≥",
    150,
    "events/s",
    "a quarter of what one worker reaches on 4 cores: each is a lookup of the key and a journaled write",
)


# mixed

MIXED_P99 = Threshold(
    "p99 latency of good requests of the slowest kind, without slow clients",
    "≤",
    1_000,
    "ms",
    "well below capacity, a request waits for a journal write but not in a queue",
)

UNCLEAR_BAD_INPUT = Threshold(
    "bad requests not rejected as bad", "=", 0, "requests", "bad input gets one clear error and changes nothing"
)

WORKER_MIB = Threshold(
    "resident memory of the largest worker", "≤", 200, "MiB", "many workers fit on a machine beside the database"
)

WORKER_GROWTH = Threshold(
    "resident memory of a worker, the largest after the first minute, divided by that at one minute",
    "≤",
    1.05,
    "times",
    "a worker that runs for weeks must not grow; allocators vary by 5 %",
)


# overload

SURPLUS_REJECTED = Threshold(
    "requests rejected above capacity",
    "≥",
    1,
    "requests",
    "if none is rejected, the load was below capacity or all requests had to wait",
)

RESPONSE_S = Threshold(
    "the longest time to a response", "≤", 12, "s", "a request's deadline is 10 s; 2 s more for a lack of CPU"
)

RECOVERY_S = 2.0
"""Time from the end of the surplus to the recovery that is measured, in which accepted requests are finished."""

RECOVERED_P95 = Threshold(
    "p95 latency from 2 s after the surplus, divided by that before it",
    "≤",
    3,
    "times",
    "a server that recovers at once is as fast as before; 3 allows for a checkpoint of the database",
)

NORMAL_P95_MS = 100.0
"""Shorter latencies count as this in RECOVERED_P95, because three times a very short latency is still short."""

RECOVERED_REJECTIONS = Threshold(
    "requests rejected from 2 s after the surplus", "=", 0, "requests", "at a low rate there is capacity for all"
)
