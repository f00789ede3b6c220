"""One tenant for these tests, and a client of it."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.harness import Json, Server


@pytest.fixture(scope="package")
def key(server: Server) -> Json:
    return server.create_key("values", "--rate-limit", "0")


@pytest.fixture(scope="package")
def client(server: Server, key: Json) -> Iterator[httpx.Client]:
    with server.client(key["key"]) as opened:
        yield opened
