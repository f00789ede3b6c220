"""One tenant for these tests, and its clients."""

from collections.abc import Iterator

import grpc
import httpx
import pytest

from tests.support.grpc_client import channel_to
from tests.support.harness import Json, Server


@pytest.fixture(scope="package")
def key(server: Server) -> Json:
    """A key for all cases."""
    return server.create_key("parity", "--rate-limit", "0")


@pytest.fixture(scope="package")
def client(server: Server, key: Json) -> Iterator[httpx.Client]:
    with server.client(key["key"]) as opened:
        yield opened


@pytest.fixture(scope="package")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server.grpc) as opened:
        yield opened
