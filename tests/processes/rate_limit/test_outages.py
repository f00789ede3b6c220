"""The limit while the database is away, and while workers are killed or frozen: never more than the limit."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.harness import Server, descriptors, wait_until
from tests.support.limited_clients import CLIENTS, REJECTED, STORED, UNANSWERED, RestClient, open_clients
from tests.support.mongod import Mongod
from tests.support.rate_limit import Clock, limited_key, limited_keys, stored_count
from tests.support.spending import Flow, codes, spend


@pytest.mark.slow
def test_nothing_is_admitted_while_the_database_is_away(tmp_path: Path) -> None:
    with (
        Mongod(tmp_path / "db") as mongod,
        mongod.client() as mongo,
        Server(tmp_path / "data", "--workers", "2", "--mongodb-url", mongod.url) as server,
    ):
        paused, killed, spent = limited_keys(server, [20, 20, 3])
        with closing(RestClient(server, spent["key"])) as client:
            assert codes([client() for _ in range(4)]) == {STORED: 3, REJECTED: 1}
        for key in (paused, killed):
            with ExitStack() as stack:
                clients = [
                    stack.enter_context(closing(new_client(server, key["key"]))) for new_client in CLIENTS.values()
                ]
                clock = Clock()
                assert codes([client() for client in clients]) == {STORED: 3}
                if key is paused:
                    mongod.process.send_signal(signal.SIGSTOP)
                else:
                    mongo.admin.command("fsync")
                    mongod.kill()
                more = [
                    stack.enter_context(closing(new_client(server, spent["key"]))) for new_client in CLIENTS.values()
                ]
                with ThreadPoolExecutor(6) as threads:
                    away = list(threads.map(lambda client: client(), [*clients, *more]))
                if key is paused:
                    mongod.process.send_signal(signal.SIGCONT)
                else:
                    mongod.start()
                assert codes(away) == {"unavailable": 6}
                assert all(attempt.wait_s >= 1 for attempt in away)
                assert all(attempt.answered - attempt.sent < 15 for attempt in away)
                wait_until(lambda: healthy(server), "the database to be back")
                after = [client() for client in clients for _ in range(8)]
                clock.check()
                found = codes(after)
                assert set(found) == {STORED, REJECTED}
                # It is unknown whether the three with the response "unavailable" count.
                assert 20 - 3 - 3 <= found[STORED] <= 20 - 3
                assert after[-1].code == REJECTED
                assert stored_count(mongo, key) <= 20


def healthy(server: Server) -> bool:
    """Whether the database is there for all workers that 32 connections reach: of these, some go to each of two."""
    found = []
    for _ in range(32):
        with server.client() as client:
            found.append(client.get("/health/ready").status_code)
    return set(found) == {200}


def test_kill_9_of_a_worker_admits_no_more(tmp_path: Path) -> None:
    limit = 2_000
    with Server(tmp_path / "data", "--workers", "2") as server, server.mongo() as mongo:
        key = limited_key(server, limit)
        clock = Clock()
        with open_clients([server], key["key"], rest=8, unary=2, stream=2) as clients, Flow(clients) as flow:
            wait_until(lambda: flow.counts()[STORED] > 300, "load")
            victim = server.worker_pids()[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: flow.counts()[REJECTED] > 200, "rejections")
            assert flow.counts()[STORED] > 300
            attempts = flow.finish()
        wait_until(lambda: len(server.worker_pids()) == 2 and victim not in server.worker_pids(), "a new worker")
        with open_clients([server], key["key"], rest=8, unary=2, stream=2) as clients:
            after = spend(clients, 100)
        clock.check()
        found_codes = codes(attempts)
        stored = stored_count(mongo, key)
        assert found_codes[STORED] <= stored <= limit
        assert stored <= found_codes[STORED] + found_codes[UNANSWERED]
        assert set(found_codes) <= {STORED, REJECTED, UNANSWERED, "unavailable"}
        assert codes(after) == {REJECTED: 100}
        # Permits that the killed worker held count as used. They are few.
        assert stored >= 0.7 * limit


def connections_of(worker: int) -> int:
    """How many sockets a worker has open."""
    return sum(opened.startswith("socket:") for opened in descriptors(worker))


def test_a_worker_that_pauses_keeps_nothing(tmp_path: Path) -> None:
    """It pauses for less than the 20 s after which the supervisor replaces it: the others have few permits to use."""
    limit = 1_500
    with Server(tmp_path / "data", "--workers", "2") as server, server.mongo() as mongo:
        key = limited_key(server, limit)
        clock = Clock()
        with open_clients([server], key["key"], rest=8, unary=2, stream=2) as clients, Flow(clients) as flow:
            wait_until(lambda: flow.counts()[STORED] > 1_000, "load")
            victim = min(server.worker_pids(), key=connections_of)
            os.kill(victim, signal.SIGSTOP)
            wait_until(lambda: flow.counts()[REJECTED] > 20, "rejections")
            os.kill(victim, signal.SIGCONT)
            wait_until(lambda: flow.counts()[STORED] >= limit, "the permits that the worker held")
            rejected = flow.counts()[REJECTED]
            wait_until(lambda: flow.counts()[REJECTED] > rejected + 200, "rejections")
            attempts = flow.finish()
        clock.check()
        assert set(codes(attempts)) == {STORED, REJECTED}
        assert codes(attempts)[STORED] == stored_count(mongo, key) == limit
