"""Batches that are stored and not acknowledged, and rate limits: the import goes on, and nothing is stored twice."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server, batch, wait_until
from tests.support.importing import append, end_of, numbers, numbers_in, run_import, start_import, write
from tests.support.raw import stored_of
from tests.support.unreliable_grpc import Held, RateLimited, unreliable_grpc
from tests.support.unreliable_proxy import Stall, UnreliableProxy


@contextmanager
def held_import(server: Server, key: Json, file: Path, protocol: str) -> Iterator[subprocess.Popen[bytes]]:
    """An import whose first request is carried out, but not answered."""
    source = ("--source", "s")
    if protocol == "gRPC":
        with (
            unreliable_grpc(server.grpc, Held()) as proxy,
            start_import(proxy.address, key, file, *source, protocol=protocol) as process,
        ):
            assert proxy.is_held.wait(30)
            yield process
        return
    with (
        UnreliableProxy(server.url, [Stall()]) as relay,
        start_import(f"http://{relay.address}", key, file, *source) as process,
    ):
        yield process


@pytest.mark.parametrize("protocol", ["HTTP", "gRPC"])
def test_growth_while_a_batch_is_not_acknowledged(
    server: Server, mongo: MongoClient, key: Json, tmp_path: Path, protocol: str
) -> None:
    file = write(tmp_path / "f", numbers(0, 700))
    with held_import(server, key, file, protocol) as process:
        wait_until(lambda: len(stored_of(mongo, key)) == 700, "the first batch")
        append(file, numbers(700, 900))
        process.kill()
    text = run_import(server, key, file, "--source", "s", protocol=protocol)
    assert text == "stored 900 events, of which the server had 700 already\n"
    assert numbers_in(stored_of(mongo, key)) == list(range(900))


def test_two_imports_of_a_file_at_one_time(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    file = write(tmp_path / "f", numbers(0, 1_500))
    with (
        unreliable_grpc(server.grpc, Held()) as proxy,
        start_import(proxy.address, key, file, "--source", "s", protocol="gRPC") as process,
    ):
        assert proxy.is_held.wait(30)
        text = run_import(server, key, file, "--source", "s", protocol="gRPC", status=1)
        assert f"{file} is being imported by another process: wait for its end" in text
        assert text.count("\n") == 1
        proxy.released.set()
        assert end_of(process) == "stored 1,500 events\n"
    assert numbers_in(stored_of(mongo, key)) == list(range(1_500))


def test_a_rate_limit_over_grpc(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    """It is normal: nothing is said."""
    file = write(tmp_path / "f", numbers(0, 3_500))
    spent = server.create_key(f"{key['tenant']}-spent", "--rate-limit", "1")["key"]
    with server.client(spent) as client:
        assert client.post("/api/v1/events", json=batch()).status_code == 201
    limited = RateLimited(spent)
    with unreliable_grpc(server.grpc, limited, None, limited, limited) as proxy:
        text = run_import(proxy.address, key, file, "--source", "s", protocol="gRPC")
    assert text == "stored 3,500 events\n"
    assert not proxy.faults
    assert sorted(numbers_in(stored_of(mongo, key))) == list(range(3_500))
