"""Two hosts on one database."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.harness import Server
from tests.support.mongod import Mongod
from tests.support.rate_limit import Hosts


@pytest.fixture(scope="package")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    path = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(path / "db"))
        mongo = stack.enter_context(mongod.client())
        options = ("--workers", "2", "--mongodb-url", mongod.url)
        first = stack.enter_context(Server(path / "first", *options))
        second = stack.enter_context(Server(path / "second", *options, "--driver", "pymongo"))
        yield Hosts([first, second], mongo, mongod.url)
