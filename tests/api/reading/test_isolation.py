"""No tenant sees another's events, and no key reads without its scope."""

import uuid

import httpx
import pytest

from tests.support.harness import Server, batch
from tests.support.reading import EVENTS, FILTERS, Query, Tenant, assert_not_found


def test_an_event_of_another_tenant_is_not_found(tenant: Tenant, neighbour: Tenant) -> None:
    unknown = tenant.client.get(f"{EVENTS}/{uuid.uuid4()}")
    for reader, owner in ((tenant, neighbour), (neighbour, tenant)):
        for event_id in owner.ids:
            response = reader.client.get(f"{EVENTS}/{event_id}")
            assert_not_found(response)
            assert response.content == unknown.content  # nothing tells that it exists
            assert owner.client.get(f"{EVENTS}/{event_id}").status_code == 200


ISOLATED: dict[str, Query] = {
    "plain": {},
    "everything": {"limit": "1000", "since": "0001-01-01", "until": "9999-12-31"},
    "skip": {"limit": "1000", "skip": "5"},
    **{name: {**query, "limit": "1000"} for name, query in FILTERS.items()},
}


@pytest.mark.parametrize("query", ISOLATED.values(), ids=ISOLATED)
def test_no_query_shows_events_of_another_tenant(tenant: Tenant, neighbour: Tenant, query: Query) -> None:
    for reader, other in ((tenant, neighbour), (neighbour, tenant)):
        items = reader.client.get(EVENTS, params=query).json()
        assert {item["tenant_id"] for item in items} <= {reader.key["tenant_id"]}
        assert not {item["id"] for item in items} & set(other.ids)


def test_new_key_of_a_tenant_reads_its_events(server: Server, neighbour: Tenant) -> None:
    with server.client(server.create_key(neighbour.key["tenant"], "--scope", "events:read")["key"]) as client:
        assert client.get(EVENTS).json() == neighbour.listed
        assert client.get(f"{EVENTS}/{neighbour.ids[0]}").json() == neighbour.listed[-1]
        rejected = client.post(EVENTS, json=batch())
        assert_lacks(rejected, "events:write")
    assert neighbour.client.get(EVENTS).json() == neighbour.listed


def test_reading_needs_its_scope(server: Server) -> None:
    with server.client(server.create_key("writer", "--scope", "events:write")["key"]) as client:
        (posted,) = client.post(EVENTS, json=batch()).json()["events"]
        for path in (EVENTS, f"{EVENTS}?limit=0", f"{EVENTS}/{posted['id']}", f"{EVENTS}/{uuid.uuid4()}"):
            assert_lacks(client.get(path), "events:read")


def assert_lacks(response: httpx.Response, scope: str) -> None:
    """Fails unless the response names the scope that the key lacks."""
    assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
    assert scope in response.json()["detail"]


@pytest.mark.parametrize("path", [EVENTS, f"{EVENTS}/{uuid.uuid4()}"], ids=["list", "one"])
@pytest.mark.parametrize("secret", [None, "", "slc_", f"slc_{'A' * 43}", "é"], ids=str)
def test_reading_needs_a_key(server: Server, path: str, secret: str | None) -> None:
    headers = {} if secret is None else {b"X-API-Key": secret.encode()}
    with server.client() as client:
        response = client.get(path, headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
