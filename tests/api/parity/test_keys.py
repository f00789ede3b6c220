"""Keys, scopes and idempotency conflicts are the same over REST, unary calls and streams."""

import uuid
from collections.abc import Sequence
from typing import NamedTuple

import grpc
import httpx
import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import Stream, channel_to
from tests.support.harness import Json, MongoClient, Server, sluice
from tests.support.keys import basic
from tests.support.parity import (
    Case,
    Event,
    Outcome,
    Rejected,
    Stored,
    by_all,
    by_rest,
    by_stream,
    by_unary,
    error_of,
    outcome_of,
    status_from,
    take_stored,
)


def unauthenticated(outcomes: Sequence[Outcome]) -> bool:
    """Whether all outcomes say that the key is bad, and nothing else."""
    return set(map(repr, outcomes)) == {
        repr(Rejected("unauthenticated", "UNAUTHENTICATED", "Invalid or missing API key", []))
    }


@pytest.mark.parametrize("secret", [None, "", "secret", "slc_" + "A" * 43, "slc_" + "A" * 4000])
def test_bad_key(server: Server, secret: str | None) -> None:
    assert unauthenticated(by_all(server, secret))


class Named(NamedTuple):
    """How a request names keys: its headers, which are the metadata over gRPC. `{key}` stands for a good key."""

    headers: Sequence[tuple[str, str]]
    rest: bool
    """Whether REST takes it."""
    grpc: bool
    """Whether gRPC takes it."""

    def fields(self, key: str) -> list[tuple[str, str]]:
        """The headers with this key."""
        return [(name, value.replace("{key}", key).replace("{basic}", basic(key))) for name, value in self.headers]


UNKNOWN = "slc_" + "A" * 43
API_KEY = ("x-api-key", "{key}")
BEARER = ("authorization", "Bearer {key}")
BASIC = ("authorization", "{basic}")
PROXY = ("authorization", basic("ann", "secret"))

NAMED = {
    "X-API-Key": Named([API_KEY], rest=True, grpc=True),
    "Bearer": Named([BEARER], rest=True, grpc=True),
    "Bearer in lower case": Named([("authorization", "bearer {key}")], rest=True, grpc=True),
    "Basic": Named([BASIC], rest=True, grpc=False),
    "the same key in both": Named([API_KEY, BEARER], rest=False, grpc=False),
    "the same key twice": Named([BEARER, BEARER], rest=False, grpc=False),
    "another key in Bearer": Named([API_KEY, ("authorization", f"Bearer {UNKNOWN}")], rest=False, grpc=False),
    "another key in X-API-Key": Named([("x-api-key", UNKNOWN), BEARER], rest=False, grpc=False),
    "an empty X-API-Key": Named([("x-api-key", ""), BEARER], rest=False, grpc=False),
    "another key in Basic": Named([API_KEY, ("authorization", basic(UNKNOWN))], rest=False, grpc=True),
    "a proxy's user": Named([API_KEY, PROXY], rest=True, grpc=True),
    "a token of another issuer": Named([API_KEY, ("authorization", "Bearer a.b.c")], rest=True, grpc=True),
    "a proxy's user before the key": Named([PROXY, BEARER], rest=False, grpc=False),
    "a proxy's user alone": Named([PROXY], rest=False, grpc=False),
    "Proxy-Authorization": Named([("proxy-authorization", "Bearer {key}")], rest=False, grpc=False),
    "another key in Proxy-Authorization": Named(
        [API_KEY, ("proxy-authorization", f"Bearer {UNKNOWN}")], rest=True, grpc=True
    ),
    "a cookie": Named([("cookie", "x-api-key={key}")], rest=False, grpc=False),
    "an unknown scheme": Named([("authorization", "ApiKey {key}")], rest=False, grpc=False),
    "a list": Named([("authorization", "Bearer {key}, Bearer {key}")], rest=False, grpc=False),
}


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
def test_where_a_key_is_named(
    server: Server, channel: grpc.Channel, mongo: MongoClient, key: Json, named: Named
) -> None:
    fields = named.fields(key["key"])
    with server.client() as client:
        client.headers = httpx.Headers([*client.headers.multi_items(), *fields])
        by_post = by_rest(client, Case())
    message = Case().message()
    by_call = [send(channel, tuple(fields), message) for send in (by_unary, by_stream)]
    assert isinstance(by_post, Stored) if named.rest else unauthenticated([by_post])
    assert all(isinstance(outcome, Stored) for outcome in by_call) if named.grpc else unauthenticated(by_call)
    assert len(take_stored(mongo, key)) == named.rest + 2 * named.grpc


def test_revoked_key_ends_its_streams(server: Server, mongo: MongoClient) -> None:
    key = server.create_key("parity-revoked")
    with channel_to(server.grpc) as channel, Stream(channel, key["key"]) as stream:
        stream.send(1, Case().message())
        assert isinstance(outcome_of(stream.receive()), Stored)
        assert len(take_stored(mongo, key)) == 1
        assert sluice("keys", "revoke", key["id"], *server.database_options).returncode == 0
        assert unauthenticated(by_all(server, key["key"]))
        stream.send(2, Case().message())
        with pytest.raises(grpc.RpcError) as caught:
            stream.receive()
        assert unauthenticated([error_of(status_from(caught.value))])
    assert take_stored(mongo, key) == []


def test_key_without_the_scope(server: Server, mongo: MongoClient) -> None:
    key = server.create_key("parity-reader", "--scope", "events:read")
    expected, *others = by_all(server, key["key"])
    assert isinstance(expected, Rejected)
    assert (expected.code, expected.violations) == ("insufficient_scope", [])
    assert "events:write" in expected.detail
    assert others == [expected] * 2
    assert take_stored(mongo, key) == []


def test_idempotency_conflict(client: httpx.Client, channel: grpc.Channel, mongo: MongoClient, key: Json) -> None:
    take_stored(mongo, key)
    name = uuid.uuid4().hex
    assert isinstance(by_rest(client, Case(idempotency_key=name)), Stored)
    assert len(take_stored(mongo, key)) == 1
    for case in (Case(source="other"), Case(handling=pb.HANDLING_LENIENT), Case([Event('{"n":1}')])):
        used = case._replace(idempotency_key=name)
        expected, *others = (
            by_rest(client, used),
            by_unary(channel, key["key"], used.message()),
            by_stream(channel, key["key"], used.message()),
        )
        assert isinstance(expected, Rejected)
        assert (expected.code, expected.violations, expected.retry_s) == ("idempotency_conflict", [], None)
        assert others == [expected] * 2
    assert take_stored(mongo, key) == []
