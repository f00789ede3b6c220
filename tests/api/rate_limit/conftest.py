"""Fresh keys with a limit, and a check that a test ends before its admissions are forgotten."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.harness import Json, Server
from tests.support.rate_limit import limited_key

SOON_S = 55
"""Within which a test of exact counts is over, so that nothing admitted in it is forgotten in it."""


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Check that the test was over before its first admissions were forgotten."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON_S, "too slow to tell anything"


@pytest.fixture(scope="module")
def fresh(server: Server) -> Iterator[Json]:
    """Fresh tenants' keys of LIMIT, made some at a time: each takes a process of its own."""

    def make() -> Iterator[Json]:
        while True:
            with ThreadPoolExecutor(4) as threads:
                yield from threads.map(lambda _: limited_key(server), range(8))

    return make()


@pytest.fixture
def key(fresh: Iterator[Json]) -> Json:
    """A fresh tenant's key of LIMIT."""
    return next(fresh)
