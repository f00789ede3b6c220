"""`sluice migrate`: layout 1 becomes layout 2, whatever ends it halfway, and no client notices.

Set SLUICE_LONG=1 for 10 kills of one migration.
"""

import os
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from pymongo.errors import WriteError

from server.runtime.background import LEASE_S
from storage.leases import CLOCK_MARGIN
from tests.support.harness import Json, MongoClient, Server, batch, sluice, wait_until
from tests.support.many_events import insert_events
from tests.support.mongod import Mongod, ReplicaSet

EVENTS = "/api/v1/events"

MANY = 60_000
"""Events that are copied in a dozen steps."""

KILLS = 10 if os.environ.get("SLUICE_LONG") else 4

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024

STANDARD: CodecOptions[Json] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)

SOME_TIME = datetime(2020, 1, 1, tzinfo=UTC)

OPERATOR = uuid.UUID(int=7)
"""A tenant of whom only an operator has inserted events."""

COMPLETE: Json = {"tenant_id": OPERATOR, "source": "desk", "event_type": "note"}

FOREIGN: list[Json] = [
    {"_id": bson.ObjectId(), "event_type": "by an operator"},
    {"_id": "text", "tenant_id": "no UUID", "data": {"$ref": "x"}},
    {"_id": "no time", **COMPLETE},
    {"_id": "far time", **COMPLETE, "received_at": DatetimeMS(10**15)},
    {"_id": "long name", **COMPLETE, "event_type": "x" * 2_000_000, "received_at": SOME_TIME},
    {"_id": {"tenant_id": OPERATOR, "id": 1}, "event_type": "of layout 2 already"},
]
"""Documents of layout 1 that an operator inserted."""


def make_layout_1(mongo: MongoClient) -> list[Json]:
    """Turn the database into one of layout 1. Returns its events."""
    database = mongo.sluice
    found = list(database.events.find())
    for view in database.list_collection_names(filter={"type": "view"}):
        database.drop_collection(view)
    database.events.drop()
    database.meta.drop()
    database.event_types.drop()
    database.write_probes.drop()
    database.probes.drop()
    old = [{"_id": each["_id"]["id"], "tenant_id": each["_id"]["tenant_id"], **without_id(each)} for each in found]
    database.events.insert_many([*old, *FOREIGN])
    database.events.create_index([("tenant_id", 1), ("_id", 1)], name="listing")
    return old


def without_id(document: Json) -> Json:
    return {name: value for name, value in document.items() if name != "_id"}


def migrate(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return sluice("migrate", "--mongodb-url", url, *options)


def check_copied(mongo: MongoClient, old: list[Json]) -> None:
    """Every event is there once, as it was."""
    options = mongo.codec_options.with_options(datetime_conversion=DatetimeConversion.DATETIME_AUTO)
    events = mongo.sluice.get_collection("events", codec_options=options)
    new = {bson.encode({"": each["_id"]}, codec_options=options): each for each in events.find()}
    assert events.count_documents({}) == len(new) == len(old) + len(FOREIGN)
    for each in [*old, *FOREIGN]:
        is_new = isinstance(each["_id"], dict)
        own_id = each["_id"] if is_new else {"tenant_id": each.get("tenant_id"), "id": each["_id"]}
        copied = new[bson.encode({"": own_id}, codec_options=options)]
        assert without_id(copied) == {name: each[name] for name in each if name not in {"_id", "tenant_id"}}
    assert mongo.sluice.meta.find_one({"_id": "layout"}) == {"_id": "layout", "version": 2}
    assert not [name for name in mongo.sluice.list_collection_names() if name.startswith("events.")]


def mongod_or_set(nodes: int, path: Path) -> Mongod | ReplicaSet:
    return Mongod(path) if nodes == 1 else ReplicaSet(path)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [pytest.param(1, marks=pytest.mark.long), 3])
def test_a_migration_that_is_killed_goes_on(tmp_path: Path, nodes: int) -> None:
    """With three nodes, it also outlives elections, or ends with an error and goes on as after a kill."""
    with mongod_or_set(nodes, tmp_path / "db") as mongod, mongod.client() as mongo:
        with Server(tmp_path / "data", "--mongodb-url", mongod.url) as server:
            key = server.create_key("acme")
            headers = {"Idempotency-Key": "one"}
            with server.client(key["key"]) as client:
                receipt = client.post(EVENTS, json=batch(3), headers=headers).json()
                insert_events(mongo, key, MANY)
                listed = client.get(EVENTS, params={"skip": 100}).json()
        old = make_layout_1(mongo)
        assert (refused := serve(mongod.url)).returncode == 2
        assert "run `sluice migrate`" in refused.stderr
        plan = migrate(mongod.url, "--plan")
        assert (plan.returncode, plan.stdout.split(":")[0]) == (0, "layout 1 to 2")
        rng = random.Random(1)
        for number in range(KILLS):
            running = subprocess.Popen([sys.executable, "-m", "server", "migrate", "--mongodb-url", mongod.url])
            with running:
                if isinstance(mongod, ReplicaSet) and number % 3 == 0:
                    mongod.step_down()
                try:
                    running.wait(rng.uniform(0.5, 2.5))
                except subprocess.TimeoutExpired:
                    running.kill()
        done = migrate(mongod.url)
        assert done.returncode == 0, done.stderr
        check_copied(mongo, old)
        assert migrate(mongod.url).stdout == "nothing to do: the database has layout 2\n"
        with (
            Server(tmp_path / "data", "--mongodb-url", mongod.url) as server,
            server.client(key["key"]) as client,
        ):
            assert client.get(EVENTS, params={"skip": 100}).json() == listed
            assert client.post(EVENTS, json=batch(3), headers=headers).json() == receipt
            types = [(item["source"], item["event_type"]) for item in client.get("/api/v1/event-types").json()]
            assert types == [("backend", "purchase"), ("inserted", "inserted")]
            assert len(client.get(EVENTS, params={"event_type": "inserted"}).json()) == 100
            assert mongo.sluice["tenant.acme"].count_documents({}) == MANY + 3
        check_copied(mongo, old)


def serve(url: str) -> subprocess.CompletedProcess[str]:
    return sluice("serve", "--port", "0", "--grpc-port", "0", "--mongodb-url", url)


def take_from_servers(mongo: MongoClient, job: str) -> None:
    """Hold the lease of a job, for longer than a server runs in a test."""
    until = datetime.now(UTC) + timedelta(seconds=CLOCK_MARGIN * LEASE_S - 1)
    taken = {"holder": "nobody", "expires_at": until}
    mongo.sluice.leases.update_one({"_id": job}, {"$set": taken}, upsert=True)


def test_a_migration_is_refused_while_a_server_runs(tmp_path: Path) -> None:
    with Mongod(tmp_path / "db") as mongod, mongod.client() as mongo:
        take_from_servers(mongo, "make_missing_indexes")  # which would make collections while they are replaced
        with Server(tmp_path / "data", "--mongodb-url", mongod.url):
            wait_until(lambda: mongo.sluice.leases.find_one({"_id": "drop_idle_windows"}), "a lease")
            make_layout_1(mongo)
            mongo.sluice.leases.delete_one({"holder": "nobody"})
            refused = migrate(mongod.url)
            assert (refused.returncode, mongo.sluice.meta.find_one({"_id": "layout"})) == (2, None)
            assert "stop all servers" in refused.stderr
        assert migrate(mongod.url).returncode == 0


def test_a_small_embedded_database_is_migrated_at_the_start(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.mongo() as mongo:
        key = server.create_key("acme")
        with server.client(key["key"]) as client:
            client.post(EVENTS, json=batch(5))
            listed = client.get(EVENTS).json()
        old = make_layout_1(mongo)
    with Server(tmp_path) as server, server.mongo() as mongo, server.client(key["key"]) as client:
        assert client.get(EVENTS).json() == listed
        check_copied(mongo, old)
        assert uuid.UUID(listed[0]["id"]) in {each["_id"] for each in old}


@pytest.fixture(scope="module")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """One with a cache that is not full of a few large events."""
    with Mongod(tmp_path_factory.mktemp("mongod") / "db") as own, own.client() as mongo:
        mongo.admin.command({"setParameter": 1, "wiredTigerEngineRuntimeConfig": "cache_size=1G"})
        yield own


@pytest.fixture
def mongo(mongod: Mongod) -> Iterator[MongoClient]:
    with mongod.client() as client:
        yield client
        client.drop_database("sluice")


def old_event(**fields: Any) -> Json:
    """An event of layout 1."""
    return {"_id": uuid.uuid4(), "tenant_id": OPERATOR, "received_at": SOME_TIME, **fields}


def test_large_events_are_kept(mongod: Mongod, mongo: MongoClient) -> None:
    """One that MongoDB takes in the new layout too, and one to which the longer `_id` adds too many bytes."""
    overhead = len(bson.encode(old_event(data=b""), codec_options=STANDARD))
    fits, too_large = (old_event(data=b"x" * (MAX_DOCUMENT_BYTES - overhead - less)) for less in (100, 1))
    mongo.sluice.events.insert_one(fits)
    mongo.sluice.events.insert_one(too_large)
    mongo.sluice.events.insert_one(old_event(source="desk", event_type="note"))
    done = migrate(mongod.url)
    assert done.returncode == 0, done.stderr
    assert "1 events are too large for the new layout by a few bytes: they are in 'events.too_large'" in done.stdout
    assert list(mongo.sluice["events.too_large"].find()) == [too_large]
    assert [each["data"] for each in mongo.sluice.events.find({"_id.id": fits["_id"]})] == [fits["data"]]
    assert mongo.sluice.events.count_documents({}) == 2


LAYOUT_1_COLLECTIONS = ("events", "claims", "keys", "leases", "probes", "tenants")
"""The collections that a Sluice of layout 1 looks at before all else: it does not start if one is a view."""


def refuses_layout_1(mongo: MongoClient) -> bool:
    """Whether a Sluice of layout 1 ends at its start, and one that runs can store no event."""
    kinds = [found["type"] for found in mongo.sluice.list_collections(filter={"name": {"$in": LAYOUT_1_COLLECTIONS}})]
    with pytest.raises(WriteError, match="validation"):
        mongo.sluice.events.insert_one(old_event(source="desk", event_type="note"))
    return set(kinds) == {"collection", "view"}


def test_no_older_sluice_uses_the_database(mongod: Mongod, mongo: MongoClient) -> None:
    """Neither a new database, nor one while events are copied, nor one that was migrated."""
    sluice("keys", "create", "--tenant", "acme", "--mongodb-url", mongod.url)
    assert refuses_layout_1(mongo)
    mongo.drop_database("sluice")
    mongo.sluice.probes.insert_one({})
    mongo.sluice.events.insert_one(old_event(source="desk", event_type="note"))
    with failing_inserts(mongo):
        refused = migrate(mongod.url)
        assert refused.returncode == 2
        assert "MongoDB refuses a step of the migration (MongoDB code 14031" in refused.stderr
    assert refuses_layout_1(mongo)
    assert migrate(mongod.url).returncode == 0
    assert refuses_layout_1(mongo)
    assert mongo.sluice.events.count_documents({}) == 1


@contextmanager
def failing_inserts(mongo: MongoClient) -> Iterator[None]:
    """Inserts of events fail inside, as with a full disk."""
    fault = {"failCommands": ["insert"], "errorCode": 14031, "namespace": "sluice.events"}
    mongo.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": fault})
    try:
        yield
    finally:
        mongo.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def test_the_catalog_has_the_first_and_last_times(mongod: Mongod, mongo: MongoClient, tmp_path: Path) -> None:
    """Also of types that the catalog knows already. A filter finds what it cannot describe."""
    with Server(tmp_path, "--mongodb-url", mongod.url) as server:
        key = server.create_key("acme")
    make_layout_1(mongo)
    tenant_id = uuid.UUID(key["tenant_id"])
    times = [SOME_TIME + timedelta(minutes=minute) for minute in range(12_000)]  # of which a step has a part
    random.Random(1).shuffle(times)
    usual = {"tenant_id": tenant_id, "source": "desk", "event_type": "note"}
    mongo.sluice.events.insert_many([old_event(**usual, received_at=time) for time in times])
    mongo.sluice.events.insert_one(old_event(**{**usual, "event_type": "single"}))
    odd = old_event(**{**usual, "event_type": "timeless"})
    del odd["received_at"]
    mongo.sluice.events.insert_one(odd)
    known = {"first_seen": times[0], "last_seen": times[0]}
    own_id = {"tenant_id": tenant_id, "source": "desk", "event_type": "note"}
    mongo.sluice.event_types.insert_one({"_id": own_id, **known})
    done = migrate(mongod.url)
    assert done.returncode == 0, done.stderr
    with Server(tmp_path, "--mongodb-url", mongod.url) as server, server.client(key["key"]) as client:
        spans = {each["event_type"]: each for each in client.get("/api/v1/event-types").json()}
        assert datetime.fromisoformat(spans["note"]["first_seen"]).replace(tzinfo=UTC) == min(times)
        assert datetime.fromisoformat(spans["note"]["last_seen"]).replace(tzinfo=UTC) == max(times)
        assert spans["single"]["first_seen"] == spans["single"]["last_seen"] == "2020-01-01T00:00:00"
        (found,) = client.get(EVENTS, params={"event_type": "timeless"}).json()
        assert found["id"] == str(odd["_id"])


def test_an_operators_rules_are_made_again_or_named(mongod: Mongod, mongo: MongoClient) -> None:
    events = mongo.sluice.events
    events.insert_one(old_event(source="desk", event_type="note"))
    mongo.sluice.command({"collMod": "events", "validator": {"source": {"$type": "string"}}})
    events.create_index([("source", 1)], name="by_source", partialFilterExpression={"source": {"$exists": True}})
    events.create_index([("tenant_id", 1), ("received_at", -1)], name="by_tenant")
    events.create_index([("tenant_id", 1), ("_id", 1)], name="listing")
    words = [
        "the index 'by_tenant' of 'events' names _id or tenant_id, so it is not made again; one like it: "
        'db.events.createIndex({"_id.tenant_id": 1, "received_at": -1}, {"name": "by_tenant"})'
    ]
    plan, done = migrate(mongod.url, "--plan").stdout, migrate(mongod.url)
    assert done.returncode == 0, done.stderr
    again = ["the index 'by_source' of 'events' is made again", "the validator of 'events' is made again"]
    assert sorted(plan.splitlines()[1:]) == sorted([*words, *again])
    assert done.stdout.splitlines()[-2:] == [*words, "done: the database has layout 2"]
    indexes = {index["name"]: index for index in events.list_indexes()}
    assert set(indexes) == {"_id_", "by_source"}
    assert indexes["by_source"]["partialFilterExpression"] == {"source": {"$exists": True}}
    with pytest.raises(WriteError, match="validation"):
        events.insert_one({"_id": {"tenant_id": OPERATOR, "id": 1}, "source": 1})


def test_a_plan_writes_nothing(mongod: Mongod, mongo: MongoClient) -> None:
    mongo.sluice.events.insert_one(old_event(source="desk", event_type="note"))
    before = mongo.sluice.command("dbHash")["collections"]
    assert migrate(mongod.url, "--plan").stdout.startswith("layout 1 to 2: copy 1 events")
    assert mongo.sluice.command("dbHash")["collections"] == before


@pytest.mark.parametrize("command", [["migrate"], ["migrate", "--plan"], ["keys", "list"]])
def test_a_newer_database_is_refused(mongod: Mongod, mongo: MongoClient, command: list[str]) -> None:
    mongo.sluice.meta.insert_one({"_id": "layout", "version": 3})
    done = sluice(*command, "--mongodb-url", mongod.url)
    assert (done.returncode, done.stdout) == (2, "")
    assert "layout 3, and this Sluice knows 2: install a newer version" in done.stderr.splitlines()[-1]


def test_a_lease_from_before_the_clock_was_set_back_is_none(mongod: Mongod, mongo: MongoClient) -> None:
    mongo.sluice.events.insert_one(old_event(source="desk", event_type="note"))
    mongo.sluice.leases.insert_one({"_id": "job", "expires_at": datetime.now(UTC) + timedelta(hours=1)})
    done = migrate(mongod.url)
    assert done.returncode == 0, done.stderr
    assert "copying 1 events" in done.stderr
    assert "1 events are copied" in done.stderr


def test_the_advice_names_the_database(mongod: Mongod, mongo: MongoClient, tmp_path: Path) -> None:
    mongo.sluice.events.insert_one(old_event())
    refused = serve(mongod.url)
    assert refused.stderr.endswith("run `sluice migrate` with the same --mongodb-url\n")
    with Server(tmp_path) as server, server.mongo() as embedded:
        embedded.sluice.events.drop()
        embedded.sluice.events.insert_one(old_event())
        listed = sluice("keys", "list", "--data-dir", str(tmp_path))
        assert (listed.returncode, listed.stdout) == (2, "")
        assert listed.stderr.endswith(f"run `sluice migrate` with --data-dir {tmp_path}\n")


def test_events_that_were_dropped_are_clustered_again(mongod: Mongod, mongo: MongoClient, tmp_path: Path) -> None:
    """Before a start at once. While a server runs, an insert may be first and make a usual collection."""
    options = ("--mongodb-url", mongod.url)
    with Server(tmp_path, *options) as server:
        key = server.create_key("acme")
    mongo.sluice.events.drop()
    take_from_servers(mongo, "make_missing_indexes")
    with Server(tmp_path, *options) as server, server.client(key["key"]) as client:
        (collection,) = mongo.sluice.list_collections(filter={"name": "events"})
        assert collection["options"]["clusteredIndex"]["unique"]
        mongo.sluice.events.drop()
        assert client.post(EVENTS, json=batch(3)).status_code == 201
        listed = client.get(EVENTS).json()
        assert len(listed) == 3
        (collection,) = mongo.sluice.list_collections(filter={"name": "events"})
        assert "clusteredIndex" not in collection["options"]
    refused = serve(mongod.url)
    assert refused.returncode == 2
    assert "run `sluice migrate`" in refused.stderr.splitlines()[-1]
    mongo.sluice.leases.update_one({"holder": "nobody"}, {"$unset": {"expires_at": ""}})
    mongo.sluice.meta.drop()
    done = migrate(mongod.url)
    assert done.returncode == 0, done.stderr
    with Server(tmp_path, *options) as server, server.client(key["key"]) as client:
        assert client.get(EVENTS).json() == listed


def test_old_events_beside_a_collection_that_was_made_again(mongod: Mongod, mongo: MongoClient) -> None:
    """As if `events` was dropped, or an older server has stored an event, between two steps of a migration."""
    mongo.sluice["events.layout1"].insert_one(old_event(source="desk", event_type="note"))
    mongo.sluice.events.insert_one(old_event(source="desk", event_type="note"))
    assert migrate(mongod.url).returncode == 0
    assert mongo.sluice.events.count_documents({}) == 2
