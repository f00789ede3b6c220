"""A database, and a server that may crash, for the tests of one file that need one of their own."""

from collections.abc import Iterator

import pytest

from tests.support.crashes import Crashing
from tests.support.harness import Server
from tests.support.mongod import Mongod


@pytest.fixture(scope="module")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    with Mongod(tmp_path_factory.mktemp("mongod") / "db") as running:
        yield running


@pytest.fixture(scope="module")
def crashing(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    path = tmp_path_factory.mktemp("crashing")
    with mongod.client() as mongo, Server(path, "--mongodb-url", mongod.url) as server:
        yield Crashing(server, mongod, mongo)
