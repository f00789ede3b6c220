"""Repeats of a batch at the same time on two hosts with three workers and both drivers: it is stored once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from tests.support.harness import Json, MongoClient, Server, batch
from tests.support.idempotency import CONFLICT, WAYS, Answer, Caller, at_once, claims, good, one_receipt, stored_ids
from tests.support.mongod import Mongod

# --- many at once


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server, MongoClient]]:
    """Two hosts with one database: two workers with one driver, one with the other."""
    path = tmp_path_factory.mktemp("hosts")
    with Mongod(path / "db") as mongod, mongod.client() as mongo:
        options = ["--mongodb-url", mongod.url, "--driver"]
        one = Server(path / "one", *options, "motor", "--workers", "2")
        two = Server(path / "two", *options, "pymongo")
        with one, two:
            yield one, two, mongo
        assert "internal error" not in one.stderr() + two.stderr()


@contextmanager
def callers_of(hosts: tuple[Server, Server, MongoClient], key: Json, count: int) -> Iterator[list[Caller]]:
    """So many callers, of one host and the other in turn."""
    with ExitStack() as stack:
        yield [stack.enter_context(Caller(hosts[:2][index % 2], key)) for index in range(count)]


def test_fifty_at_once_are_stored_once(hosts: tuple[Server, Server, MongoClient]) -> None:
    key = hosts[0].create_key("fifty", "--rate-limit", "0")
    ways = list(WAYS.values())
    with callers_of(hosts, key, 10) as callers:
        for name, count in (("one", 1), ("some", 20), ("many", 1000)):
            calls = [partial(ways[n % 3], callers[n % 10], batch(count), name) for n in range(50)]
            hosts[2].sluice.events.delete_many({})
            answers = at_once(calls)
            one_receipt(answers, stored_ids(hosts[2], key))
            assert len(stored_ids(hosts[2], key)) == count
    assert len(claims(hosts[2], key)) == 3


def test_of_other_batches_at_once_one_wins(hosts: tuple[Server, Server, MongoClient]) -> None:
    key = hosts[0].create_key("rivals", "--rate-limit", "0")
    ways = list(WAYS.values())
    with callers_of(hosts, key, 10) as callers:
        for name in ("a", "b", "c"):
            calls = [partial(ways[n % 3], callers[n % 10], batch(1 + n % 5), name) for n in range(30)]
            hosts[2].sluice.events.delete_many({})
            answers = at_once(calls)
            assert [answer for answer in answers if isinstance(answer, str)] == [CONFLICT] * 24
            one_receipt([answer for answer in answers if isinstance(answer, Answer)], stored_ids(hosts[2], key))
    assert len(claims(hosts[2], key)) == 3


def test_of_a_replay_that_is_not_begun_the_outcome_is_unknown(hosts: tuple[Server, Server, MongoClient]) -> None:
    """Of those that wait in line nothing is written, but the request before them may have stored something."""
    key = hosts[1].create_key("in-line", "--rate-limit", "0")
    data = {"failCommands": ["insert"], "namespace": "sluice.events", "blockConnection": True, "blockTimeMS": 10_500}
    with Caller(hosts[1], key) as caller, ThreadPoolExecutor() as threads:
        receipt = good(caller.rest(batch(7), "a"), replayed=False)
        hosts[2].admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
        answers = [future.result() for future in [threads.submit(caller.post, batch(7), "a") for _ in range(5)]]
        hosts[2].admin.command("configureFailPoint", "failCommand", mode="off")
        assert [(answer.status_code, answer.json()["outcome"]) for answer in answers] == [(503, "unknown")] * 5
        assert good(caller.rest(batch(7), "a"), replayed=True) == receipt
    assert stored_ids(hosts[2], key) == receipt.ids


@pytest.mark.parametrize("collection", ["claims", "events"])
def test_a_write_that_is_done_but_not_confirmed_is_our_own(
    hosts: tuple[Server, Server, MongoClient], collection: str
) -> None:
    """It is tried again, finds itself, and is no replay."""
    mongo = hosts[2]
    key = hosts[0].create_key(f"unconfirmed-{collection}", "--rate-limit", "0")
    data = {
        "failCommands": ["insert"],
        "namespace": f"sluice.{collection}",
        "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"},
    }
    with Caller(hosts[0], key) as caller:
        mongo.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
        receipt = good(caller.rest(batch(7), "a"), replayed=False)
        assert good(caller.rest(batch(7), "a"), replayed=True) == receipt
    assert stored_ids(mongo, key) == receipt.ids
