"""The keys of these tests."""

import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.problems import count_events


@pytest.fixture(scope="package")
def make_key(server: Server) -> Callable[..., Json]:
    """Creates keys, each of a new tenant and without a rate limit."""
    return lambda *options: server.create_key(f"errors-{uuid.uuid4().hex}", "--rate-limit", "0", *options)


@pytest.fixture(scope="package")
def key(make_key: Callable[..., Json]) -> Json:
    """A key with all scopes, which the tests share."""
    return make_key()


@pytest.fixture(scope="package")
def stranger(make_key: Callable[..., Json]) -> Json:
    """A key of a tenant whose batches are all rejected."""
    return make_key()


@pytest.fixture
def rejected_client(server: Server, stranger: Json, mongo: MongoClient) -> Iterator[httpx.Client]:
    """A client of the stranger. Fails if an event of its tenant was stored."""
    with server.client(stranger["key"]) as opened:
        yield opened
    assert count_events(mongo, stranger) == 0
