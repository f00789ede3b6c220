"""The rate limit after the database's clock was set back: what was counted in the future is free again within 62 s.

The clock is not really set back. The stored times are moved instead, which looks the same to the database.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from typing import Any, TypeVar

import pytest

from server.core.access.keys import Key
from server.core.access.rate_limit import LeaseRequest, RateWindow
from server.core.deadline import Deadline
from storage.client import database, opened
from storage.keys import Keys
from tests.support.harness import Json, MongoClient
from tests.support.limited_clients import CLIENTS, MAX_WAIT_S, REJECTED, STORED
from tests.support.mongod import Mongod
from tests.support.rate_limit import Hosts, limited_key
from tests.support.spending import codes

HOUR_MS = 3_600_000
LIMIT = 20

LEASE_S = 1.0
"""The time of a lease. What a test expects of one holds for as long, and what it expects of permits for longer."""

ATTEMPTS = 5

Result = TypeVar("Result")


@pytest.fixture
def mongo(mongod: Mongod) -> Iterator[MongoClient]:
    with mongod.client() as client:
        yield client
        client.drop_database("sluice")


def move(mongo: MongoClient, by_ms: int) -> None:
    """Move all times of all windows, as if the database's clock were moved the other way."""
    for document in mongo.sluice["keys"].find({"window": {"$exists": True}}):
        window = document["window"]
        window["at"] += by_ms
        for bucket in window["buckets"]:
            bucket["at"] += by_ms
        for lease in window["leases"]:
            lease["bucket"] += by_ms
            lease["open_until"] += by_ms
        mongo.sluice["keys"].update_one({"_id": document["_id"]}, {"$set": {"window": window}})


def with_keys(mongod: Mongod, work: Callable[[Keys, Key], Coroutine[Any, Any, Result]]) -> Result:
    """Run `work` with a new key. If the machine stood still, leases have ended by themselves, and it is run again."""

    async def run() -> Result:
        async with opened(mongod.url, "pymongo") as client:
            keys = Keys(database(client, "sluice"))
            key, _ = await keys.create("acme", rate_limit=LIMIT)
            return await work(keys, key)

    for _ in range(ATTEMPTS):
        began = time.monotonic()
        try:
            return asyncio.run(run())
        except AssertionError:
            if time.monotonic() - began < LEASE_S:
                raise
    raise AssertionError(f"no attempt took less than {LEASE_S} s")


async def lease(keys: Keys, key: Key, lease_id: int, used: int, waiting: int = 0, ahead: int = 0) -> RateWindow:
    request = LeaseRequest(key.id, lease_id, used, waiting, ahead)
    window = (await keys.lease([request], Deadline()))[key.id].window
    assert window is not None
    assert window.resets_s <= MAX_WAIT_S
    return window


@pytest.mark.parametrize("back_ms", [700, 1_000, 60_000, HOUR_MS, 400 * 24 * HOUR_MS])
def test_what_is_in_the_future_counts_for_one_more_window(mongod: Mongod, mongo: MongoClient, back_ms: int) -> None:
    async def work(keys: Keys, key: Key) -> None:
        for used in range(3):  # in one bucket or two
            assert (await lease(keys, key, 1, used, waiting=1)).granted == 1
        move(mongo, back_ms)
        window = await lease(keys, key, 2, 0, waiting=LIMIT)
        assert (window.granted, window.left) == (LIMIT - 3, 0)
        move(mongo, -60_000)
        assert (await lease(keys, key, 2, LIMIT - 3, waiting=1)).granted == 0
        move(mongo, -1_750)
        assert (await lease(keys, key, 2, LIMIT - 3, waiting=1)).granted == 1

    with_keys(mongod, work)


def test_a_lease_from_the_future_is_returned_once(mongod: Mongod, mongo: MongoClient) -> None:
    async def work(keys: Keys, key: Key) -> None:
        assert (await lease(keys, key, 1, 0, waiting=2, ahead=4)).granted == 6
        move(mongo, HOUR_MS)
        window = await lease(keys, key, 2, 0, waiting=1)
        assert (window.granted, window.left, window.leased_elsewhere) == (1, LIMIT - 7, True)
        window = await lease(keys, key, 1, 2)  # 4 of its 6 are returned
        assert (window.granted, window.left) == (0, LIMIT - 3)
        window = await lease(keys, key, 1, 2)
        assert window.left == LIMIT - 3

    with_keys(mongod, work)


def test_a_lease_from_the_future_is_not_open_for_longer(mongod: Mongod, mongo: MongoClient) -> None:
    async def work(keys: Keys, key: Key) -> None:
        await lease(keys, key, 1, 0, waiting=2, ahead=4)
        move(mongo, HOUR_MS)
        await lease(keys, key, 2, 0, waiting=1)
        move(mongo, -2_000)
        assert not (await lease(keys, key, 2, 1, waiting=1)).leased_elsewhere

    with_keys(mongod, work)


def test_requests_after_the_clock_was_set_back(hosts: Hosts) -> None:
    key: Json = limited_key(hosts.servers[0], LIMIT)
    with closing(CLIENTS["rest"](hosts.servers[0], key["key"])) as client:
        answers = [client()]
        move(hosts.mongo, HOUR_MS)
        answers += [client() for _ in range(LIMIT + 4)]
        assert codes(answers) == {STORED: LIMIT, REJECTED: 5}
        assert all(answer.wait_s <= MAX_WAIT_S for answer in answers if answer.code == REJECTED)
        move(hosts.mongo, -61_750)
        assert client().code == STORED
