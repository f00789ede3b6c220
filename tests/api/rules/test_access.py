"""Who may do what with rules: scopes, and the rules of other tenants."""

import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.support.harness import Json, Server, batch
from tests.support.rules import RULES, assert_problem, create_rule, rule_fields
from tests.support.wire import EVENTS

CALLS: list[tuple[str, str, Json | None, str]] = [
    ("POST", RULES, rule_fields(name="another"), "rules:write"),
    ("GET", RULES, None, "rules:read"),
    ("GET", RULES + "/{}", None, "rules:read"),
    ("PATCH", RULES + "/{}", {"name": "b"}, "rules:write"),
    ("POST", RULES + "/{}/evaluate", None, "rules:read"),
    ("DELETE", RULES + "/{}", None, "rules:write"),
]
"""Each route with a body, and the scope that it needs."""

WITH_ID = [call for call in CALLS if "{}" in call[1]]

OTHERS = {
    "rules:read": ["events:write", "events:read", "rules:write"],
    "rules:write": ["events:write", "events:read", "rules:read"],
}
"""The scopes that do not suffice."""


@pytest.fixture
def neighbour(server: Server) -> Iterator[httpx.Client]:
    """A client of another tenant."""
    with server.client(server.create_key(f"tenant-{uuid.uuid4().hex}", "--rate-limit", "0")["key"]) as opened:
        yield opened


@pytest.mark.parametrize(("method", "path", "body", "scope"), CALLS)
def test_each_route_needs_its_scope(
    server: Server, client: httpx.Client, key: Json, method: str, path: str, body: Json | None, scope: str
) -> None:
    path = path.format(create_rule(client)["id"])
    others = [option for other in OTHERS[scope] for option in ("--scope", other)]
    with server.client(server.create_key(key["tenant"], *others)["key"]) as lacking:
        response = lacking.request(method, path, json=body)
        assert_problem(response, 403, "insufficient_scope", f"This key lacks the scope {scope}")
    with server.client() as unknown:
        assert_problem(unknown.request(method, path, json=body), 401, "unauthenticated", "")
    with server.client(server.create_key(key["tenant"], "--scope", scope)["key"]) as having:
        assert having.request(method, path, json=body).is_success


def test_the_key_is_checked_before_the_body(server: Server, key: Json) -> None:
    with server.client(server.create_key(key["tenant"], "--scope", "rules:read")["key"]) as reader:
        assert_problem(reader.post(RULES, content=b"{"), 403, "insufficient_scope", "")


@pytest.mark.parametrize(("method", "path", "body", "scope"), WITH_ID)
def test_the_rule_of_another_tenant_is_not_found(
    client: httpx.Client, neighbour: httpx.Client, method: str, path: str, body: Json | None, scope: str
) -> None:
    """And nothing tells that it exists."""
    assert scope in OTHERS
    rule = create_rule(client)
    foreign = neighbour.request(method, path.format(rule["id"]), json=body)
    assert_problem(foreign, 404, "not_found", "This tenant has no rule with this id")
    for unknown in (uuid.uuid4(), "7", "%00"):
        response = neighbour.request(method, path.format(unknown), json=body)
        assert (response.status_code, response.content) == (404, foreign.content)
    assert client.get(RULES).json() == [rule]
    assert neighbour.get(RULES).json() == []


def test_names_of_another_tenant_are_free(client: httpx.Client, neighbour: httpx.Client) -> None:
    create_rule(client, name="mine")
    assert create_rule(neighbour, name="mine")["name"] == "mine"


def test_a_rule_sees_events_of_its_tenant_only(client: httpx.Client, neighbour: httpx.Client) -> None:
    assert neighbour.post(EVENTS, json=batch(3)).status_code == 201
    config = {"event_type": "purchase", "max_age_minutes": 60}
    found = client.post(f"{RULES}/{create_rule(client, 'freshness', config=config)['id']}/evaluate").json()
    assert (found["sample_size"], found["event_ids"]) == (0, [])
