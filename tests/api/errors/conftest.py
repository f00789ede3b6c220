"""The keys of these tests."""

import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.problems import count_events


@pytest.fixture(scope="module")
def make_key(server: Server) -> Callable[..., Json]:
    """Makes a key of a new tenant, without a rate limit."""
    return lambda *options: server.create_key(f"errors-{uuid.uuid4().hex}", "--rate-limit", "0", *options)


@pytest.fixture(scope="module")
def key(make_key: Callable[..., Json]) -> Json:
    """A key with all scopes, for every test here."""
    return make_key()


@pytest.fixture(scope="module")
def stranger(make_key: Callable[..., Json]) -> Json:
    """The key of a tenant all of whose batches are refused."""
    return make_key()


@pytest.fixture
def rejected_client(server: Server, stranger: Json, mongo: MongoClient) -> Iterator[httpx.Client]:
    """A client with a key whose tenant must have nothing afterwards."""
    with server.client(stranger["key"]) as opened:
        yield opened
    assert count_events(mongo, stranger) == 0
