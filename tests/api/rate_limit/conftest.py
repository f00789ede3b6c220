"""Fresh keys with a limit, and a check that a test ends before its own permits stop counting."""

from collections.abc import Iterator

import pytest

from tests.support.harness import Json, Server
from tests.support.rate_limit import Clock, limited_key


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Check that the test ended before its first permits stopped counting."""
    clock = Clock()
    yield
    clock.check()


@pytest.fixture
def key(server: Server) -> Json:
    """A key with LIMIT, of a new tenant."""
    return limited_key(server)
