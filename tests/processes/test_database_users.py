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

SERVE = ("serve", "--port", "0", "--grpc-port", "0")

READ_INTERVAL_S = 0.05
"""Of a client whose reads the database refuses: 100 in all, for one line in the log."""

DOCUMENTS = ["find", "insert", "update", "remove", "listCollections", "listIndexes"]
"""The rights to read and write documents, and to list what there is."""


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
        (DOCUMENTS, "the index 'hash_1'"),
        (["find"], "may not use this database"),
    ],
)
def test_a_user_without_rights_is_told_which(
    mongod: Mongod, mongo: MongoClient, actions: list[str], words: str, driver: str
) -> None:
    done = sluice(*SERVE, *user_with(actions, mongod, mongo), "--driver", driver)
    assert done.returncode == 2, done.stderr
    (line,) = lines_after_database(done.stderr)
    assert words in line
    assert "the role readWrite" in line


def test_a_user_without_the_right_to_create_views_is_told_so(mongod: Mongod, mongo: MongoClient) -> None:
    options = user_with([*DOCUMENTS, "createIndex"], mongod, mongo)
    for command in (SERVE, ("keys", "create", "--tenant", "acme")):
        done = sluice(*command, *options)
        assert done.returncode == 2, done.stderr
        assert "may not create views in this database: grant it the role readWrite" in done.stderr.splitlines()[-1]


def user_with(actions: list[str], mongod: Mongod, mongo: MongoClient) -> list[str]:
    """Make a user with these rights on a new database. Returns the options of commands that use both."""
    name = f"u{uuid.uuid4().hex}"
    rights: Json = {"resource": {"db": name, "collection": ""}, "actions": actions}
    mongo.admin.command("createRole", name, privileges=[rights], roles=[])
    mongo.admin.command("createUser", name, pwd="p", roles=[name])
    return ["--mongodb-url", url_of(name, mongod), "--database", name]


def url_of(user: str, mongod: Mongod) -> str:
    return f"mongodb://{user}:p@{mongod.host}/?directConnection=true&authSource=admin"


def test_the_role_that_the_readme_names_is_enough_to_migrate(mongod: Mongod, mongo: MongoClient) -> None:
    name = f"u{uuid.uuid4().hex}"
    mongo.admin.command("createUser", name, pwd="p", roles=[{"role": "readWrite", "db": name}])
    tenant_id = uuid.uuid4()
    mongo[name].tenants.insert_one({"_id": "acme", "tenant_id": tenant_id})
    mongo[name].events.insert_one({"_id": uuid.uuid4(), "tenant_id": tenant_id})  # of layout 1
    done = sluice("migrate", "--mongodb-url", url_of(name, mongod), "--database", name)
    assert done.returncode == 0, done.stderr
    assert mongo[name]["tenant.acme"].count_documents({}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["motor", pytest.param("pymongo", marks=pytest.mark.long)])
@pytest.mark.parametrize("change", ["role", "password", "dropped"])
def test_a_user_that_is_changed_while_the_server_runs(
    mongod: Mongod, mongo: MongoClient, tmp_path: Path, driver: str, change: str
) -> None:
    name = f"u{uuid.uuid4().hex}"
    good = [{"role": "readWrite", "db": name}]
    mongo.admin.command("createUser", name, pwd="p", roles=good)
    options = ("--mongodb-url", url_of(name, mongod), "--database", name, "--driver", driver)
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
            time.sleep(READ_INTERVAL_S)
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
