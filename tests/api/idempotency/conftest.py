"""One tenant for these tests, and a client of it."""

import uuid
from collections.abc import Iterator

import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.idempotency import TenantClient


@pytest.fixture(scope="package")
def key(server: Server) -> Json:
    """A key for all tests of one tenant: to create one takes longer than most of them."""
    return server.create_key("idempotency", "--rate-limit", "0")


@pytest.fixture(scope="package")
def connected(server: Server, key: Json) -> Iterator[TenantClient]:
    with TenantClient(server, key) as opened:
        yield opened


@pytest.fixture
def tenant(connected: TenantClient, mongo: MongoClient, key: Json) -> TenantClient:
    """The tenant's client. The tenant has no event and no idempotency record."""
    tenant_id = uuid.UUID(key["tenant_id"])
    mongo.sluice.events.delete_many({"_id.tenant_id": tenant_id})
    mongo.sluice.claims.delete_many({"tenant_id": tenant_id})
    return connected
