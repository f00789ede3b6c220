"""Keys, scopes and allowed domains: 401 and 403. They come before any error of the body."""

import json
import socket
import uuid
from collections.abc import Callable

import httpx
import pytest

from tests.support.bodies import GOOD, JSON, MIB, header_bytes
from tests.support.harness import Json, MongoClient, Server, batch, sluice
from tests.support.keys import basic
from tests.support.problems import EVENTS, assert_problem, count_events, read_response
from tests.support.wire import connect, head

# --- 401

SECRETS = {
    "missing": None,
    "empty": b"",
    "unknown": b"slc_" + b"A" * 43,
    "no prefix": b"A" * 43,
    "prefix alone": b"slc_",
    "too long": b"slc_" + b"A" * 10_000,
    "not ascii": b"slc_" + "é".encode() * 43,
    "an operator": b'{"$ne": null}',
}

CALLS = {
    ("POST", EVENTS): 201,
    ("GET", EVENTS): 200,
    ("HEAD", EVENTS): 200,
    ("GET", f"{EVENTS}/{uuid.UUID(int=7)}"): 404,
    ("GET", "/api/v1/event-types"): 200,
}
"""The requests that need a key, and the status of each with a good one."""


@pytest.mark.parametrize(("method", "path"), [call for call in CALLS if call[0] != "HEAD"], ids=" ".join)
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_bad_key(server: Server, secret: bytes | None, method: str, path: str) -> None:
    headers = [] if secret is None else [(b"X-API-Key", secret)]
    content = GOOD if method == "POST" else b""
    with server.client() as client:
        response = client.request(method, path, content=content, headers=[*header_bytes(JSON), *headers])
    assert_problem(response, 401, "unauthenticated", "^Invalid or missing API key$")


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_route_takes_a_key_in_three_places(server: Server, key: Json, call: tuple[str, str]) -> None:
    secret = key["key"]
    bad, good = "slc_" + "A" * 43, [{"X-API-Key": secret}, {"Authorization": f"Bearer {secret}"}]
    good += [{"Authorization": value} for value in (basic(secret), basic("", secret), basic("any", secret))]
    with server.client() as client:
        for headers in good:
            content = GOOD if call[0] == "POST" else b""
            assert client.request(*call, content=content, headers={**JSON, **headers}).status_code == CALLS[call]
            worse = {
                name: basic(bad) if value.startswith("Basic") else f"Bearer {bad}" for name, value in headers.items()
            }
            assert client.request(*call, content=content, headers={**JSON, **worse}).status_code == 401


def test_allowed_domains_hold_for_every_place_of_a_key(server: Server, page_key: Json) -> None:
    with server.client() as client:
        for authorization in (f"Bearer {page_key['key']}", basic(page_key["key"])):
            headers = {"Authorization": authorization, "Origin": "https://evil.example"}
            assert_problem(client.get(EVENTS, headers=headers), 403, "domain_not_allowed", "^Domain not allowed$")


def test_rotated_and_revoked_keys(server: Server, make_key: Callable[..., Json], mongo: MongoClient) -> None:
    old = make_key()

    def post(secret: str) -> httpx.Response:
        return client.post(EVENTS, json=batch(), headers={"X-API-Key": secret})

    def keys(*arguments: str) -> str:
        done = sluice("keys", *arguments, *server.database_options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with server.client() as client:
        assert post(old["key"]).status_code == 201
        new = json.loads(keys("rotate", old["id"], "--json"))
        assert_problem(post(old["key"]), 401, "unauthenticated", "^Invalid or missing API key$")
        assert post(new["key"]).status_code == 201
        keys("revoke", old["id"])
        assert_problem(post(new["key"]), 401, "unauthenticated", "^Invalid or missing API key$")
    assert count_events(mongo, old) == 2


# --- 403


def test_scope_to_write(server: Server, make_key: Callable[..., Json], mongo: MongoClient) -> None:
    reader = make_key("--scope", "events:read")
    with server.client(reader["key"]) as client:
        assert_problem(client.post(EVENTS, json=batch()), 403, "insufficient_scope", "events:write")
        assert_problem(client.post(EVENTS, content=b"{", headers=JSON), 403, "insufficient_scope", "events:write")
        assert client.get(EVENTS).json() == []
    assert count_events(mongo, reader) == 0


def test_scope_to_read(server: Server, make_key: Callable[..., Json]) -> None:
    with server.client(make_key("--scope", "events:write")["key"]) as client:
        stored = client.post(EVENTS, json=batch())
        assert stored.status_code == 201
        for path in (EVENTS, f"{EVENTS}?limit=bogus", f"{EVENTS}/{stored.json()['events'][0]['id']}"):
            assert_problem(client.get(path), 403, "insufficient_scope", "events:read")


@pytest.fixture(scope="module")
def page_key(make_key: Callable[..., Json]) -> Json:
    """A key with allowed domains."""
    return make_key("--allow-domain", "example.com", "--allow-domain", "*.shop.example")


PAGES = {
    "no page": ({}, True),
    "the domain": ({"Origin": "https://example.com"}, True),
    "its port": ({"Origin": "https://example.com:8443"}, True),
    "its case": ({"Origin": "HTTPS://Example.COM"}, True),
    "by http": ({"Origin": "http://example.com"}, True),
    "its referer": ({"Referer": "https://example.com/a/page?x=https://evil.example"}, True),
    "a subdomain": ({"Origin": "https://www.shop.example"}, True),
    "a deep subdomain": ({"Referer": "https://a.b.shop.example/"}, True),
    "origin before referer": ({"Origin": "https://example.com", "Referer": "https://evil.example/"}, True),
    "another host": ({"Origin": "https://evil.example"}, False),
    "null": ({"Origin": "null"}, False),
    "null before referer": ({"Origin": "null", "Referer": "https://example.com/"}, False),
    "another origin before referer": ({"Origin": "https://evil.example", "Referer": "https://example.com/"}, False),
    "another referer": ({"Referer": "https://evil.example/?https://example.com"}, False),
    "subdomain of a plain domain": ({"Origin": "https://www.example.com"}, False),
    "domain of the wildcard": ({"Origin": "https://shop.example"}, False),
    "suffix": ({"Origin": "https://notexample.com"}, False),
    "suffix of the wildcard": ({"Origin": "https://evilshop.example"}, False),
    "prefix": ({"Origin": "https://example.com.evil.example"}, False),
    "as a user": ({"Origin": "https://example.com@evil.example"}, False),
    "no scheme": ({"Origin": "example.com"}, False),
    "nonsense": ({"Origin": "http://[example.com"}, False),
}


@pytest.mark.parametrize(("headers", "allowed"), PAGES.values(), ids=PAGES)
def test_allowed_domains(
    server: Server, page_key: Json, mongo: MongoClient, headers: dict[str, str], allowed: bool
) -> None:
    before = count_events(mongo, page_key)
    with server.client(page_key["key"]) as client:
        written = client.post(EVENTS, json=batch(), headers=headers)
        read = client.get(EVENTS, headers=headers)
    if allowed:
        assert (written.status_code, read.status_code) == (201, 200)
    else:
        assert_problem(written, 403, "domain_not_allowed", "^Domain not allowed$")
        assert_problem(read, 403, "domain_not_allowed", "^Domain not allowed$")
    assert count_events(mongo, page_key) == before + allowed
    assert not any(name.startswith("access-control") for name in written.headers)


def test_a_key_without_domains_allows_any_page(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        assert client.post(EVENTS, json=batch(), headers={"Origin": "https://evil.example"}).status_code == 201


# --- the order of checks, and bodies that are not read

BAD_BODIES = {
    "malformed": {"content": b"{", "headers": JSON},
    "no batch": {"content": b"{}", "headers": JSON},
    "media type": {"content": b"{", "headers": {"Content-Type": "text/plain"}},
    "encoding": {"content": b"{", "headers": {**JSON, "Content-Encoding": "br"}},
    "prefer": {"content": GOOD, "headers": {**JSON, "Prefer": "handling=bogus"}},
    "idempotency key": {"content": GOOD, "headers": {**JSON, "Idempotency-Key": "a b"}},
    "too large": {"content": bytes(10 * MIB + 1), "headers": JSON},
}


@pytest.mark.parametrize("request_", BAD_BODIES.values(), ids=BAD_BODIES)
def test_the_key_is_checked_before_the_body(server: Server, page_key: Json, request_: Json) -> None:
    with server.client() as client:
        assert_problem(client.post(EVENTS, **request_), 401, "unauthenticated", ".")
    with server.client(page_key["key"]) as client:
        client.headers["Origin"] = "null"
        assert_problem(client.post(EVENTS, **request_), 403, "domain_not_allowed", ".")


@pytest.mark.parametrize("beginning", [b"", GOOD[:10]], ids=["nothing sent", "partly sent"])
def test_a_bad_key_is_rejected_without_reading_the_body(server: Server, beginning: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(head("slc_bogus", "Content-Length: 1000", "Expect: 100-continue") + beginning)
        first = connection.recv(20, socket.MSG_PEEK)
        assert first.startswith(b"HTTP/1.1 401 ")  # not 100
        assert_problem(read_response(connection), 401, "unauthenticated", ".")
