"""A database for the tests of one file that need one of their own."""

from collections.abc import Iterator

import pytest

from tests.support.mongod import Mongod


@pytest.fixture(scope="module")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    with Mongod(tmp_path_factory.mktemp("mongod") / "db") as running:
        yield running
