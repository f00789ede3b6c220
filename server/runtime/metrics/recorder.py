"""Counts the requests of a worker in its slot. It is on the hot path: a single event costs it some 2 µs."""

import os
from bisect import bisect_left
from mmap import mmap
from time import time_ns

from server.core.errors import ConfigurationError, SluiceError
from server.core.request import Ending, EventOutcome, Request
from server.core.rules.model import RuleState
from server.core.rules.windows import last_complete_minute
from server.core.times import NS_PER_MS
from server.runtime.metrics.layout import (
    ADMIT,
    APIS,
    BOUNDS_NS,
    CODES,
    EVALUATIONS,
    EVENTS,
    HISTOGRAM_SIZE,
    INSERT,
    INTEGER_BYTES,
    LATE,
    LATENESS,
    LAYOUT,
    READS,
    REQUEST,
    REQUESTS,
    WAIT,
    Balance,
)

SUM = HISTOGRAM_SIZE - 1
"""Where the sum of a histogram is, from its first place."""

OTHER_LAYOUT = "a worker counts in another way than the supervisor: restart the server, whose code was changed"


def open_slot(descriptor: int) -> memoryview:
    """The numbers of the slot that the supervisor made for this process. Raises ConfigurationError."""
    shared = mmap(descriptor, 0)
    os.close(descriptor)
    if len(shared) != LAYOUT.size * INTEGER_BYTES:
        raise ConfigurationError(OTHER_LAYOUT)
    return memoryview(shared).cast("q")


class Places:
    """Where the numbers of one API are."""

    def __init__(self, api: str) -> None:
        self.requests = {name: family.places[api,] for name, family in REQUESTS.outcomes.items()}
        self.reads = {name: family.places[api,] for name, family in READS.outcomes.items()}
        self.events = {name: family.places[api,] for name, family in EVENTS.outcomes.items()}
        self.requests_refused = refused_places(REQUESTS, api)
        self.reads_refused = refused_places(READS, api)
        self.events_refused = refused_places(EVENTS, api)
        self.requests_received = REQUESTS.received.places[api,]
        self.reads_received = READS.received.places[api,]
        self.events_received = EVENTS.received.places[api,]
        self.late = LATE.places[api,]
        self.request, self.admit, self.wait, self.insert = (
            family.places[api,] for family in (REQUEST, ADMIT, WAIT, INSERT)
        )


def refused_places(balance: Balance, api: str) -> dict[str, int]:
    """Where refusals are counted, by code."""
    return {code: balance.refused.places[api, code] for code in CODES}


class Recorder:
    """A listener of requests."""

    def __init__(self, numbers: memoryview) -> None:
        self._numbers = numbers
        self._places = {api: Places(api) for api in APIS}

    def on_received(self, request: Request) -> None:
        """See `Listener`."""
        places = self._places[request.api]
        self._numbers[places.reads_received if request.is_read else places.requests_received] += 1

    def on_events(self, request: Request, count: int) -> None:
        """See `Listener`."""
        self._numbers[self._places[request.api].events_received] += count

    def on_settled(self, request: Request, outcome: EventOutcome, count: int, code: str | None) -> None:
        """See `Listener`."""
        places = self._places[request.api]
        self._numbers[places.events[outcome] if code is None else places.events_refused[code]] += count
        if request.completes_ms is not None and outcome == "stored":
            self._numbers[places.late] += count * is_late(request.completes_ms)

    def on_ended(self, request: Request, ending: Ending, _error: SluiceError | None) -> None:
        """See `Listener`."""
        numbers, places = self._numbers, self._places[request.api]
        if ending.code is not None:
            refused = places.reads_refused if request.is_read else places.requests_refused
            numbers[refused[ending.code]] += 1
        else:
            outcomes = places.reads if request.is_read else places.requests
            numbers[outcomes[ending.outcome]] += 1
        if request.events:
            observe(numbers, places.request, request.ended_ns - request.started_ns)
        if request.admit_ns:
            observe(numbers, places.admit, request.admit_ns)
        if request.insert_ns:
            observe(numbers, places.wait, request.wait_ns)
            observe(numbers, places.insert, request.insert_ns)


def is_late(received_at_ms: int) -> bool:
    """Whether rules count the minute of a time of receipt as complete."""
    return received_at_ms < last_complete_minute(time_ns() // NS_PER_MS)


def record_evaluation(numbers: memoryview, state: RuleState, lateness_ms: int) -> None:
    """Count the evaluation of a rule."""
    numbers[EVALUATIONS.places[state,]] += 1
    observe(numbers, LATENESS.places[()], lateness_ms * NS_PER_MS)


def observe(numbers: memoryview, first: int, duration_ns: int) -> None:
    """Add a duration to the histogram whose first place is `first`."""
    numbers[first + bisect_left(BOUNDS_NS, duration_ns)] += 1
    numbers[first + SUM] += duration_ns
