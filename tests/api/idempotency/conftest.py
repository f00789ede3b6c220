"""One tenant for these tests, and a client of it."""

import uuid
from collections.abc import Iterator

import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.idempotency import Caller


@pytest.fixture(scope="module")
def key(server: Server) -> Json:
    """A key for all tests here that do with one tenant: to make one takes longer than most of them."""
    return server.create_key("idempotency", "--rate-limit", "0")


@pytest.fixture(scope="module")
def connected(server: Server, key: Json) -> Iterator[Caller]:
    with Caller(server, key) as opened:
        yield opened


@pytest.fixture
def caller(connected: Caller, mongo: MongoClient, key: Json) -> Caller:
    """The tenant's caller, with nothing stored or claimed."""
    for collection in (mongo.sluice.events, mongo.sluice.claims):
        collection.delete_many({"tenant_id": uuid.UUID(key["tenant_id"])})
    return connected
