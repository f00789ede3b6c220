"""The limit while the database is away, and while workers are killed or frozen: never more than the limit."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from tests.support.harness import Server, wait_until
from tests.support.limited_clients import REFUSED, STORED, UNANSWERED, WAYS, RestCaller, callers
from tests.support.mongod import Mongod
from tests.support.rate_limit import Clock, limited_key, limited_keys, stored_count
from tests.support.spending import Flow, codes, spend

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
