"""Exports: the events of a list as lines, in both orders, with all filters, from any event on."""

import uuid

import httpx
import pytest

from tests.support.exports import ENCODINGS, LINES, events_of, export
from tests.support.harness import Json, MongoClient, Server
from tests.support.many_events import insert_events
from tests.support.reading import EVENTS, FILTERS, Query, Tenant
from tests.support.wire import connect


@pytest.mark.parametrize("order", ["asc", "desc", None])
@pytest.mark.parametrize("query", [{}, *FILTERS.values()], ids=["all", *FILTERS])
def test_an_export_has_what_the_list_has(tenant: Tenant, query: Query, order: str | None) -> None:
    expected = tenant.client.get(EVENTS, params={**query, "limit": "1000"}).json()
    shown = export(tenant.client, query if order is None else {**query, "order": order})
    assert shown == (expected[::-1] if order == "asc" else expected)


def test_a_line_is_the_json_of_the_list(tenant: Tenant) -> None:
    listed = tenant.client.get(EVENTS, params={"limit": "1000"}).content
    lines = tenant.client.get(EVENTS, headers={**LINES, "Accept-Encoding": "identity"}).content
    assert b"[" + b",".join(lines.splitlines()) + b"]" == listed


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("query", [{}, {"source": "web", "event_type": "click"}], ids=["all", "some"])
def test_an_export_goes_on_behind_any_event(tenant: Tenant, query: Query, order: str) -> None:
    query = {**query, "order": order, "since": "2020-01-01"}
    whole = export(tenant.client, query)
    for index, event in enumerate(whole):
        assert export(tenant.client, {**query, "after": event["id"]}) == whole[index + 1 :]


def test_an_event_to_go_on_from_may_be_anywhere(tenant: Tenant, neighbour: Tenant) -> None:
    first, last, foreign = str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1)), neighbour.ids[7]
    for times in ({}, {"since": "2020-01-01", "until": "2100-01-01"}):
        assert export(tenant.client, {**times, "after": last}) == tenant.listed
        assert export(tenant.client, {**times, "after": first}) == []
        assert export(tenant.client, {**times, "order": "asc", "after": first}) == tenant.listed[::-1]
        assert export(tenant.client, {**times, "order": "asc", "after": last}) == []
    parts = [export(tenant.client, {"after": foreign}), export(tenant.client, {"order": "asc", "after": foreign})]
    assert sorted(event["id"] for part in parts for event in part) == sorted(tenant.ids)


def test_times_bound_an_export(tenant: Tenant) -> None:
    middle = tenant.listed[12]["received_at"]
    for name, expected in (
        ("since", [event for event in tenant.listed if event["received_at"] >= middle]),
        ("until", [event for event in tenant.listed if event["received_at"] < middle]),
    ):
        assert export(tenant.client, {name: middle}) == expected
        assert export(tenant.client, {name: middle, "order": "asc"}) == expected[::-1]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_export_is_compressed_as_its_client_likes(tenant: Tenant, encoding: str) -> None:
    assert export(tenant.client, encoding=encoding) == tenant.listed
    headers = {**LINES, "Accept-Encoding": encoding}
    response = tenant.client.get(EVENTS, headers=headers)
    assert response.headers.get("content-encoding", "identity") == encoding
    assert response.headers["vary"] == "Accept, Accept-Encoding"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    head = tenant.client.head(EVENTS, headers=headers)
    for name in ("content-type", "content-encoding", "vary", "cache-control"):
        assert head.headers.get(name) == response.headers.get(name)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, application/x-ndjson", "text/html"])
def test_other_clients_get_a_list(tenant: Tenant, accept: str) -> None:
    response = tenant.client.get(EVENTS, headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"
    assert response.headers["vary"] == "Accept, Accept-Encoding"
    assert response.json() == tenant.listed


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"limit": "5"}, "limit"),
        ({"skip": "5"}, "skip"),
        ({"cursor": "x"}, "cursor"),
        ({"order": "up"}, "order"),
        ({"order": "ASC"}, "order"),
        ({"after": ""}, "after"),
        ({"after": "1"}, "after"),
        ({"after": uuid.UUID(int=1).hex}, "after"),
        ({"source": ""}, "source"),
        ({"since": "yesterday"}, "since"),
        ({"tenant_id": "x"}, "tenant_id"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_named(tenant: Tenant, query: Query, parameter: str) -> None:
    response = tenant.client.get(EVENTS, params=query, headers=LINES)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert response.json()["detail"].startswith(f"{parameter}: ")


@pytest.mark.parametrize("parameter", ["order", "after"])
def test_a_list_has_no_parameters_of_exports(tenant: Tenant, parameter: str) -> None:
    response = tenant.client.get(EVENTS, params={parameter: "asc"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert "application/x-ndjson" in response.json()["detail"]


def test_a_client_that_takes_no_encoding_is_told(tenant: Tenant) -> None:
    response = tenant.client.get(EVENTS, headers={**LINES, "Accept-Encoding": "br, *;q=0"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_header")


def test_http_1_0_has_no_exports(server: Server, tenant: Tenant) -> None:
    request = f"GET {EVENTS} HTTP/1.0\r\nX-API-Key: {tenant.key['key']}\r\nAccept: application/x-ndjson\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(request.encode())
        response = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert b" 400 " in response
    assert b"proxy_http_version 1.1" in response


def test_an_export_needs_a_key_and_its_scope(server: Server) -> None:
    with server.client() as client:
        assert client.get(EVENTS, headers=LINES).status_code == 401
    with server.client(server.create_key("writer", "--scope", "events:write")["key"]) as client:
        assert client.get(EVENTS, headers=LINES).status_code == 403


def test_rare_events_among_many_and_large_ones(mongo: MongoClient, key: Json, client: httpx.Client) -> None:
    post_rare(client)
    insert_events(mongo, key, 45_000)
    insert_events(mongo, key, 30, data_bytes=900_000)
    post_rare(client)
    whole = export(client, encoding="zstd")
    assert len({event["id"] for event in whole}) == len(whole) == 45_032
    assert export(client, {"order": "asc"}, encoding="zstd") == whole[::-1]
    rare = [event for event in whole if event["event_type"] == "rare"]
    assert len(rare) == 2
    assert export(client, {"event_type": "rare"}) == rare
    assert export(client, {"event_type": "rare", "order": "asc"}) == rare[::-1]
    assert export(client, {"source": "rare", "after": rare[0]["id"]}) == rare[1:]


def post_rare(client: httpx.Client) -> None:
    """Store an event."""
    assert client.post(EVENTS, json={"source": "rare", "events": [{"type": "rare", "data": {}}]}).status_code == 201


def test_foreign_events_are_exported_as_they_are_listed(mongo: MongoClient, key: Json, client: httpx.Client) -> None:
    tenant_id = uuid.UUID(key["tenant_id"])
    ids = [1, "an-id", {"a": 1}, uuid.uuid4(), None]
    mongo.sluice.events.insert_many(
        [{"_id": {"tenant_id": tenant_id, "id": each}, "event_type": "view"} for each in ids]
        + [{"_id": {"tenant_id": tenant_id, "id": 1, "more": number}, "data": float("inf")} for number in range(2)]
    )
    listed = client.get(EVENTS).content
    lines = client.get(EVENTS, headers=LINES).content
    assert b"[" + b",".join(lines.splitlines()) + b"]" == listed
    assert export(client, {"order": "asc"}) == events_of(lines)[::-1]
    assert len(events_of(lines)) == 7
