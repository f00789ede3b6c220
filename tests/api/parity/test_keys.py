"""Keys, scopes and idempotency conflicts are the same over REST, unary calls and streams."""

import uuid
from collections.abc import Sequence

import grpc
import httpx
import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import Stream, channel_to
from tests.support.harness import Json, MongoClient, Server, sluice
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
