"""A lenient batch of which the database refuses an event: every response under its idempotency key says the same."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.idempotency import PROTOCOLS, Receipt, TenantClient, expect_receipt, records, stored_ids
from tests.support.mongod import Mongod, block_next_insert

HANG_MS = 2_000
"""How long an insert hangs: other requests end within a small part of it."""

GOOD: Json = {"type": "purchase", "data": {}}
TAKEN: Json = {"type": "purchase", "data": {"transaction_id": "T1"}}
UNSTORABLE: Json = {"type": "", "data": {}}


class Shop(NamedTuple):
    """A tenant for which the database has an event with the transaction of TAKEN, and a unique index on it."""

    tenant: TenantClient
    key: Json
    mongo: MongoClient

    def send(self, *events: Json, protocol: str = "REST") -> Receipt | str:
        """Send a lenient batch, always under the same idempotency key."""
        return PROTOCOLS[protocol](self.tenant, {"source": "shop", "events": events}, "k1", lenient=True)

    def drop_first(self) -> None:
        """Delete the event that was first with the transaction."""
        assert self.mongo.sluice.events.delete_one({"source": "first"}).deleted_count == 1


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(tmp_path / "db"))
        mongo = stack.enter_context(mongod.client())
        server = stack.enter_context(Server(tmp_path / "data", "--mongodb-url", mongod.url))
        key = server.create_key("shop", "--rate-limit", "0")
        exists = {"data.transaction_id": {"$exists": True}}
        mongo.sluice.events.create_index("data.transaction_id", unique=True, partialFilterExpression=exists)
        tenant = stack.enter_context(TenantClient(server, key))
        expect_receipt(tenant.rest({"source": "first", "events": [TAKEN]}, None), replayed=False)
        yield Shop(tenant, key, mongo)


@contextmanager
def hanging(shop: Shop, *events: Json) -> Iterator[Future[Receipt | str]]:
    """A request for the events whose insert hangs inside. The value is its result."""
    with ThreadPoolExecutor() as threads:
        until_it_hangs = block_next_insert(shop.mongo, "events", HANG_MS)
        running = threads.submit(shop.send, *events)
        until_it_hangs()
        yield running
        assert not running.done()


def test_a_replay_refuses_what_the_first_request_was_refused(shop: Shop) -> None:
    first = expect_receipt(shop.send(GOOD, UNSTORABLE, TAKEN), replayed=False)
    assert [path for path, _ in first.errors] == ["events[1].type", "events[2]"]
    shop.drop_first()
    for protocol in PROTOCOLS:
        assert expect_receipt(shop.send(GOOD, UNSTORABLE, TAKEN, protocol=protocol), replayed=True) == first
    assert stored_ids(shop.mongo, shop.key) == first.ids


def test_a_replay_leaves_to_a_request_that_still_runs_what_it_is_refused_itself(shop: Shop) -> None:
    with hanging(shop, GOOD, TAKEN) as running:
        assert shop.send(GOOD, TAKEN) == "unavailable"
        shop.drop_first()
    first = expect_receipt(running.result(), replayed=False)
    assert (len(first.ids), first.errors) == (2, [])
    assert expect_receipt(shop.send(GOOD, TAKEN), replayed=True) == first
    assert stored_ids(shop.mongo, shop.key) == first.ids


def test_a_request_says_what_a_faster_replay_has_said(shop: Shop) -> None:
    with hanging(shop, GOOD, TAKEN) as running:
        shop.drop_first()
        replay = expect_receipt(shop.send(GOOD, TAKEN), replayed=True)
    assert (len(replay.ids), replay.errors) == (2, [])
    assert expect_receipt(running.result(), replayed=False) == replay
    assert stored_ids(shop.mongo, shop.key) == replay.ids


@pytest.mark.parametrize("age_s", [0, 61])
def test_after_a_crash_a_replay_decides_when_the_first_request_has_certainly_ended(shop: Shop, age_s: int) -> None:
    """The record is as a worker leaves it that was killed `age_s` ago, before it stored an event."""
    expect_receipt(shop.send(GOOD, TAKEN), replayed=False)
    (record,) = records(shop.mongo, shop.key)
    received_at = record["received_at"] - timedelta(seconds=age_s)
    as_left = {"$unset": {"state": 1, "refused": 1}, "$set": {"received_at": received_at}}
    shop.mongo.sluice.claims.update_one({"_id": record["_id"]}, as_left)
    shop.mongo.sluice.events.delete_many({"source": "shop"})
    if age_s == 0:
        assert shop.send(GOOD, TAKEN) == "unavailable"
        return
    decided = expect_receipt(shop.send(GOOD, TAKEN), replayed=True)
    assert [path for path, _ in decided.errors] == ["events[1]"]
    shop.drop_first()
    assert expect_receipt(shop.send(GOOD, TAKEN), replayed=True) == decided
    assert stored_ids(shop.mongo, shop.key) == decided.ids
