"""A worker or the database is killed in the middle of a batch: the retry under its key completes it."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.crashes import HANG_MS, Crashing, accepts
from tests.support.harness import batch, wait_until
from tests.support.idempotency import CONFLICT, TenantClient, expect_receipt, records, stored, stored_ids
from tests.support.mongod import block_next_insert


@pytest.mark.parametrize(("collection", "outcome"), [("claims", "not_stored"), ("events", "unknown")])
def test_kill_9_of_the_database_in_mid_write(crashing: Crashing, collection: str, outcome: str) -> None:
    server, mongod, mongo = crashing
    key = server.create_key(f"database-{collection}", "--rate-limit", "0")
    with TenantClient(server, key) as tenant, ThreadPoolExecutor() as threads:
        kept = expect_receipt(tenant.rest(batch(3), "kept"), replayed=False)
        until_one_hangs = block_next_insert(mongo, collection, HANG_MS)
        cut = threads.submit(tenant.post, batch(50), "cut")
        until_one_hangs()
        mongod.kill()
        response = cut.result()
        assert (response.status_code, response.json()["outcome"]) == (503, outcome)
        mongod.start()
        wait_until(lambda: accepts(tenant.client), "the database to be found again")
        receipt = expect_receipt(tenant.unary(batch(50), "cut"), replayed=collection == "events")
        assert expect_receipt(tenant.rest(batch(50), "cut"), replayed=True) == receipt
        assert expect_receipt(tenant.unary(batch(3), "kept"), replayed=True) == kept
        assert stored_ids(mongo, key) == [*kept.ids, *receipt.ids]


def test_kill_9_of_a_worker_between_record_and_events(crashing: Crashing) -> None:
    server, _, mongo = crashing
    key = server.create_key("worker", "--rate-limit", "0")
    with TenantClient(server, key) as tenant, ThreadPoolExecutor() as threads:
        until_one_hangs = block_next_insert(mongo, "events", HANG_MS)
        cut = threads.submit(tenant.post, batch(50), "a")
        until_one_hangs()
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGKILL)
        assert isinstance(cut.exception(), httpx.TransportError)
    (record,) = records(mongo, key)
    assert stored(mongo, key) == []
    wait_until(lambda: server.worker_pids() not in ([], [worker]), "another worker")
    with TenantClient(server, key) as tenant:
        wait_until(lambda: accepts(tenant.client), "the other worker to accept")
        assert tenant.rest(batch(51), "a") == CONFLICT
        receipt = expect_receipt(tenant.rest(batch(50), "a"), replayed=True)
    assert len(receipt.ids) == 50
    assert stored_ids(mongo, key) == receipt.ids
    assert {item["received_at"] for item in stored(mongo, key)} == {record["received_at"]}
