"""Databases that Sluice cannot start on, and starts at the same moment: one line that says what to do, in time."""

import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymongo
import pytest

from storage.indexes import IDEMPOTENCY_RECORDS
from tests.support.harness import SECRET, Json, Server, sluice
from tests.support.logs import lines_after_database
from tests.support.mongod import Mongod, ReplicaSet

Database = pymongo.database.Database[Json]


def view(name: str) -> Callable[[Database], Any]:
    return lambda db: db.create_collection(name, viewOn="others", pipeline=[])


BAD: dict[str, tuple[Callable[[Database], Any], str]] = {
    "our keys, another name": (
        lambda db: db["keys"].create_index("window.until", name="mine", sparse=True),
        "'mine' of the collection 'keys'",
    ),
    "our name, other keys": (
        lambda db: db["keys"].create_index("name", name="hash_1"),
        "'hash_1' of the collection 'keys'",
    ),
    "our index, hidden": (
        lambda db: db["keys"].create_index("hash", name="hash_1", unique=True, hidden=True),
        "'hash_1' of the collection 'keys'",
    ),
    "hashes, not unique": (lambda db: db["keys"].create_index("hash"), "'hash_1' of the collection 'keys'"),
    "keys of somebody else": (lambda db: db["keys"].insert_many([{"name": "a"}, {"name": "b"}]), "collection 'keys'"),
    "one key of somebody else": (lambda db: db["keys"].insert_one({"name": "a"}), "collection 'keys'"),
    "a view": (
        lambda db: db.create_collection("events", viewOn="others", pipeline=[]),
        "'events' in the database is a view",
    ),
    "capped": (lambda db: db.create_collection("events", capped=True, size=10_000), "is a capped collection"),
    "a time series": (lambda db: db.create_collection("events", timeseries={"timeField": "at"}), "is a time series"),
    "keys as a view": (
        lambda db: db.create_collection("keys", viewOn="others", pipeline=[]),
        "'keys' in the database is a view",
    ),
    "records capped": (
        lambda db: db.create_collection(IDEMPOTENCY_RECORDS, capped=True, size=10_000),
        f"'{IDEMPOTENCY_RECORDS}' in the database",
    ),
}


@pytest.fixture
def name(mongod: Mongod) -> Iterator[str]:
    """A database that does not exist yet."""
    name = f"d-{uuid.uuid4().hex}"
    yield name
    with mongod.client() as mongo:
        mongo.drop_database(name)


def serve(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return sluice("serve", "--port", "0", "--grpc-port", "0", "--mongodb-url", url, *options)


def one_line(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The only line that says what is wrong."""
    assert done.returncode == status, done.stderr
    lines = lines_after_database(done.stderr)
    assert [line.startswith("sluice: ") for line in lines] == [True], lines
    return lines[0]


@pytest.mark.parametrize("case", BAD)
def test_what_is_in_the_way_is_named(mongod: Mongod, name: str, case: str) -> None:
    spoil, words = BAD[case]
    with mongod.client() as mongo:
        spoil(mongo[name])
        before = {item["name"] for item in mongo[name].list_collections()}
        line = one_line(serve(mongod.url, "--database", name), 2)
        assert words in line
        assert re.search(r"drop|rename", line)
        assert "--database" in line
        assert {item["name"] for item in mongo[name].list_collections()} - {"write_probes", "keys", "events"} <= before


def test_servers_that_start_at_the_same_moment_make_one_first_key(mongod: Mongod, name: str, tmp_path: Path) -> None:
    options = ("--mongodb-url", mongod.url, "--database", name)
    servers = [Server(tmp_path / str(number), *options) for number in range(3)]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(Server.start, servers))
    try:
        found = [SECRET.search(server.output) for server in servers]
        assert len([match for match in found if match]) == 1
        with mongod.client() as mongo:
            assert mongo[name]["keys"].count_documents({}) == 1
    finally:
        for server in servers:
            server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["motor", pytest.param("pymongo", marks=pytest.mark.long)])
def test_without_a_majority_there_is_one_line_in_time(tmp_path: Path, driver: str) -> None:
    with ReplicaSet(tmp_path / "db") as replicas:
        primary = replicas.primary()
        url = f"mongodb://{primary.host}/?directConnection=true"
        keep_as_primary(primary)
        for node in replicas.nodes:
            if node is not primary:
                node.kill()
        for command in (["keys", "create", "--tenant", "a"], ["serve", "--port", "0", "--grpc-port", "0"]):
            arguments = [*command, "--mongodb-url", url, "--driver", driver]
            begun = time.monotonic()
            line = one_line(sluice(*arguments), 1)
            assert "majority" in line
            assert time.monotonic() - begun < 20
            process = subprocess.Popen([sys.executable, "-m", "server", *arguments], stderr=subprocess.DEVNULL)
            time.sleep(3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) is not None


def keep_as_primary(primary: Mongod) -> None:
    """Let it stay primary without the others, for a minute."""
    with primary.client() as client:
        config = client.admin.command("replSetGetConfig")["config"]
        config["version"] += 1
        config["settings"]["electionTimeoutMillis"] = 60_000
        client.admin.command("replSetReconfig", config)
