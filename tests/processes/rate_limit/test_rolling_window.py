"""The window of the limit rolls: each permit stops counting by itself, and clients that wait as told are admitted.

The waits take over a minute. They run at the same time, from the first test on. Set SLUICE_LONG=1 for three minutes at
the default limit.
"""

import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import pytest

from tests.support.harness import Json
from tests.support.limited_clients import CLIENTS, MAX_WAIT_S, REJECTED, STORED, Attempt, open_clients
from tests.support.logs import assert_no_internal_errors
from tests.support.rate_limit import Hosts, limited_key, limited_keys
from tests.support.spending import WINDOW_S, check_limit, check_state, codes

LONG = "SLUICE_LONG" in os.environ


class Stopped(Exception):
    """The tests ended before the wait."""


class Lone(NamedTuple):
    """A client that uses up its limit at once, waits as told, and then waits until no permit counts any more."""

    first: list[Attempt]
    rejected: Attempt
    again: Attempt
    rest: list[Attempt]
    over: Attempt


class Spaced(NamedTuple):
    """A client that uses up its limit with pauses, and waits as told before each further request."""

    first: list[Attempt]
    rejected: list[Attempt]
    again: list[Attempt]
    over: Attempt


LONE_LIMIT = 5

SPACED_LIMIT = 2

SPACE_S = 6
"""Between the first requests of a Spaced client."""

SHORT = (30, 70, 1.5)

FULL = (1_000, 180, 2_000 / 60)
"""A limit, how many seconds to send, and requests a second."""


class Waits:
    """Runs all waits at the same time, each in a thread."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(8)
        keys = limited_keys(hosts.servers[0], [LONE_LIMIT] * 3 + [SPACED_LIMIT] * 3 + [SHORT[0]])
        *lone_keys, self.steady_key = keys
        lone, spaced = lone_keys[:3], lone_keys[3:]
        self.lone = {protocol: self._submit_lone(protocol, key) for protocol, key in zip(CLIENTS, lone, strict=True)}
        self.spaced = {
            protocol: self._submit_spaced(protocol, key) for protocol, key in zip(CLIENTS, spaced, strict=True)
        }
        self.short = self._threads.submit(self.steadily, self.steady_key, *SHORT[1:])

    def _submit_lone(self, protocol: str, key: Json) -> Future[Lone]:
        return self._threads.submit(self._lone, protocol, key)

    def _submit_spaced(self, protocol: str, key: Json) -> Future[Spaced]:
        return self._threads.submit(self._spaced, protocol, key)

    def finish(self) -> None:
        """End the waits that are not over."""
        self._stop.set()
        self._threads.shutdown()

    def _until(self, moment: float) -> None:
        if self._stop.wait(max(0.0, moment - time.monotonic())):
            raise Stopped

    def _lone(self, protocol: str, key: Json) -> Lone:
        with closing(CLIENTS[protocol](self.hosts.servers[0], key["key"])) as client:
            first = [client() for _ in range(LONE_LIMIT)]
            rejected = client()
            self._until(rejected.answered + rejected.wait_s)
            again = client()
            self._until(first[-1].answered + MAX_WAIT_S)
            rest = [client() for _ in range(LONE_LIMIT - 1)]
            return Lone(first, rejected, again, rest, client())

    def _spaced(self, protocol: str, key: Json) -> Spaced:
        with closing(CLIENTS[protocol](self.hosts.servers[1], key["key"])) as client:
            first, rejected, again = [client()], [], []
            for _ in range(SPACED_LIMIT - 1):
                self._until(first[-1].answered + SPACE_S)
                first.append(client())
            for _ in range(SPACED_LIMIT):
                rejected.append(client())
                self._until(rejected[-1].answered + rejected[-1].wait_s)
                again.append(client())
            return Spaced(first, rejected, again, client())

    def steadily(self, key: Json, duration_s: float, per_s: float) -> list[Attempt]:
        """Send requests over every protocol and host, each when it is due."""
        with open_clients(self.hosts.servers, key["key"], rest=3, unary=3, stream=3) as clients:
            start = time.monotonic()
            due = [start + number / per_s for number in range(int(duration_s * per_s))]

            def run(number: int) -> list[Attempt]:
                attempts = []
                for moment in due[number :: len(clients)]:
                    self._until(moment)
                    attempts.append(clients[number]())
                return attempts

            with ThreadPoolExecutor(len(clients)) as threads:
                return [attempt for attempts in threads.map(run, range(len(clients))) for attempt in attempts]


@pytest.fixture(scope="module", autouse=True)
def waits(hosts: Hosts) -> Iterator[Waits]:
    """The waits, which begin before the first test."""
    begun = Waits(hosts)
    yield begun
    begun.finish()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", CLIENTS)
def test_a_lone_client_that_waits_as_told_is_admitted(waits: Waits, protocol: str) -> None:
    lone = waits.lone[protocol].result()
    assert codes(lone.first) == {STORED: LONE_LIMIT}
    assert (lone.rejected.code, lone.again.code) == (REJECTED, STORED)
    assert lone.rejected.wait_s <= MAX_WAIT_S
    assert lone.again.answered - lone.first[0].sent >= WINDOW_S
    assert codes(lone.rest) == {STORED: LONE_LIMIT - 1}
    assert lone.over.code == REJECTED
    check_limit([*lone.first, lone.rejected, lone.again, *lone.rest, lone.over], LONE_LIMIT)


@pytest.mark.parametrize("protocol", CLIENTS)
def test_a_wait_is_until_the_next_permit_stops_counting(waits: Waits, protocol: str) -> None:
    spaced = waits.spaced[protocol].result()
    assert codes(spaced.first) == {STORED: SPACED_LIMIT}
    assert codes(spaced.rejected) == {REJECTED: SPACED_LIMIT}
    for first, rejected in zip(spaced.first, spaced.rejected, strict=True):
        assert rejected.wait_s <= math.ceil(first.answered + MAX_WAIT_S - rejected.sent)
    assert codes(spaced.again) == {STORED: SPACED_LIMIT}
    assert spaced.over.code == REJECTED
    check_limit([*spaced.first, *spaced.rejected, *spaced.again, spaced.over], SPACED_LIMIT)


def check_steady(attempts: Sequence[Attempt], limit: int, least: int, per_s: float) -> None:
    """The limit was kept, and any 62 s within the run had at least `least` admissions.

    If the machine stood still, it may have fewer: by as many as were due and had no response when it ended.
    """
    check_limit(attempts, limit)
    start, end = min(attempt.sent for attempt in attempts), max(attempt.answered for attempt in attempts)
    moment = start
    while moment + MAX_WAIT_S <= end:
        until = moment + MAX_WAIT_S
        found = sum(
            attempt.code == STORED and moment <= attempt.sent and attempt.answered <= until for attempt in attempts
        )
        due = min(len(attempts), int((until - start) * per_s))
        late = max(0, due - sum(attempt.answered <= until for attempt in attempts))
        assert found >= least - late, f"{found} admitted in the {MAX_WAIT_S} s from second {moment - start}"
        moment += 0.5


def test_the_window_rolls(waits: Waits) -> None:
    attempts = waits.short.result()
    limit, duration_s, per_s = SHORT
    assert len(attempts) == int(duration_s * per_s)
    check_steady(attempts, limit, limit - 1, per_s)
    assert len([attempt for attempt in attempts if attempt.code == STORED]) > limit


@pytest.mark.skipif(not LONG, reason="takes three minutes: set SLUICE_LONG")
def test_the_window_rolls_at_the_default_limit(hosts: Hosts, waits: Waits) -> None:
    limit, duration_s, per_s = FULL
    attempts = waits.steadily(limited_key(hosts.servers[0], limit), duration_s, per_s)
    assert len(attempts) == int(duration_s * per_s)
    check_steady(attempts, limit, 950, per_s)


def test_state_stays_small(hosts: Hosts, waits: Waits) -> None:
    waits.short.result()
    check_state(hosts.mongo, most_documents=2 * hosts.mongo.sluice["keys"].count_documents({}) + 16)


def test_no_internal_errors(hosts: Hosts) -> None:
    for server in hosts.servers:
        assert_no_internal_errors(server)
