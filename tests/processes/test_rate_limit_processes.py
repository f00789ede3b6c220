"""The rate limit over many workers and hosts: exact under load, over time, and while processes come and go.

What takes a minute of waiting runs in the background from the first test here to the last ones, which look at it. Set
SLUICE_LONG=1 for three minutes at the default limit.
"""

import math
import os
import signal
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.processes.test_grpc_processes import assert_no_faults
from tests.support.grpc_client import Stream, channel_to, good_batch, metadata, stub_of
from tests.support.harness import Json, MongoClient, Server, sluice, wait_until
from tests.support.mongod import Mongod
from tests.support.spending import (
    EVENTS,
    GOOD_BODY,
    MAX_WAIT_S,
    REFUSED,
    STORED,
    UNANSWERED,
    UNAUTHENTICATED,
    WAYS,
    WINDOW_S,
    Answer,
    Flow,
    RestCaller,
    StreamCaller,
    callers,
    check_books,
    check_state,
    codes,
    spend,
)

LONG = "SLUICE_LONG" in os.environ
JSON = {"Content-Type": "application/json"}

SOON_S = 55
"""Within which a test of exact counts is over, so that nothing admitted in it is forgotten in it."""


class Hosts(NamedTuple):
    """Two servers with two workers each, on one database."""

    servers: list[Server]
    mongo: MongoClient
    url: str


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    path = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(path / "db"))
        mongo = stack.enter_context(mongod.client())
        options = ("--workers", "2", "--mongodb-url", mongod.url)
        first = stack.enter_context(Server(path / "first", *options))
        second = stack.enter_context(Server(path / "second", *options, "--driver", "pymongo"))
        yield Hosts([first, second], mongo, mongod.url)


def limited_key(server: Server, limit: int) -> Json:
    """A fresh tenant's key with that limit."""
    return server.create_key(f"limited-{uuid.uuid4().hex}", "--rate-limit", str(limit))


def limited_keys(server: Server, limits: Sequence[int]) -> list[Json]:
    """Fresh keys with these limits."""
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda limit: limited_key(server, limit), limits))


def stored_count(mongo: MongoClient, key: Json) -> int:
    """How many events are stored for the key's tenant."""
    return mongo.sluice.events.count_documents({"tenant_id": uuid.UUID(key["tenant_id"])})


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


# --- exact counts


class Clock:
    """Says whether all that was admitted since it was made still counts."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def check(self) -> None:
        assert time.monotonic() - self.started < SOON_S, "too slow to tell anything"


def test_exact_under_concurrency(hosts: Hosts, tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--workers", "4", "--mongodb-url", hosts.url) as server:
        key = limited_key(server, 1_000)
        clock = Clock()
        with (
            callers([server], key["key"], rest=64) as rest,
            callers([server], key["key"], unary=8) as unary,
            ExitStack() as stack,
            ThreadPoolExecutor() as threads,
        ):
            streams = [stack.enter_context(closing(StreamCaller(server, key["key"]))) for _ in range(8)]
            runs = [threads.submit(spend, rest, 1_500), threads.submit(spend, unary, 500)]
            runs += [threads.submit(stream.burst, 125) for stream in streams]
            answers = [answer for run in runs for answer in run.result()]
        clock.check()
        assert codes(answers) == {STORED: 1_000, REFUSED: 2_000}
        assert all(0 < answer.wait_s <= MAX_WAIT_S for answer in answers if answer.code == REFUSED)
        check_books(answers, 1_000)
        assert stored_count(hosts.mongo, key) == 1_000
    assert_no_faults(server)


BURSTS: list[tuple[str, int, tuple[int, ...]]] = [
    ("rest", 2, (1,)),
    ("stream", 10, (3,)),
    ("unary", 10, (9,)),
    ("rest", 50, (25,)),
    ("stream", 50, (10, 10, 10, 19)),
    ("unary", 1_000, (300,)),
    ("rest", 1_000, (999,)),
    ("stream", 1_000, (200, 400, 100, 250)),
]
"""By which way the first burst comes, a limit, and the bursts with which it is nearly used up."""


def test_what_a_burst_leaves_is_there_for_others_at_once(hosts: Hosts) -> None:
    keys = limited_keys(hosts.servers[0], [limit for _, limit, _ in BURSTS])
    for (way, limit, bursts), key in zip(BURSTS, keys, strict=True):
        clock = Clock()
        answers: list[Answer] = []
        with (
            callers(hosts.servers[:1], key["key"], **{way: 4}) as ones,
            callers(hosts.servers, key["key"], rest=3, unary=1, stream=1) as others,
        ):
            for number, burst in enumerate(bursts):
                answers += spend(others if number % 2 else ones, burst)
            answers += spend(others, limit - sum(bursts))
            clock.check()
            assert codes(answers) == {STORED: limit}, (way, limit, bursts)
            answers += spend(others, 30)
            clock.check()
        assert codes(answers) == {STORED: limit, REFUSED: 30}, (way, limit, bursts)
        assert stored_count(hosts.mongo, key) == limit


@pytest.mark.parametrize("limit", [1, 3, 40, 400])
def test_none_is_refused_before_the_last_is_admitted(hosts: Hosts, limit: int) -> None:
    key = limited_key(hosts.servers[1], limit)
    clock = Clock()
    with callers(hosts.servers, key["key"], rest=6, unary=2, stream=2) as found:
        answers = spend(found, 3 * limit + 20)
    clock.check()
    assert codes(answers) == {STORED: limit, REFUSED: 2 * limit + 20}
    check_books(answers, limit)


def test_hosts_share_one_budget(hosts: Hosts) -> None:
    key = limited_key(hosts.servers[0], 6)
    with ExitStack() as stack:
        found = [stack.enter_context(closing(way(host, key["key"]))) for way in WAYS.values() for host in hosts.servers]
        answers = [caller() for caller in found]
        assert codes(answers) == {STORED: 6}
        assert codes([caller() for caller in found]) == {REFUSED: 6}


@pytest.mark.parametrize("limit", [4, 6])
def test_what_is_refused_before_the_check_costs_nothing_elsewhere(hosts: Hosts, limit: int) -> None:
    one, other = hosts.servers
    key = one.create_key("limited-domain", "--rate-limit", str(limit), "--allow-domain", "example.com")
    with one.client(key["key"]) as client:
        assert client.post(EVENTS, content=GOOD_BODY, headers=JSON).status_code == 201
        for _ in range(3):
            foreign = {**JSON, "Origin": "https://example.org"}
            assert client.post(EVENTS, content=GOOD_BODY, headers=foreign).status_code == 403
    with closing(RestCaller(other, key["key"])) as caller:
        assert [caller().code for _ in range(limit)] == [STORED] * (limit - 1) + [REFUSED]


# --- keys that end


@pytest.mark.parametrize("limit", [0, 10_000_000])
def test_ended_keys_stop_at_once_while_they_are_busy(hosts: Hosts, limit: int) -> None:
    server = hosts.servers[0]
    key = limited_key(server, limit)
    secret = key["key"]
    for command in ("rotate", "revoke"):
        with callers(hosts.servers, secret, rest=2, unary=1, stream=1) as found, Flow(found) as flow:
            wait_until(lambda flow=flow: flow.counts()[STORED] > 500, "a busy key")  # type: ignore[misc]
            done = sluice("keys", command, key["id"], *server.database_options)
            returned = time.monotonic()
            assert done.returncode == 0, done.stderr
            if command == "rotate":
                secret = done.stdout.strip()
                for way in WAYS.values():
                    for host in hosts.servers:
                        with closing(way(host, secret)) as caller:
                            assert caller().code == STORED
            wait_until(
                lambda flow=flow, returned=returned: sum(item.sent > returned for item in flow.answers[:]) > 400,  # type: ignore[misc]
                "requests after the end",
            )
            answers = flow.finish()
        assert set(codes([answer for answer in answers if answer.sent > returned])) == {UNAUTHENTICATED}
        assert set(codes(answers)) == {STORED, UNAUTHENTICATED}


def test_ended_keys_stop_on_the_very_next_request(hosts: Hosts) -> None:
    server = hosts.servers[1]
    for command in ("rotate", "revoke"):
        key = limited_key(server, 1_000)
        with callers(hosts.servers, key["key"], rest=8, unary=2, stream=2) as found:
            assert codes([caller() for caller in found for _ in range(3)]) == {STORED: 3 * len(found)}
            assert sluice("keys", command, key["id"], *server.database_options).returncode == 0
            assert codes([caller() for caller in found]) == {UNAUTHENTICATED: len(found)}


def test_a_key_that_is_rotated_while_it_is_busy_keeps_its_budget(hosts: Hosts) -> None:
    limit = 2_000
    server = hosts.servers[0]
    key = limited_key(server, limit)
    clock = Clock()
    with callers(hosts.servers, key["key"], rest=2, unary=1) as found, Flow(found) as flow:
        wait_until(lambda: flow.counts()[STORED] > 200, "a busy key")
        done = sluice("keys", "rotate", key["id"], *server.database_options)
        assert done.returncode == 0, done.stderr
        before = codes(flow.finish())
    assert before[REFUSED] == 0, "this test needs a higher limit"
    with callers(hosts.servers, done.stdout.strip(), rest=4, unary=1, stream=1) as found, Flow(found) as flow:
        wait_until(lambda: flow.counts()[REFUSED] > 50, "refusals")
        after = codes(flow.finish())
    clock.check()
    assert before[STORED] + after[STORED] == stored_count(hosts.mongo, key) == limit


# --- what goes away


def test_database_away_admits_nobody(tmp_path: Path) -> None:
    with (
        Mongod(tmp_path / "db") as mongod,
        mongod.client() as mongo,
        Server(tmp_path / "data", "--workers", "2", "--mongodb-url", mongod.url) as server,
    ):
        paused, killed, spent = limited_keys(server, [20, 20, 3])
        with closing(RestCaller(server, spent["key"])) as caller:
            assert codes([caller() for _ in range(4)]) == {STORED: 3, REFUSED: 1}
        for key in (paused, killed):
            with ExitStack() as stack:
                ways = [stack.enter_context(closing(way(server, key["key"]))) for way in WAYS.values()]
                clock = Clock()
                assert codes([caller() for caller in ways]) == {STORED: 3}
                if key is paused:
                    mongod.process.send_signal(signal.SIGSTOP)
                else:
                    mongo.admin.command("fsync")
                    mongod.kill()
                more = [stack.enter_context(closing(way(server, spent["key"]))) for way in WAYS.values()]
                with ThreadPoolExecutor(6) as threads:
                    away = list(threads.map(lambda caller: caller(), [*ways, *more]))
                if key is paused:
                    mongod.process.send_signal(signal.SIGCONT)
                else:
                    mongod.start()
                assert codes(away) == {"unavailable": 6}
                assert all(answer.wait_s >= 1 for answer in away)
                assert all(answer.answered - answer.sent < 15 for answer in away)
                wait_until(lambda: healthy(server), "the database to be back")
                after = [caller() for caller in ways for _ in range(8)]
                clock.check()
                found = codes(after)
                assert set(found) == {STORED, REFUSED}
                # Whether the three that were told "unavailable" count, nobody can know.
                assert 20 - 3 - 3 <= found[STORED] <= 20 - 3
                assert after[-1].code == REFUSED
                assert stored_count(mongo, key) <= 20


def healthy(server: Server) -> bool:
    """Whether all workers, as far as eight connections tell, have their database."""
    found = []
    for _ in range(8):
        with server.client() as client:
            found.append(client.get("/health/ready").status_code)
    return set(found) == {200}


def test_kill_9_of_a_worker_admits_no_more(tmp_path: Path) -> None:
    limit = 2_000
    with Server(tmp_path / "data", "--workers", "2") as server, server.mongo() as mongo:
        key = limited_key(server, limit)
        clock = Clock()
        with callers([server], key["key"], rest=8, unary=2, stream=2) as found, Flow(found) as flow:
            wait_until(lambda: flow.counts()[STORED] > 300, "load")
            victim = server.worker_pids()[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: flow.counts()[REFUSED] > 200, "refusals")
            assert flow.counts()[STORED] > 300
            answers = flow.finish()
        wait_until(lambda: len(server.worker_pids()) == 2 and victim not in server.worker_pids(), "a new worker")
        with callers([server], key["key"], rest=8, unary=2, stream=2) as found:
            after = spend(found, 100)
        clock.check()
        found_codes = codes(answers)
        stored = stored_count(mongo, key)
        assert found_codes[STORED] <= stored <= limit
        assert stored <= found_codes[STORED] + found_codes[UNANSWERED]
        assert set(found_codes) <= {STORED, REFUSED, UNANSWERED, "unavailable"}
        assert codes(after) == {REFUSED: 100}
        # Permits that the killed worker held may have been used: they are lost, and can only be few.
        assert stored >= 0.7 * limit


def test_a_worker_that_pauses_keeps_nothing(tmp_path: Path) -> None:
    limit = 1_500
    with Server(tmp_path / "data", "--workers", "2") as server, server.mongo() as mongo:
        key = limited_key(server, limit)
        clock = Clock()
        with callers([server], key["key"], rest=8, unary=2, stream=2) as found, Flow(found) as flow:
            wait_until(lambda: flow.counts()[STORED] > 300, "load")
            victim = server.worker_pids()[0]
            os.kill(victim, signal.SIGSTOP)
            wait_until(lambda: flow.counts()[REFUSED] > 20, "refusals")
            os.kill(victim, signal.SIGCONT)
            wait_until(lambda: flow.counts()[STORED] >= limit, "the permits that the worker held")
            refused = flow.counts()[REFUSED]
            wait_until(lambda: flow.counts()[REFUSED] > refused + 200, "refusals")
            answers = flow.finish()
        clock.check()
        assert set(codes(answers)) == {STORED, REFUSED}
        assert codes(answers)[STORED] == stored_count(mongo, key) == limit


def test_a_new_host_joins_the_budget(hosts: Hosts, tmp_path: Path) -> None:
    key = limited_key(hosts.servers[0], 200)
    clock = Clock()
    with callers(hosts.servers, key["key"], rest=2, unary=1, stream=1) as found:
        assert codes(spend(found, 150)) == {STORED: 150}
    with (
        Server(tmp_path / "data", "--mongodb-url", hosts.url) as third,
        callers([*hosts.servers, third], key["key"], rest=2, unary=1, stream=1) as found,
    ):
        answers = spend(found, 120)
    clock.check()
    assert codes(answers) == {STORED: 50, REFUSED: 70}


def test_a_host_that_drains_gives_back_what_it_held(hosts: Hosts, tmp_path: Path) -> None:
    key = limited_key(hosts.servers[0], 400)
    with Server(tmp_path / "data", "--workers", "2", "--mongodb-url", hosts.url) as third:
        clock = Clock()
        with callers([third], key["key"], rest=4, unary=2, stream=2) as found:
            assert codes(spend(found, 250)) == {STORED: 250}
        assert third.stop() == 0
    with callers(hosts.servers, key["key"], rest=2, unary=1, stream=1) as found:
        answers = spend(found, 250)
    clock.check()
    assert codes(answers) == {STORED: 150, REFUSED: 100}


# --- callers that go away


def vanish(server: Server, secret: str, posts: int, calls: int, batches: int) -> None:
    """Send requests and go away before their answers."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {secret}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(GOOD_BODY)}\r\n\r\n".encode() + GOOD_BODY
    sockets = [socket.create_connection((host, int(port))) for _ in range(posts)]
    for number, connection in enumerate(sockets):
        connection.sendall(request)
        if number % 2:  # a reset rather than an end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    with channel_to(server.grpc) as channel:
        stub = stub_of(channel)
        message = pb.IngestEventsRequest(batch=good_batch())
        pending = [stub.IngestEvents.future(message, metadata=metadata(secret)) for _ in range(calls)]
        with Stream(channel, secret) as stream:
            for sequence in range(batches):
                stream.send(sequence, good_batch())
            if batches:
                stream.receive()
        for call in pending:
            call.cancel()


def test_callers_that_vanish_leave_the_budget_whole(hosts: Hosts) -> None:
    wide, narrow = limited_keys(hosts.servers[0], [2_000, 200])
    for key, limit in ((wide, 2_000), (narrow, 200)):
        clock = Clock()
        with (
            callers(hosts.servers, key["key"], rest=4, unary=2, stream=2) as found,
            Flow(found) as flow,
            ThreadPoolExecutor(4) as threads,
        ):
            gone = [threads.submit(vanish, host, key["key"], 20, 20, 20) for host in hosts.servers for _ in range(2)]
            for run in gone:
                run.result()
            most = 4 * 60
            wait_until(lambda flow=flow: flow.counts()[REFUSED] > 50, "refusals")  # type: ignore[misc]
            answers = flow.finish()
            clock.check()
        found_codes = codes(answers)
        assert set(found_codes) == {STORED, REFUSED}
        assert max(0, limit - most) <= found_codes[STORED] <= limit
        assert found_codes[STORED] <= stored_count(hosts.mongo, key) <= limit
        assert max(answer.answered - answer.sent for answer in answers) < 15


def test_callers_that_vanish_stop_nobody(hosts: Hosts) -> None:
    key = limited_key(hosts.servers[0], 5_000)
    for host in hosts.servers:
        vanish(host, key["key"], 40, 40, 40)
    with callers(hosts.servers, key["key"], rest=4, unary=2, stream=2) as found:
        assert codes(spend(found, 400)) == {STORED: 400}


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
        assert_no_faults(server)
