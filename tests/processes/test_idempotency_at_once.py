"""Repeats of a batch at the same time on two hosts with three workers and both drivers: it is stored once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from uuid import UUID

import pytest

from tests.support.harness import Json, MongoClient, Server, batch
from tests.support.idempotency import (
    CONFLICT,
    PROTOCOLS,
    Receipt,
    TenantClient,
    at_once,
    check_one_receipt,
    expect_receipt,
    records,
    stored_ids,
)
from tests.support.mongod import Mongod


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
def tenants_of(hosts: tuple[Server, Server, MongoClient], key: Json, count: int) -> Iterator[list[TenantClient]]:
    """Clients of both hosts, in turn."""
    with ExitStack() as stack:
        yield [stack.enter_context(TenantClient(hosts[:2][index % 2], key)) for index in range(count)]


def test_fifty_at_once_are_stored_once(hosts: tuple[Server, Server, MongoClient]) -> None:
    key = hosts[0].create_key("fifty", "--rate-limit", "0")
    protocols = list(PROTOCOLS.values())
    with tenants_of(hosts, key, 10) as tenants:
        for name, count in (("one", 1), ("some", 20), ("many", 300)):
            calls = [partial(protocols[n % 3], tenants[n % 10], batch(count), name) for n in range(50)]
            hosts[2].sluice.events.delete_many({})
            responses = at_once(calls)
            check_one_receipt(responses, stored_ids(hosts[2], key))
            assert len(stored_ids(hosts[2], key)) == count
    assert len(records(hosts[2], key)) == 3


def test_of_other_batches_at_once_one_wins(hosts: tuple[Server, Server, MongoClient]) -> None:
    key = hosts[0].create_key("rivals", "--rate-limit", "0")
    protocols = list(PROTOCOLS.values())
    with tenants_of(hosts, key, 10) as tenants:
        for name in ("a", "b", "c"):
            calls = [partial(protocols[n % 3], tenants[n % 10], batch(1 + n % 5), name) for n in range(30)]
            hosts[2].sluice.events.delete_many({})
            responses = at_once(calls)
            assert [response for response in responses if isinstance(response, str)] == [CONFLICT] * 24
            check_one_receipt(
                [response for response in responses if isinstance(response, Receipt)], stored_ids(hosts[2], key)
            )
    assert len(records(hosts[2], key)) == 3


@pytest.mark.slow
def test_the_outcome_of_a_replay_that_did_not_begin_is_unknown(hosts: tuple[Server, Server, MongoClient]) -> None:
    """Those that wait wrote nothing, but the request before them may have stored something."""
    key = hosts[1].create_key("waiting", "--rate-limit", "0")
    data = {"failCommands": ["insert"], "namespace": "sluice.events", "blockConnection": True, "blockTimeMS": 10_500}
    with TenantClient(hosts[1], key) as tenant, ThreadPoolExecutor() as threads:
        receipt = expect_receipt(tenant.rest(batch(7), "a"), replayed=False)
        assert hosts[2].sluice.events.delete_one({"_id.id": UUID(receipt.ids[-1])}).deleted_count == 1
        hosts[2].admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
        responses = [future.result() for future in [threads.submit(tenant.post, batch(7), "a") for _ in range(5)]]
        hosts[2].admin.command("configureFailPoint", "failCommand", mode="off")
        assert [(response.status_code, response.json()["outcome"]) for response in responses] == [(503, "unknown")] * 5
        assert expect_receipt(tenant.rest(batch(7), "a"), replayed=True) == receipt
    assert stored_ids(hosts[2], key) == receipt.ids


@pytest.mark.parametrize("collection", ["claims", "events"])
def test_a_write_that_is_done_but_not_confirmed_is_no_replay(
    hosts: tuple[Server, Server, MongoClient], collection: str
) -> None:
    """The server tries it again and finds its own documents."""
    mongo = hosts[2]
    key = hosts[0].create_key(f"unconfirmed-{collection}", "--rate-limit", "0")
    data = {
        "failCommands": ["insert"],
        "namespace": f"sluice.{collection}",
        "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"},
    }
    with TenantClient(hosts[0], key) as tenant:
        mongo.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
        receipt = expect_receipt(tenant.rest(batch(7), "a"), replayed=False)
        assert expect_receipt(tenant.rest(batch(7), "a"), replayed=True) == receipt
    assert stored_ids(mongo, key) == receipt.ids
