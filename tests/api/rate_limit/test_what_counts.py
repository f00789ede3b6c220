"""Which requests count, and which checks come before the limit and which after it."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import httpx
import pytest

from tests.support.harness import Json, MongoClient, Server, batch, sluice
from tests.support.limited_clients import BAD, CLIENTS, EVENTS, REJECTED, STORED, LimitedClient, open_clients
from tests.support.rate_limit import LIMIT, limited_key, remaining, says_nothing, stored_count, use_up
from tests.support.spending import codes, spend


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# --- what counts


def test_bad_batches_count_and_say_so(server: Server, mongo: MongoClient) -> None:
    key = limited_key(server, 8)
    json_type = {"Content-Type": "application/json"}
    with server.client(key["key"]) as client:
        responses = [
            client.post(EVENTS, content=b"{", headers=json_type),
            client.post(EVENTS, json=batch(0)),
            client.post(EVENTS, json={"events": "none"}),
            client.post(EVENTS, content=b"\xff", headers=json_type),
            client.post(EVENTS, content=b"x", headers={"Content-Type": "text/plain"}),
            client.post(EVENTS, content=b"x", headers={**json_type, "Content-Encoding": "gzip"}),
            client.post(EVENTS, json=batch(), headers={"Prefer": "handling=bogus"}),
            client.post(EVENTS, json=batch(), headers={"Idempotency-Key": "a b"}),
            client.post(EVENTS, json=batch()),
        ]
    assert [response.status_code for response in responses] == [400, 400, 400, 400, 415, 400, 400, 400, 429]
    assert [remaining(response, 8) for response in responses] == [7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert stored_count(mongo, key) == 0


def test_a_body_that_is_too_large_counts(server: Server) -> None:
    key = limited_key(server, 2)
    with server.client(key["key"]) as client:
        responses = [client.post(EVENTS, json={"source": "x" * (11 << 20)}), client.post(EVENTS, json=batch())]
        assert [response.status_code for response in responses] == [413, 201]
        assert [remaining(response, 2) for response in responses] == [1, 0]
        assert client.post(EVENTS, json=batch()).status_code == 429


@pytest.mark.parametrize("protocol", CLIENTS)
def test_bad_batches_count_over_every_protocol(server: Server, protocol: str, key: Json) -> None:
    with closing(CLIENTS[protocol](server, key["key"])) as client:
        found = [client(good=number % 2 == 0).code for number in range(LIMIT + 2)]
    assert found == [STORED, BAD, STORED, BAD, STORED, REJECTED, REJECTED]


def test_what_is_rejected_before_does_not_count(server: Server) -> None:
    key = limited_key(server, LIMIT, "--allow-domain", "example.com")
    with server.client(key["key"]) as client:
        for _ in range(LIMIT + 1):
            responses = [
                client.post(EVENTS, json=batch(), headers={"X-API-Key": "slc_" + "A" * 43}),
                client.post(EVENTS, json=batch(), headers={"Origin": "https://example.org"}),
                client.put(EVENTS, json=batch()),
                client.post(EVENTS + "/nowhere", json=batch()),
            ]
            assert [response.status_code for response in responses] == [401, 403, 405, 405]
        assert remaining(client.post(EVENTS, json=batch())) == LIMIT - 1


def test_reading_is_not_limited_and_says_nothing(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        event_id = client.post(EVENTS, json=batch()).json()["events"][0]["id"]

        def read() -> Sequence[httpx.Response]:
            paths = (EVENTS, f"{EVENTS}/{event_id}", f"{EVENTS}/{uuid.uuid4()}", EVENTS + "?limit=x")
            return [client.get(path) for path in paths]

        for _ in range(LIMIT + 1):
            responses = read()
            assert [response.status_code for response in responses] == [200, 200, 404, 400]
            assert all(map(says_nothing, responses))
        assert remaining(client.post(EVENTS, json=batch())) == LIMIT - 2
        use = [client.post(EVENTS, json=batch()).status_code for _ in range(LIMIT)]
        assert use == [201, 201, 201, 429, 429]
        responses = read()
        assert [response.status_code for response in responses] == [200, 200, 404, 400]
        assert all(map(says_nothing, responses))


def test_a_key_without_a_limit_gets_no_headers_about_one(server: Server) -> None:
    key = limited_key(server, 0)
    with server.client(key["key"]) as client:
        responses = [client.post(EVENTS, json=batch()), client.post(EVENTS, json=batch(0))]
    assert [response.status_code for response in responses] == [201, 400]
    assert all(map(says_nothing, responses))
    with open_clients([server], key["key"], rest=4, unary=2, stream=2) as clients:
        assert codes(spend(clients, 1_200)) == {STORED: 1_200}  # more than the default


# --- the order of checks: each case has a key whose limit is used up


class Case(NamedTuple):
    """A request with a key whose limit is used up, and its code over every protocol."""

    expected: str
    good: bool = True
    ended_by: str | None = None
    """The command that ends the key before the request."""


ORDER: dict[str, Case] = {
    "good": Case(REJECTED),
    "bad batch": Case(REJECTED, good=False),
    "revoked": Case("unauthenticated", ended_by="revoke"),
    "revoked, bad batch": Case("unauthenticated", good=False, ended_by="revoke"),
    "rotated": Case("unauthenticated", ended_by="rotate"),
}


@pytest.mark.parametrize("case", ORDER.values(), ids=ORDER)
def test_order_of_checks_over_every_protocol(server: Server, opened: ExitStack, case: Case, key: Json) -> None:
    use_up(server, key)
    clients: list[LimitedClient] = [
        opened.enter_context(closing(new_client(server, key["key"]))) for new_client in CLIENTS.values()
    ]
    assert [client().code for client in clients] == [REJECTED] * 3
    if case.ended_by:
        assert sluice("keys", case.ended_by, key["id"], *server.database_options).returncode == 0
    assert [client(case.good).code for client in clients] == [case.expected] * 3


def test_scope_comes_before_the_limit(server: Server, mongo: MongoClient) -> None:
    key = limited_key(server, 1, "--scope", "events:read")
    for new_client in CLIENTS.values():
        with closing(new_client(server, key["key"])) as client:
            found = [client(good).code for good in (True, False, True, False)]
        assert found == ["insufficient_scope"] * 4
    key = limited_key(server)
    use_up(server, key)
    mongo.sluice["keys"].update_one({"_id": key["id"]}, {"$set": {"scopes": ["events:read"]}})
    for new_client in CLIENTS.values():  # used up, and lacking the scope
        with closing(new_client(server, key["key"])) as client:
            assert client(good=False).code == "insufficient_scope"


def test_order_of_checks_over_rest(server: Server) -> None:
    key = limited_key(server, LIMIT, "--allow-domain", "example.com")
    use_up(server, key)
    json_type = {"Content-Type": "application/json"}
    with server.client(key["key"]) as client:
        responses = [
            client.post(EVENTS, json=batch(), headers={"Origin": "https://example.org"}),
            client.post(EVENTS, content=b"{", headers=json_type),
            client.post(EVENTS, content=b"x", headers={"Content-Type": "text/plain"}),
            client.post(EVENTS, json=batch(), headers={"Idempotency-Key": "a b"}),
            client.post(EVENTS, json=batch(), headers={"Prefer": "handling=bogus"}),
        ]
    assert [response.status_code for response in responses] == [403, *[429] * 4]
    assert [remaining(response) for response in responses[1:]] == [0] * 4
