"""The user in --mongodb-url: without rights at the start, and changed while the server runs."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server, batch, sluice, wait_until
from tests.support.logs import lines_after_database
from tests.support.mongod import Mongod, secured

EVENTS = "/api/v1/events"


@pytest.fixture(scope="module")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Mongod:
    return Mongod(tmp_path_factory.mktemp("mongod") / "db")


@pytest.fixture(scope="module")
def mongo(mongod: Mongod) -> Iterator[MongoClient]:
    with secured(mongod) as client:
        yield client


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (["find", "insert", "update", "remove", "listCollections", "listIndexes"], "the index 'listing'"),
        (["find"], "may not use this database"),
    ],
)
def test_a_user_without_rights_is_told_which(
    mongod: Mongod, mongo: MongoClient, actions: list[str], words: str, driver: str
) -> None:
    name = f"u{uuid.uuid4().hex}"
    rights: Json = {"resource": {"db": name, "collection": ""}, "actions": actions}
    mongo.admin.command("createRole", name, privileges=[rights], roles=[])
    mongo.admin.command("createUser", name, pwd="p", roles=[name])
    url = f"mongodb://{name}:p@{mongod.host}/?directConnection=true&authSource=admin"
    ports = ["--port", "0", "--grpc-port", "0"]
    done = sluice("serve", *ports, "--mongodb-url", url, "--database", name, "--driver", driver)
    assert done.returncode == 2, done.stderr
    (line,) = lines_after_database(done.stderr)
    assert words in line
    assert "the role readWrite" in line


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize("change", ["role", "password", "dropped"])
def test_a_user_that_is_changed_while_the_server_runs(
    mongod: Mongod, mongo: MongoClient, tmp_path: Path, driver: str, change: str
) -> None:
    name = f"u{uuid.uuid4().hex}"
    good = [{"role": "readWrite", "db": name}]
    mongo.admin.command("createUser", name, pwd="p", roles=good)
    url = f"mongodb://{name}:p@{mongod.host}/?directConnection=true&authSource=admin"
    options = ("--mongodb-url", url, "--database", name, "--driver", driver)
    with Server(tmp_path, *options) as server, server.client(server.first_key) as client:
        assert client.post(EVENTS, json=batch()).status_code == 201
        if change == "role":
            mongo.admin.command("updateUser", name, roles=[])
        elif change == "password":
            mongo.admin.command("updateUser", name, pwd="q")
            (worker,) = server.worker_pids()
            os.kill(worker, signal.SIGKILL)  # connections that are open stay open
        else:
            mongo.admin.command("dropUser", name)
        words = "refuses the user or password" if change == "password" else "grant it the role readWrite"
        wait_until(lambda: ready(server) == 503, "not ready", 20)
        answer = client.post(EVENTS, json=batch())
        assert (answer.status_code, answer.json()["outcome"]) == (503, "not_stored")
        answer = client.get(EVENTS)
        assert answer.status_code == 503
        assert "outcome" not in answer.json()
        wait_until(lambda: words in server.stderr(), "a line that says why", 5)
        begun, count = time.monotonic(), server.stderr().count(words)
        while time.monotonic() - begun < 5:
            client.get(EVENTS)
        assert server.stderr().count(words) <= count + 1
        if change == "dropped":
            mongo.admin.command("createUser", name, pwd="p", roles=good)
        else:
            mongo.admin.command("updateUser", name, pwd="p", roles=good)
        wait_until(lambda: ready(server) == 200, "ready", 20)
        assert client.post(EVENTS, json=batch()).status_code == 201
        assert "internal error" not in server.stderr()


def ready(server: Server) -> int:
    """The status of /health/ready; 0 while nobody accepts."""
    with server.client() as client:
        try:
            return client.get("/health/ready").status_code
        except Exception:  # noqa: BLE001 (a worker is being replaced)
            return 0
