"""A server that may call receivers on this machine, and a receiver."""

import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.support.harness import Json, Server
from tests.support.receiver import Receiver, receiver


@pytest.fixture(scope="package")
def hook_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may call 127.0.0.1, and no other address that is not public."""
    path = tmp_path_factory.mktemp("hooks")
    with Server(path, "--webhook-allow", "127.0.0.1/32", "--workers", "2") as running:
        yield running


@pytest.fixture
def hook_key(hook_server: Server) -> Json:
    """A key of a new tenant."""
    return hook_server.create_key(f"tenant-{uuid.uuid4().hex}", "--rate-limit", "0")


@pytest.fixture
def hooks(hook_server: Server, hook_key: Json) -> Iterator[httpx.Client]:
    """An HTTP client with the key of the new tenant."""
    with hook_server.client(hook_key["key"]) as opened:
        yield opened


@pytest.fixture
def receiving() -> Iterator[Receiver]:
    """A receiver, which answers 200."""
    with receiver() as running:
        yield running
