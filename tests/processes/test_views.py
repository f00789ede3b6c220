"""The view of each tenant: who may read it, what a query on it costs, what it is called, and that it is there."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.database import Database
from pymongo.errors import OperationFailure

from tests.support.explain import explained
from tests.support.harness import Json, MongoClient, Server, batch
from tests.support.many_events import insert_events
from tests.support.mongod import Mongod, secured

ACME_EVENTS = 20
OTHER_EVENTS = 500
ALL_EVENTS = ACME_EVENTS + 2 * OTHER_EVENTS

BESIDE_RANGE = 2
"""Documents that MongoDB may read beside a range: the one before it, and the one after it."""

UNAUTHORIZED = 13

WIDE = "\N{ROCKET}"
"""A character of four bytes."""

Tenants = dict[str, Json]
Query = Callable[[Database[Json]], Any]


@pytest.fixture(scope="module")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Mongod:
    return Mongod(tmp_path_factory.mktemp("mongod") / "db")


@pytest.fixture(scope="module")
def mongo(mongod: Mongod) -> Iterator[MongoClient]:
    """A client of an administrator."""
    with secured(mongod) as client:
        yield client


@pytest.fixture(scope="module")
def url(mongod: Mongod, mongo: MongoClient) -> str:
    """The URL with the user that the README tells an operator to make for Sluice."""
    mongo.admin.command("createUser", "server", pwd="p", roles=[{"role": "readWrite", "db": "sluice"}])
    return f"mongodb://server:p@{mongod.host}/?directConnection=true&authSource=admin"


@pytest.fixture(scope="module")
def server(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), "--mongodb-url", url) as running:
        yield running


@pytest.fixture(scope="module")
def tenants(server: Server, mongo: MongoClient) -> Tenants:
    """Keys of three tenants with events. The events of `acme` stand between those of the others."""
    made = {name: server.create_key(name) for name in ("before", "acme", "after")}
    for name, key in made.items():
        insert_events(mongo, key, ACME_EVENTS if name == "acme" else OTHER_EVENTS)
    return made


@pytest.fixture(scope="module")
def analyst(mongod: Mongod, mongo: MongoClient, tenants: Tenants) -> Iterator[Database[Json]]:
    """The database, as a user sees it who may read the view of `acme`."""
    view = f"tenant.{tenants['acme']['tenant']}"
    rights: Json = {"resource": {"db": "sluice", "collection": view}, "actions": ["find"]}
    mongo.sluice.command("createRole", "acme_reader", privileges=[rights], roles=[])
    mongo.sluice.command("createUser", "ann", pwd="p", roles=["acme_reader"])
    address = f"mongodb://ann:p@{mongod.host}/sluice?directConnection=true"
    with pymongo.MongoClient[Json](address, uuidRepresentation="standard", tz_aware=True) as client:
        yield client.sluice


def test_an_analyst_reads_the_events_of_one_tenant(analyst: Database[Json], tenants: Tenants) -> None:
    found = list(analyst["tenant.acme"].find())
    assert len(found) == ACME_EVENTS
    assert {event["_id"]["tenant_id"] for event in found} == {uuid.UUID(tenants["acme"]["tenant_id"])}
    assert all(event["id"] == event["_id"]["id"] for event in found)
    by_id = analyst["tenant.acme"].find_one({"id": found[0]["id"]})
    assert by_id == found[0]
    count = [{"$group": {"_id": "$event_type", "count": {"$sum": 1}}}]
    assert list(analyst["tenant.acme"].aggregate(count)) == [{"_id": "inserted", "count": ACME_EVENTS}]


def on_view(stage: Json) -> Query:
    return lambda database: list(database["tenant.acme"].aggregate([stage]))


def lookup(collection: str) -> Query:
    return on_view({"$lookup": {"from": collection, "pipeline": [], "as": "found"}})


GRAPH = {"from": "events", "startWith": 1, "connectFromField": "a", "connectToField": "a", "as": "found"}

NOT_ALLOWED: dict[str, Query] = {
    "find in events": lambda database: database.events.find_one(),
    "aggregate events": lambda database: list(database.events.aggregate([])),
    "count events": lambda database: database.events.estimated_document_count(),
    "distinct ids of events": lambda database: database.events.distinct("_id.tenant_id"),
    "find in another view": lambda database: database["tenant.after"].find_one(),
    "find in a collection of Sluice's": lambda database: database.tenants.find_one(),
    "$lookup in events": lookup("events"),
    "$lookup in another view": lookup("tenant.after"),
    "$lookup that is nested": on_view({"$facet": {"a": [{"$lookup": {"from": "events", "pipeline": [], "as": "a"}}]}}),
    "$unionWith events": on_view({"$unionWith": "events"}),
    "$unionWith another view": on_view({"$unionWith": {"coll": "tenant.after", "pipeline": []}}),
    "$graphLookup in events": on_view({"$graphLookup": GRAPH}),
    "$out": on_view({"$out": "copy"}),
    "$merge": on_view({"$merge": "events"}),
    "insert": lambda database: database["tenant.acme"].insert_one({}),
    "a view of their own": lambda database: database.command({"create": "own", "viewOn": "events", "pipeline": []}),
    "another range": lambda database: database.command({"collMod": "tenant.acme", "viewOn": "events", "pipeline": []}),
}


@pytest.mark.parametrize("query", NOT_ALLOWED.values(), ids=NOT_ALLOWED)
def test_an_analyst_of_one_view_can_do_nothing_else(analyst: Database[Json], query: Query) -> None:
    with pytest.raises(OperationFailure) as error:
        query(analyst)
    assert error.value.code == UNAUTHORIZED


@pytest.mark.parametrize(
    "command",
    [
        {"find": "tenant.acme"},
        {"find": "tenant.acme", "filter": {"event_type": "inserted"}, "sort": {"received_at": -1}, "limit": 5},
        {"find": "tenant.acme", "filter": {"event_type": "unknown"}},
        {"find": "tenant.acme", "filter": {"id": uuid.UUID(int=1)}},
        {
            "aggregate": "tenant.acme",
            "pipeline": [{"$group": {"_id": "$event_type", "count": {"$sum": 1}}}],
            "cursor": {},
        },
    ],
    ids=str,
)
def test_a_query_reads_the_events_of_one_tenant(analyst: Database[Json], command: Json) -> None:
    done = explained(analyst, command)
    assert "CLUSTERED_IXSCAN" in done.plan
    assert ACME_EVENTS <= done.documents <= ACME_EVENTS + BESIDE_RANGE


def test_a_query_by_id_reads_one_event(analyst: Database[Json]) -> None:
    event = list(analyst["tenant.acme"].find())[ACME_EVENTS // 2]
    done = explained(analyst, {"find": "tenant.acme", "filter": {"_id": event["_id"]}})
    assert "CLUSTERED_IXSCAN" in done.plan
    assert 1 <= done.documents <= 1 + BESIDE_RANGE


@pytest.mark.parametrize(
    ("index", "where", "is_used", "entries"),
    [
        ({"event_type": 1, "_id": 1}, {"event_type": "inserted"}, True, ACME_EVENTS),
        ({"event_type": 1, "_id": 1}, {"source": "inserted"}, False, 0),
        ({"event_type": 1}, {"event_type": "inserted"}, True, ALL_EVENTS),
        ({"data.$**": 1}, {"data.text": "x" * 10}, True, ALL_EVENTS),
        ({"_id.tenant_id": 1, "event_type": 1}, {"event_type": "inserted"}, False, 0),
    ],
    ids=str,
)
def test_an_index_of_an_operator_serves_views_as_the_readme_says(
    analyst: Database[Json], mongo: MongoClient, index: Json, where: Json, is_used: bool, entries: int
) -> None:
    name = mongo.sluice.events.create_index(index)
    try:
        done = explained(analyst, {"find": "tenant.acme", "filter": where})
    finally:
        mongo.sluice.events.drop_index(name)
    assert (name in done.plan, "CLUSTERED_IXSCAN" in done.plan) == (is_used, not is_used)
    assert entries <= done.keys <= entries + BESIDE_RANGE


def test_every_name_of_a_tenant_has_a_view(server: Server, mongo: MongoClient) -> None:
    expected = {
        "acme.com": "tenant.acme.com",
        "größe-東京": "tenant.größe-東京",
        "Acme": "tenant.Acme",
        "a/b\\c\"d'*": "tenant.a/b\\c\"d'*",
        "50%": "tenant.50%25",
        "50%25": "tenant.50%2525",
        "$cmd": "tenant.%24cmd",
        ".hidden": "tenant.%2Ehidden",
        "%2Ehidden": "tenant.%252Ehidden",
        "a..b.": "tenant.a.%2Eb%2E",
        "a...": "tenant.a.%2E%2E",
        "system.logs": "tenant.system%2Elogs",
        "a.system.views": "tenant.a.system%2Eviews",
        "x" * 64: "tenant." + "x" * 64,
    }
    with server.client() as client:
        for tenant, view in expected.items():
            check_view(mongo, server.create_key(tenant), view, client)
        long = [server.create_key(character + WIDE * 63) for character in "ab"]
        for key in long:
            check_view(mongo, key, f"tenant.%id.{key['tenant_id']}", client)
        for tenant in (long[0]["tenant_id"], f"%id.{long[0]['tenant_id']}"):
            check_view(mongo, server.create_key(tenant), f"tenant.{tenant.replace('%', '%25')}", client)


def check_view(mongo: MongoClient, key: Json, view: str, client: Any) -> None:
    """The view of a new tenant is there, and shows the event of that tenant alone."""
    assert mongo.sluice.list_collection_names(filter={"name": view, "type": "view"}) == [view]
    assert mongo.sluice[view].find_one() is None
    response = client.post("/api/v1/events", json=batch(), headers={"X-API-Key": key["key"]})
    assert response.status_code == 201, response.text
    (event,) = mongo.sluice[view].find()
    assert str(event["id"]) == response.json()["events"][0]["id"]


def test_a_view_that_was_dropped_is_made_again_at_a_start(
    url: str, tenants: Tenants, mongo: MongoClient, tmp_path: Path
) -> None:
    dropped = [f"tenant.{name}" for name in tenants]
    views = {"type": "view"}
    before = mongo.sluice.list_collection_names(filter=views)
    definition = mongo.sluice["tenant.acme"].options()
    for view in dropped:
        mongo.sluice.drop_collection(view)
    with Server(tmp_path, "--mongodb-url", url):
        assert sorted(mongo.sluice.list_collection_names(filter=views)) == sorted(before)
    assert mongo.sluice["tenant.acme"].options() == definition


def test_a_view_that_shows_another_tenant_is_put_right_at_a_start(
    url: str, mongo: MongoClient, tmp_path: Path, tenants: Tenants
) -> None:
    right, wrong = (mongo.sluice[f"tenant.{tenants[name]['tenant']}"].options() for name in ("acme", "after"))
    mongo.sluice.command({"collMod": "tenant.acme", **wrong})
    with Server(tmp_path, "--mongodb-url", url):
        assert mongo.sluice["tenant.acme"].options() == right
