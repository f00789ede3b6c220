"""The window of the limit rolls: permits are forgotten one by one, and clients that wait as told are admitted.

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
from tests.support.limited_clients import MAX_WAIT_S, REFUSED, STORED, WAYS, Answer, callers
from tests.support.logs import assert_no_internal_errors
from tests.support.rate_limit import Hosts, limited_key, limited_keys
from tests.support.spending import WINDOW_S, check_books, check_state, codes

LONG = "SLUICE_LONG" in os.environ


# --- what takes a minute


class Stopped(Exception):
    """The tests are over before the wait is."""


class Lone(NamedTuple):
    """A client that uses its limit up at once, waits as told, and again until all is forgotten."""

    first: list[Answer]
    refused: Answer
    again: Answer
    rest: list[Answer]
    over: Answer


class Spaced(NamedTuple):
    """A client that does the same with some time between its requests, and only waits as told."""

    first: list[Answer]
    refused: list[Answer]
    again: list[Answer]
    over: Answer


LONE_LIMIT = 5

SPACED_LIMIT = 2

SPACE_S = 6

SHORT = (30, 70, 1.5)

FULL = (1_000, 180, 2_000 / 60)
"""A limit, for how many seconds, and how many requests a second."""


class Waits:
    """The waits, in threads of their own."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(8)
        keys = limited_keys(hosts.servers[0], [LONE_LIMIT] * 3 + [SPACED_LIMIT] * 3 + [SHORT[0]])
        *lone_keys, self.steady_key = keys
        lone, spaced = lone_keys[:3], lone_keys[3:]
        self.lone = {way: self._submit_lone(way, key) for way, key in zip(WAYS, lone, strict=True)}
        self.spaced = {way: self._submit_spaced(way, key) for way, key in zip(WAYS, spaced, strict=True)}
        self.short = self._threads.submit(self.steadily, self.steady_key, *SHORT[1:])

    def _submit_lone(self, way: str, key: Json) -> Future[Lone]:
        return self._threads.submit(self._lone, way, key)

    def _submit_spaced(self, way: str, key: Json) -> Future[Spaced]:
        return self._threads.submit(self._spaced, way, key)

    def finish(self) -> None:
        """Give up what still waits."""
        self._stop.set()
        self._threads.shutdown()

    def _until(self, moment: float) -> None:
        if self._stop.wait(max(0.0, moment - time.monotonic())):
            raise Stopped

    def _lone(self, way: str, key: Json) -> Lone:
        with closing(WAYS[way](self.hosts.servers[0], key["key"])) as caller:
            first = [caller() for _ in range(LONE_LIMIT)]
            refused = caller()
            self._until(refused.answered + refused.wait_s)
            again = caller()
            self._until(first[-1].answered + MAX_WAIT_S)
            rest = [caller() for _ in range(LONE_LIMIT - 1)]
            return Lone(first, refused, again, rest, caller())

    def _spaced(self, way: str, key: Json) -> Spaced:
        with closing(WAYS[way](self.hosts.servers[1], key["key"])) as caller:
            first, refused, again = [caller()], [], []
            for _ in range(SPACED_LIMIT - 1):
                self._until(first[-1].answered + SPACE_S)
                first.append(caller())
            for _ in range(SPACED_LIMIT):
                refused.append(caller())
                self._until(refused[-1].answered + refused[-1].wait_s)
                again.append(caller())
            return Spaced(first, refused, again, caller())

    def steadily(self, key: Json, duration_s: float, per_s: float) -> list[Answer]:
        """Requests over every way and host, each sent when it is due."""
        with callers(self.hosts.servers, key["key"], rest=3, unary=3, stream=3) as found:
            start = time.monotonic()
            due = [start + number / per_s for number in range(int(duration_s * per_s))]

            def run(number: int) -> list[Answer]:
                answers = []
                for moment in due[number :: len(found)]:
                    self._until(moment)
                    answers.append(found[number]())
                return answers

            with ThreadPoolExecutor(len(found)) as threads:
                return [answer for answers in threads.map(run, range(len(found))) for answer in answers]


@pytest.fixture(scope="module", autouse=True)
def waits(hosts: Hosts) -> Iterator[Waits]:
    """The waits, begun before the first test."""
    begun = Waits(hosts)
    yield begun
    begun.finish()


# --- what took a minute


@pytest.mark.parametrize("way", WAYS)
def test_a_lone_client_that_waits_as_told_is_admitted(waits: Waits, way: str) -> None:
    lone = waits.lone[way].result()
    assert codes(lone.first) == {STORED: LONE_LIMIT}
    assert (lone.refused.code, lone.again.code) == (REFUSED, STORED)
    assert lone.refused.wait_s <= MAX_WAIT_S
    assert lone.again.answered - lone.first[0].sent >= WINDOW_S
    assert codes(lone.rest) == {STORED: LONE_LIMIT - 1}
    assert lone.over.code == REFUSED
    check_books([*lone.first, lone.refused, lone.again, *lone.rest, lone.over], LONE_LIMIT)


@pytest.mark.parametrize("way", WAYS)
def test_waits_are_for_the_next_that_is_forgotten(waits: Waits, way: str) -> None:
    spaced = waits.spaced[way].result()
    assert codes(spaced.first) == {STORED: SPACED_LIMIT}
    assert codes(spaced.refused) == {REFUSED: SPACED_LIMIT}
    for first, refused in zip(spaced.first, spaced.refused, strict=True):
        assert refused.wait_s <= math.ceil(first.answered + MAX_WAIT_S - refused.sent)
    assert codes(spaced.again) == {STORED: SPACED_LIMIT}
    assert spaced.over.code == REFUSED
    check_books([*spaced.first, *spaced.refused, *spaced.again, spaced.over], SPACED_LIMIT)


def check_steady(answers: Sequence[Answer], limit: int, least: int) -> None:
    """The books balance, and each 62 s of those there were had at least that many admissions."""
    check_books(answers, limit)
    start, end = min(answer.sent for answer in answers), max(answer.answered for answer in answers)
    moment = start
    while moment + MAX_WAIT_S <= end:
        found = sum(
            answer.code == STORED and moment <= answer.sent and answer.answered <= moment + MAX_WAIT_S
            for answer in answers
        )
        assert found >= least, f"{found} admitted in the {MAX_WAIT_S} s from second {moment - start}"
        moment += 0.5


def test_the_window_rolls(waits: Waits) -> None:
    answers = waits.short.result()
    limit, duration_s, per_s = SHORT
    assert len(answers) == int(duration_s * per_s)
    check_steady(answers, limit, limit - 1)
    assert len([answer for answer in answers if answer.code == STORED]) > limit


@pytest.mark.skipif(not LONG, reason="takes three minutes: set SLUICE_LONG")
def test_the_window_rolls_at_the_default_limit(hosts: Hosts, waits: Waits) -> None:
    limit, duration_s, per_s = FULL
    answers = waits.steadily(limited_key(hosts.servers[0], limit), duration_s, per_s)
    assert len(answers) == int(duration_s * per_s)
    check_steady(answers, limit, 950)


def test_state_stays_small(hosts: Hosts, waits: Waits) -> None:
    waits.short.result()
    check_state(hosts.mongo, most_documents=2 * hosts.mongo.sluice["keys"].count_documents({}) + 16)


def test_no_faults(hosts: Hosts) -> None:
    for server in hosts.servers:
        assert_no_internal_errors(server)
