"""`sluice migrate`: layout 1 becomes layout 2, whatever ends it halfway, and no client notices."""

import random
import subprocess
import sys
import uuid
from pathlib import Path

import bson
import pytest

from tests.support.harness import Json, MongoClient, Server, batch, sluice, wait_until
from tests.support.many_events import insert_events
from tests.support.mongod import Mongod, ReplicaSet

EVENTS = "/api/v1/events"

MANY = 60_000
"""Events that are copied in a dozen steps."""

KILLS = 10


FOREIGN: list[Json] = [
    {"_id": bson.ObjectId(), "event_type": "by an operator"},
    {"_id": "text", "tenant_id": "no UUID", "data": {"$ref": "x"}},
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
    new = {each["_id"]["id"]: each for each in mongo.sluice.events.find()}
    assert mongo.sluice.events.count_documents({}) == len(new) == len(old) + len(FOREIGN)
    for each in [*old, *FOREIGN]:
        copied = new[each["_id"]]
        assert copied["_id"] == {"tenant_id": each.get("tenant_id"), "id": each["_id"]}
        assert without_id(copied) == {name: each[name] for name in each if name not in {"_id", "tenant_id"}}
    assert mongo.sluice.meta.find_one({"_id": "layout"}) == {"_id": "layout", "version": 2}
    assert not [name for name in mongo.sluice.list_collection_names() if name.startswith("events.")]


def mongod_or_set(nodes: int, path: Path) -> Mongod | ReplicaSet:
    return Mongod(path) if nodes == 1 else ReplicaSet(path)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 3])
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


def test_a_migration_is_refused_while_a_server_runs(tmp_path: Path) -> None:
    with Mongod(tmp_path / "db") as mongod, mongod.client() as mongo:
        with Server(tmp_path / "data", "--mongodb-url", mongod.url):
            wait_until(lambda: mongo.sluice.leases.find_one({"_id": "drop_idle_windows"}), "a lease")
            make_layout_1(mongo)
            refused = migrate(mongod.url)
            assert (refused.returncode, mongo.sluice.meta.count_documents({})) == (2, 0)
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
