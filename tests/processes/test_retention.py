"""Retention: what is removed and what stays, by which setting, and what readers see meanwhile."""

import asyncio
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from typing import Any

from server.core.deadline import Deadline
from server.core.jobs.store import JobLease
from server.core.tenants.retention import Retention
from storage.client import database, opened
from storage.commands import Database
from storage.removal import BATCH
from storage.retention import StoredRetention
from storage.tenants import Tenants
from tests.support.exports import export
from tests.support.harness import Json, MongoClient, Server, batch, embedded_url, wait_until
from tests.support.reading import EVENTS
from tests.support.tail import follow_rest
from tests.support.tenants import S_PER_DAY, events_of, insert_old, tenants

LEASE = JobLease("retention", "test", 0)
"""With a fencing number below that of the server's own job."""

EVER = "36500"
"""Days after which nothing of these tests is due."""

EVENT_FIELDS = 9
"""Of an event, as the APIs show it."""

EFFECT_S = 120
"""How soon what is set takes effect."""


def on(server: Server, work: Callable[[Database], Coroutine[Any, Any, None]]) -> None:
    """Run `work` on the server's database."""

    async def run() -> None:
        async with opened(embedded_url(server.data_dir), "pymongo") as client:
            await work(database(client, "sluice"))

    asyncio.run(run())


def sources(mongo: MongoClient, key: Json) -> dict[str, int]:
    """How many events of each source a tenant has."""
    return dict(Counter(event["source"] for event in events_of(mongo, key)))


def foreign_event(key: Json, own_id: Any, **fields: Any) -> Json:
    """An event that an operator has inserted."""
    return {"_id": {"tenant_id": uuid.UUID(key["tenant_id"]), "id": own_id}, "source": "foreign", **fields}


def test_just_what_is_due_is_removed(server: Server, mongo: MongoClient, key: Json) -> None:
    other = server.create_key(f"other-{uuid.uuid4().hex}")
    for tenant in (key, other):
        insert_old(mongo, tenant, 2 * BATCH + 10, 40, "due")
        insert_old(mongo, tenant, 5, 29.99, "soon due")
    low = uuid.UUID(int=uuid.uuid4().int >> 16 | 4 << 76)  # a random id that looks as if it were from 1970
    ages = {"now": datetime.now(UTC), "old": datetime.now(UTC) - timedelta(days=40)}
    mongo.sluice.events.insert_many(
        [
            foreign_event(key, low, received_at=ages["now"]),
            foreign_event(key, "a text", received_at=ages["old"]),
            foreign_event(key, 1, received_at=ages["old"]),
            foreign_event(key, uuid.UUID(int=low.int + 1)),
        ]
    )
    with server.client(key["key"]) as client:
        sent = client.post(EVENTS, json=batch(), headers={"Idempotency-Key": "kept"}).json()["events"][0]["id"]
    assert tenants(server, "set-retention", key["tenant"], "30").exit_code == 0
    wait_until(lambda: "due" not in sources(mongo, key), "the removal of what is due", EFFECT_S)
    assert sources(mongo, key) == {"soon due": 5, "foreign": 4, "backend": 1}
    assert sources(mongo, other) == {"due": 2 * BATCH + 10, "soon due": 5}
    with server.client(key["key"]) as client:
        again = client.post(EVENTS, json=batch(), headers={"Idempotency-Key": "kept"})
    assert (again.json()["events"][0]["id"], again.headers["idempotent-replayed"]) == (sent, "true")


def test_a_change_counts_from_the_next_batch_on(server: Server, mongo: MongoClient, key: Json) -> None:
    insert_old(mongo, key, 3 * BATCH, 40)
    assert tenants(server, "set-retention", key["tenant"], EVER).exit_code == 0

    async def work(storage: Database) -> None:
        stored = StoredRetention(storage)
        (policy,) = [each for each in await stored.policies(Deadline()) if each.tenant == key["tenant"]]
        soon = policy._replace(due_before_ms=policy.due_before_ms + 36_500 * S_PER_DAY * 1_000)
        removal = stored.due(soon, LEASE)
        assert await removal.remove_next(Deadline()) == BATCH
        await Tenants(storage).set_retention(key["tenant"], None)
        assert await removal.remove_next(Deadline()) is None
        await Tenants(storage).set_retention(key["tenant"], soon.days)
        assert await stored.due(soon, LEASE).remove_next(Deadline()) == BATCH
        newer = stored.due(soon, LEASE._replace(fence=10**9))
        older = stored.due(soon, LEASE)
        assert await newer.remove_next(Deadline()) == BATCH
        insert_old(mongo, key, 10, 40)
        assert await older.remove_next(Deadline()) is None  # a worker that was frozen, and has lost its lease

    on(server, work)
    assert sources(mongo, key) == {"old": 10}


def test_days_that_are_none_stop_no_other_tenant(server: Server, mongo: MongoClient, key: Json) -> None:
    names = [f"days-by-hand-{number}" for number in range(4)]
    for name, days in zip(names, ["30", None, -1, 10**12], strict=True):
        mongo.sluice.tenants.insert_one({"_id": name, "tenant_id": uuid.uuid4(), "retention": {"days": days}})
    assert tenants(server, "set-retention", key["tenant"], "1").exit_code == 0

    async def work(storage: Database) -> None:
        found = {each.tenant for each in await StoredRetention(storage).policies(Deadline())}
        assert key["tenant"] in found
        assert found.isdisjoint(names)

    try:
        on(server, work)
    finally:
        mongo.sluice.tenants.delete_many({"_id": {"$in": names}})


def test_a_tenant_without_retention_costs_no_transaction(server: Server, key: Json) -> None:
    assert tenants(server, "set-retention", key["tenant"], "1").exit_code == 0
    with server.client(key["key"]) as client:
        assert client.post(EVENTS, json=batch()).status_code == 201

    async def work(storage: Database) -> None:
        stored = StoredRetention(storage)
        (policy,) = [each for each in await stored.policies(Deadline()) if each.tenant == key["tenant"]]
        assert await stored.due(policy, LEASE).remove_next(Deadline()) is None
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await Retention(stored).remove_due(LEASE)
        found = await storage["tenants"].find_one({"_id": key["tenant"]})
        assert found is not None
        assert found["retention"] == {"days": 1}

    on(server, work)


def exported(server: Server, key: Json) -> list[Json]:
    with server.client(key["key"]) as client:
        return export(client)


def listed(server: Server, key: Json) -> list[Json]:
    found, link = list[Json](), f"{EVENTS}?limit=1000"
    with server.client(key["key"]) as client:
        while link:
            page = client.get(link)
            found += page.raise_for_status().json()
            link = page.links.get("next", {}).get("url", "")
    return found


def followed(server: Server, key: Json) -> list[Json]:
    with follow_rest(server, key["key"], since="2020-01-01") as messages:
        return [message.data for message in takewhile(lambda message: message.kind == "event", messages)]


class Reader(threading.Thread):
    """Reads all events again and again, until `gone` is set. Each time, what is kept must come once, and whole."""

    def __init__(self, read: Callable[[], list[Json]], kept: set[str], gone: threading.Event) -> None:
        super().__init__()
        self._read = read
        self._kept = kept
        self._gone = gone
        self.counts: list[int] = []
        self.failure: object = None

    def run(self) -> None:
        try:
            while not self._gone.is_set():
                self._check(self._read())
        except Exception as error:  # noqa: BLE001 (whatever a reader meets is a failure)
            self.failure = error

    def _check(self, found: list[Json]) -> None:
        ids = [event["id"] for event in found]
        assert len(set(ids)) == len(ids)
        assert set(ids) >= self._kept
        assert {len(event) for event in found} == {EVENT_FIELDS}
        self.counts.append(len(ids))


def test_readers_see_whole_events_while_others_are_removed(server: Server, mongo: MongoClient, key: Json) -> None:
    insert_old(mongo, key, 20 * BATCH, 40)
    with server.client(key["key"]) as client:
        assert client.post(EVENTS, json=batch(500)).status_code == 201
    kept = {str(event["_id"]["id"]) for event in events_of(mongo, key, source="backend")}
    gone = threading.Event()
    readers = [Reader(partial(read, server, key), kept, gone) for read in (exported, listed, followed)]
    for reader in readers:
        reader.start()
    try:
        wait_until(lambda: all(reader.counts or reader.failure for reader in readers), "all to have read once")
        assert tenants(server, "set-retention", key["tenant"], "30").exit_code == 0
        wait_until(lambda: "old" not in sources(mongo, key), "the removal", EFFECT_S)
    finally:
        gone.set()
        for reader in readers:
            reader.join()
    assert [reader.failure for reader in readers] == [None, None, None]
    assert [reader.counts[0] for reader in readers] == [20 * BATCH + len(kept)] * len(readers)
