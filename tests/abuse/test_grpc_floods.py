"""Floods of the gRPC port before the key, each for a few seconds. The long form is in `python -m tests.abuse`."""

from collections.abc import Iterator

import pytest

from tests.abuse.grpc_floods import FLOODS, run_flood
from tests.support.harness import Server
from tests.support.logs import assert_no_internal_errors

SECONDS = 1.0


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker, whose memory nothing else has raised."""
    with Server(tmp_path_factory.mktemp("flooded")) as server:
        yield server


@pytest.mark.parametrize("name", FLOODS)
def test_flood_before_the_key(flooded: Server, name: str) -> None:
    key = flooded.create_key("good", "--rate-limit", "0")["key"]
    run_flood(flooded, key, name, SECONDS)
    assert_no_internal_errors(flooded)
