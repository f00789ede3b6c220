"""`sluice import` while its server is stopped or killed and starts again: it goes on by itself."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server, embedded_url, wait_until
from tests.support.importing import end_of, numbers, numbers_in, record_count, start_import, write
from tests.support.ports import free_ports
from tests.support.raw import stored_of
from tests.support.valve import Valve

LINES = 5_000
NOTE = "x" * 6_000
"""Text that makes batches of some 1,000 lines, since a batch has 6 MiB."""


@pytest.fixture(scope="module")
def host(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Another server on the same database, which keeps its ports."""
    port, grpc_port = map(str, free_ports(2))
    options = ("--port", port, "--grpc-port", grpc_port, "--mongodb-url", embedded_url(server.data_dir))
    with Server(tmp_path_factory.mktemp("host"), *options) as running:
        yield running


def host_at(valve: Valve, protocol: str) -> str:
    """The address of the host behind a valve, as an import names it."""
    return valve.address if protocol == "gRPC" else f"http://{valve.address}"


@pytest.mark.parametrize(
    ("protocol", "number"), [("gRPC", signal.SIGKILL), ("gRPC", signal.SIGTERM), ("HTTP", signal.SIGKILL)]
)
def test_a_server_that_starts_again(
    host: Server, mongo: MongoClient, key: Json, tmp_path: Path, protocol: str, number: signal.Signals
) -> None:
    file = write(tmp_path / "f", numbers(0, LINES, note=NOTE))
    with (
        Valve(host.grpc if protocol == "gRPC" else host.url, file.stat().st_size * 3 // 4) as valve,
        start_import(host_at(valve, protocol), key, file, "--source", "s", protocol=protocol) as process,
    ):
        wait_until(lambda: record_count(tmp_path) >= 3, "an acknowledged batch")
        host.stop(number)
        valve.open()
        host.start()
        told, last = end_of(process).splitlines()
    assert told.endswith(": trying again")
    assert last.startswith("stored 5,000 events")
    assert sorted(numbers_in(stored_of(mongo, key))) == list(range(LINES))
