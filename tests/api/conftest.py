"""A gRPC channel, for the tests of single calls and streams."""

from collections.abc import Iterator

import grpc
import pytest

from tests.support.grpc_client import (
    channel_to,
)
from tests.support.harness import Server


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    """A channel to the server."""
    with channel_to(server.grpc) as opened:
        yield opened
