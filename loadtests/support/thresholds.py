"""What each load test must reach: every threshold with its unit and its reason. Imports the standard library only.

A test measures a number for each threshold that applies to it, and passes if all hold.
"""

import operator
from collections.abc import Callable
from typing import Literal, NamedTuple

Relation = Literal["=", "≤", "≥"]

RELATIONS: dict[Relation, Callable[[float, float], bool]] = {"=": operator.eq, "≤": operator.le, "≥": operator.ge}


class Threshold(NamedTuple):
    """A bound on what is measured."""

    what: str
    relation: Relation
    bound: float
    unit: str
    reason: str


class Check(NamedTuple):
    """A threshold and what was measured for it."""

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
    """A measured number as people read it: whole, or with two decimals where it is small."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1_000 else f"{value:,.2f}"


WINDOW_S = 60.0
"""The rate limit counts over so long."""

SLACK_WINDOW_S = 62.0
"""No request is refused while fewer than the limit were admitted in so long: the contract's slack of 2 s."""


# Every load test

FAILURES = Threshold(
    "requests answered as none should be",
    "=",
    0,
    "requests",
    "no answer, a 5xx but 503, or no answer in time is a fault",
)

UNEXPECTED_REFUSALS = Threshold(
    "good requests refused as bad", "=", 0, "requests", "what the load test sends here is what the contract takes"
)

BAD_WAITS = Threshold(
    "refusals without a usable wait",
    "=",
    0,
    "requests",
    "a caller who is told no time to wait hammers or gives up; over 62 s is more than any caller can owe the limit",
)

MAX_WAIT_S = SLACK_WINDOW_S
"""A wait is usable up to here: by then the window of the rate limit is empty."""

LOST = Threshold(
    "events acknowledged but not stored", "=", 0, "events", "the promise: an acknowledged event is on disk"
)

DUPLICATES = Threshold("events stored twice", "=", 0, "events", "nothing is stored twice, whatever was sent again")

FOREIGN = Threshold(
    "stored events that nobody sent", "=", 0, "events", "every event carries a number that only this run gives out"
)

MISPLACED = Threshold(
    "events under another tenant, source or id",
    "=",
    0,
    "events",
    "an event belongs to the tenant of its key and has the id of its receipt; anything else is a leak",
)

STORED_THOUGH_REFUSED = Threshold(
    "events stored of refused batches", "=", 0, "events", "a refused batch leaves nothing behind"
)

WRONG_REPLAYS = Threshold(
    "repeats answered otherwise than the first time",
    "=",
    0,
    "requests",
    "a retry with the same key gets the same receipt",
)

ACKNOWLEDGED = Threshold(
    "events acknowledged", "≥", 1, "events", "a run in which nothing was stored shows nothing about what is stored"
)


# limits

BURST_ADMITTED = Threshold(
    "requests admitted of the burst, beyond the limit (negative: short of it)",
    "=",
    0,
    "requests",
    "the limit is exact over protocols and workers, both ways",
)

BURST_S = Threshold(
    "the burst, from its first request to its last answer",
    "≤",
    WINDOW_S,
    "s",
    "in a longer one, permits come back meanwhile, and what was admitted says nothing exact",
)

MOST_ADMITTED = Threshold(
    "the most admitted in any 60 s, beyond the limit",
    "≤",
    0,
    "requests",
    "of no 60 s may more than the limit be admitted",
)

EARLY_REFUSALS = Threshold(
    "refusals while under 0.95 of the limit was admitted in the last 62 s",
    "=",
    0,
    "requests",
    "the limit is there to be used; 0.95 forgives requests that are under way when another is judged",
)

USED_SHARE = 0.95
"""For EARLY_REFUSALS."""

MISSING_LIMIT_HEADERS = Threshold(
    "REST answers without RateLimit headers", "=", 0, "requests", "callers pace themselves by them"
)

LONE_REFUSED = Threshold(
    "refusals of the lone client before it waited",
    "=",
    1,
    "requests",
    "it stops at its first one; with none there is no limit",
)

LONE_ADMITTED = Threshold(
    "requests of the lone client admitted after it waited as told", "=", 1, "requests", "the wait must be long enough"
)


# throughput. Speed is a matter of the machine: these are floors that only a fault goes below.

LARGE_BATCH_RATE = Threshold(
    "events a second in batches of 1,000, the slowest face",
    "≥",
    15_000,
    "events/s",
    "a fifth of what one worker takes on 4 cores (see the README), with the load's own cost on the same machine",
)

SINGLE_EVENT_RATE = Threshold(
    "events a second one by one, the slowest face",
    "≥",
    150,
    "events/s",
    "a quarter of what one worker takes on 4 cores: each is a lookup of the key and a journaled write",
)


# mixed

MIXED_P99 = Threshold(
    "p99 latency of good requests but slow clients', the slowest kind",
    "≤",
    1_000,
    "ms",
    "well below capacity a request waits for a journal write and its neighbours, not for a queue",
)

UNCLEAR_BAD_INPUT = Threshold(
    "bad requests not answered as such", "=", 0, "requests", "bad input costs one clear error, and nothing else"
)

WORKER_MIB = Threshold(
    "resident memory of a worker, the largest", "≤", 200, "MiB", "many workers fit on a machine, beside the database"
)

WORKER_GROWTH = Threshold(
    "resident memory of a worker, the most after the first minute as a multiple of that then",
    "≤",
    1.05,
    "times",
    "a worker that runs for weeks must not grow; 5 % is what allocators do",
)


# overload

SURPLUS_REFUSED = Threshold(
    "requests refused past capacity",
    "≥",
    1,
    "requests",
    "without one the load was not past capacity, or all were made to wait",
)

ANSWER_S = Threshold(
    "the longest that an answer took", "≤", 12, "s", "a request has 10 s; 2 s more for a machine that is short of CPU"
)

RECOVERY_S = 2.0
"""From the end of the surplus to the measured part of the recovery: what was taken in is finished in that time."""

RECOVERED_P95 = Threshold(
    "p95 latency from 2 s after the surplus, as a multiple of that before it",
    "≤",
    3,
    "times",
    "a server that recovers at once is as fast as before; 3 forgives a checkpoint of the database",
)

NORMAL_P95_MS = 100.0
"""Latencies below this count as this much in RECOVERED_P95: three times very little is very little."""

RECOVERED_REFUSALS = Threshold(
    "requests refused from 2 s after the surplus", "=", 0, "requests", "at a low rate there is room for all again"
)
