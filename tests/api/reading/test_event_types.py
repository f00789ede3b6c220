"""The catalog: which sources and types a tenant has sent, over both protocols, and lists of what was never sent."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import httpx
import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import TIMEOUT_S, metadata, stub_of
from tests.support.harness import Json, MongoClient, Server
from tests.support.reading import EVENTS, Tenant

TYPES = "/api/v1/event-types"


@pytest.fixture
def writer(server: Server) -> Json:
    return server.create_key(f"types-{uuid.uuid4().hex}", "--rate-limit", "0")


@pytest.fixture
def client(server: Server, writer: Json) -> Iterator[httpx.Client]:
    with server.client(writer["key"]) as opened:
        yield opened


def post(client: httpx.Client, source: str, *event_types: str) -> list[Json]:
    body = {"source": source, "events": [{"type": event_type, "data": {}} for event_type in event_types]}
    response = client.post(EVENTS, json=body, headers={"Prefer": "handling=lenient"})
    assert response.status_code == 201, response.text
    events: list[Json] = response.json()["events"]
    return events


def pairs(client: httpx.Client) -> list[tuple[str, str]]:
    response = client.get(TYPES)
    assert response.status_code == 200, response.text
    assert all(list(item) == ["source", "event_type", "first_seen", "last_seen"] for item in response.json())
    return [(item["source"], item["event_type"]) for item in response.json()]


def test_each_pair_once_in_order(client: httpx.Client) -> None:
    assert pairs(client) == []
    post(client, "web", "view", "click", "view")
    post(client, "app", "view")
    post(client, "web", "click", "é/ü &+%", "$where", "a.b", "")  # the last has no type, so it is not stored
    assert pairs(client) == [
        ("app", "view"),
        ("web", "$where"),
        ("web", "a.b"),
        ("web", "click"),
        ("web", "view"),
        ("web", "é/ü &+%"),
    ]


def test_times_are_those_of_receipt(client: httpx.Client) -> None:
    before = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
    post(client, "web", "view")
    (item,) = client.get(TYPES).json()
    (event,) = client.get(EVENTS).json()
    assert item["first_seen"] == event["received_at"]
    assert before < datetime.fromisoformat(item["first_seen"]) <= datetime.fromisoformat(item["last_seen"])


def test_events_over_grpc_count_too(client: httpx.Client, writer: Json, channel: grpc.Channel) -> None:
    batch = pb.EventBatch(source="internal", events=[pb.Event(type="job", data_json=b"{}")])
    stub_of(channel).IngestEvents(
        pb.IngestEventsRequest(batch=batch), metadata=metadata(writer["key"]), timeout=TIMEOUT_S
    )
    assert pairs(client) == [("internal", "job")]


def test_a_rejected_batch_adds_nothing(client: httpx.Client) -> None:
    assert client.post(EVENTS, json={"source": "web", "events": [{"type": "view"}]}).status_code == 400
    assert pairs(client) == []


def test_what_was_never_sent_is_answered_without_a_search(
    client: httpx.Client, writer: Json, mongo: MongoClient
) -> None:
    """A document that no server stored shows that nothing is searched."""
    post(client, "web", "view")
    (event,) = mongo.sluice.events.find({"_id.tenant_id": uuid.UUID(writer["tenant_id"])})
    event["_id"]["id"] = uuid.uuid4()
    event["event_type"] = "by hand"
    mongo.sluice.events.insert_one(event)
    for query in ({"event_type": "by hand"}, {"source": "app"}, {"source": "web", "event_type": "click"}):
        response = client.get(EVENTS, params=query)
        assert (response.json(), "link" in response.headers) == ([], False)
    assert len(client.get(EVENTS).json()) == 2
    post(client, "web", "by hand")
    assert len(client.get(EVENTS, params={"event_type": "by hand"}).json()) == 2


def test_a_type_is_found_as_soon_as_it_was_sent(client: httpx.Client) -> None:
    for number in range(50):
        (event,) = post(client, "web", f"type {number}")
        (found,) = client.get(EVENTS, params={"event_type": f"type {number}"}).json()
        assert found["id"] == event["id"]


def test_a_tenant_with_too_many_types_still_finds_each(client: httpx.Client) -> None:
    for number in range(10):
        post(client, "web", *(f"{number}-{index}" for index in range(1_000)))
    post(client, "web", "one more", "and another")
    assert len(pairs(client)) == 10_000
    assert len(client.get(EVENTS, params={"event_type": "one more"}).json()) == 1
    assert len(client.get(EVENTS, params={"event_type": "9-999"}).json()) == 1


def test_more_types_than_one_fetch_brings(client: httpx.Client) -> None:
    names = [f"é{number:04}" for number in range(1_000)]
    for source, types in ("app", names), ("web", names[:250]):
        post(client, source, *types)
        assert pairs(client)[-len(types) :] == [(source, name) for name in types]
    assert len(pairs(client)) == 1_250


def test_what_is_stored_is_found_after_an_operator_has_removed_the_catalog(
    client: httpx.Client, writer: Json, mongo: MongoClient
) -> None:
    post(client, "web", "view", "click")
    mongo.sluice.event_types.delete_many({"_id.tenant_id": uuid.UUID(writer["tenant_id"])})
    assert len(client.get(EVENTS, params={"event_type": "click"}).json()) == 1
    post(client, "web", "view")
    assert len(client.get(EVENTS, params={"event_type": "view"}).json()) == 2
    post(client, "web", "order", "new")
    assert len(client.get(EVENTS, params={"event_type": "click"}).json()) == 1
    assert {"new", "order"} <= {event_type for _, event_type in pairs(client)}


def test_a_database_without_events_gets_a_complete_catalog_again(
    client: httpx.Client, writer: Json, mongo: MongoClient
) -> None:
    """A document that no server stored shows that nothing is searched."""
    tenant = {"_id.tenant_id": uuid.UUID(writer["tenant_id"])}
    post(client, "web", "view")
    (event,) = mongo.sluice.events.find(tenant)
    mongo.sluice.event_types.delete_many(tenant)
    mongo.sluice.events.delete_many(tenant)
    post(client, "web", "click")
    mongo.sluice.events.insert_one({**event, "event_type": "by hand"})
    assert client.get(EVENTS, params={"event_type": "by hand"}).json() == []


def test_tenants_do_not_see_each_others_types(client: httpx.Client, tenant: Tenant) -> None:
    post(client, "own source", "own type")
    assert pairs(client) == [("own source", "own type")]
    assert ("own source", "own type") not in pairs(tenant.client)
    assert {source for source, _ in pairs(tenant.client)} == {"web", "app"}


def test_access_and_parameters(server: Server, client: httpx.Client) -> None:
    assert client.get(TYPES, params={"source": "web"}).json()["code"] == "invalid_parameter"
    assert client.post(TYPES).status_code == 405
    with server.client() as stranger:
        assert stranger.get(TYPES).status_code == 401
    with server.client(server.create_key("writer", "--scope", "events:write")["key"]) as writer:
        assert writer.get(TYPES).json()["code"] == "insufficient_scope"
