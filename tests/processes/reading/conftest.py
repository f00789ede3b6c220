"""A server with one worker, and its database, which obeys fail points."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.mongod import Mongod

LARGE_EVENTS = 90
LARGE_BYTES = 900_000


class Host(NamedTuple):
    """A server with one worker, a client of its database, and a tenant's key."""

    server: Server
    mongo: MongoClient
    key: Json
    worker: int


@pytest.fixture(scope="module", params=["motor"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    path = tmp_path_factory.mktemp("reading")
    with (
        Mongod(path / "db") as mongod,
        mongod.client() as mongo,
        Server(path / "data", "--mongodb-url", mongod.url, "--driver", request.param) as server,
    ):
        key = server.create_key("reading", "--rate-limit", "0")
        (worker,) = server.worker_pids()
        yield Host(server, mongo, key, worker)
