"""Fresh keys with a limit, and a check that a test ends before its own permits stop counting."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.harness import Json, Server
from tests.support.rate_limit import Clock, limited_key


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Check that the test ended before its first permits stopped counting."""
    clock = Clock()
    yield
    clock.check()


@pytest.fixture(scope="package")
def fresh(server: Server) -> Iterator[Json]:
    """Keys with LIMIT, each of a new tenant, made 8 at a time: each takes a process of its own."""

    def make() -> Iterator[Json]:
        while True:
            with ThreadPoolExecutor(4) as threads:
                yield from threads.map(lambda _: limited_key(server), range(8))

    return make()


@pytest.fixture
def key(fresh: Iterator[Json]) -> Json:
    """A key with LIMIT, of a new tenant."""
    return next(fresh)
