"""Backup and restore, by the commands of `server/deploy/README.md`: what was in the backup is there, once."""

import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.deploy.dump import dump, restore
from tests.support.harness import Json, MongoClient, Server, batch, wait_until
from tests.support.mongod import Mongod
from tests.support.reading import EVENTS, walk
from tests.support.readmes import examples
from tests.support.tail import code_of, follow_rest

README = "server/deploy/README.md"
FOLDER = "/var/lib/sluice"

SIZE = 3
"""Events of a batch."""

TOOLS = ("mongodump", "mongorestore", "mongosh")


def commands(part: str) -> list[str]:
    """The commands of the README's block with this part, without those that need its service and its user."""
    (block,) = examples("sh", part, README)
    return [line for line in block.splitlines() if not line.startswith(("systemctl", "chown"))]


def run(lines: list[str], directory: Path, data_dir: Path, **environment: str) -> None:
    """Run commands of the README in `directory`, with the folder of the database in place of the service's."""
    script = "\n".join(lines).replace(FOLDER, str(data_dir))
    subprocess.run(["sh", "-ec", script], cwd=directory, env={**os.environ, **environment}, check=True)


def send(client: httpx.Client, name: str) -> httpx.Response:
    """Send the batch of this name under its key."""
    response = client.post(EVENTS, json=batch(SIZE, source=name), headers={"Idempotency-Key": name})
    assert response.status_code == 201, response.text
    return response


class Before:
    """What clients have from the time before the backup."""

    def __init__(self, server: Server) -> None:
        self.key = server.create_key("acme", "--rate-limit", "0")
        self.secret = str(self.key["key"])
        with server.client(self.secret) as client:
            self.receipt = send(client, "before").json()
            self.link = client.get(EVENTS, params={"limit": 1}).links["next"]["url"]
            self.rest = client.get(self.link).json()
        self.token = newest_token(server, self.secret)

    def check(self, server: Server, names: set[str]) -> None:
        """Check that a restored server gives the same, and that a repeat of each batch stores each once."""
        with server.client(self.secret) as client:
            assert client.get(self.link).json() == self.rest
            again = send(client, "before")
            assert again.json() == self.receipt
            assert again.headers["Idempotent-Replayed"] == "true"
            after = send(client, "after")
            assert "Idempotent-Replayed" not in after.headers
            for name in names:
                send(client, name)
            stored = Counter(event["source"] for page in walk(client, {}) for event in page)
            assert stored == dict.fromkeys({"before", "after", *names}, SIZE)


def newest_token(server: Server, secret: str) -> str:
    """The token of a tail that has all that is stored."""
    with follow_rest(server, secret) as messages:
        return next(message.token for message in messages if message.kind == "caught_up")


def sources(server: Server, secret: str, count: int, **options: str) -> list[str]:
    """The sources of the next events of a tail."""
    with follow_rest(server, secret, **options) as messages:
        events = (message.data["source"] for message in messages if message.kind == "event")
        return [next(events) for _ in range(count)]


def end_of_tail(server: Server, secret: str, token: str) -> Json:
    """Why a tail ended, after the events that were stored between its token and the drop of the database."""
    with follow_rest(server, secret, token=token) as messages:
        return next(message.data for message in messages if message.kind == "end")


def counts(mongo: MongoClient) -> dict[str, int]:
    """How many documents each collection has, but for those that a server writes by itself."""
    own = {"leases", "presence", "write_probes", "usage", "system.views"}
    names = set(mongo["sluice"].list_collection_names()) - own
    return {name: mongo["sluice"][name].count_documents({}) for name in names}


def test_a_copy_of_the_folder(tmp_path: Path) -> None:
    data_dir = tmp_path / "sluice"
    with Server(data_dir) as server, server.mongo() as mongo:
        before = Before(server)
        stored = counts(mongo)
    run(commands("tar --create"), tmp_path, data_dir)
    with Server(data_dir) as server:
        late = server.create_key("late")["key"]
        with server.client(before.secret) as client:
            send(client, "after")
        late_token = newest_token(server, before.secret)
    run(commands("tar --extract"), tmp_path, data_dir)
    with Server(data_dir) as server, server.mongo() as mongo:
        assert counts(mongo) == stored
        with server.client(late) as client:
            assert client.get(EVENTS).status_code == 401
        before.check(server, set())
        assert sources(server, before.secret, SIZE, token=before.token) == ["after"] * SIZE
        assert sources(server, before.secret, SIZE, token=late_token) == ["after"] * SIZE


@contextmanager
def writing(server: Server, secret: str, names: list[str]) -> Iterator[None]:
    """Send batches inside, all the time. Adds the names of those that were acknowledged."""
    is_over = threading.Event()

    def write() -> None:
        with server.client(secret) as client:
            while not is_over.is_set():
                send(client, name := f"during-{len(names)}")
                names.append(name)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(lambda: len(names) > 10, "batches")
        yield
        reached = len(names)
        wait_until(lambda: len(names) > reached + 10, "batches after the dump")
    finally:
        is_over.set()
        writer.join()


@pytest.mark.parametrize(
    "has_tools",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                not all(map(shutil.which, TOOLS)), reason="needs MongoDB's Database Tools and mongosh"
            ),
        ),
    ],
    ids=["as the tools do", "tools"],
)
def test_a_dump_while_servers_run(tmp_path: Path, has_tools: bool) -> None:
    names: list[str] = []
    with Mongod(tmp_path / "mongod") as mongod, mongod.client() as mongo:
        options = ("--mongodb-url", mongod.url)
        with Server(tmp_path / "server", *options) as server:
            before = Before(server)
            with writing(server, before.secret, names):
                if has_tools:
                    run(commands("mongodump"), tmp_path, tmp_path, MONGODB_ADMIN_URL=mongod.url)
                else:
                    copies = dump(mongo)
            with server.client(before.secret) as client:
                send(client, "after")
            late_token = newest_token(server, before.secret)
        if has_tools:
            run(commands("mongorestore"), tmp_path, tmp_path, MONGODB_ADMIN_URL=mongod.url)
        else:
            mongo.drop_database("sluice")
            restore(mongo, copies)
        with Server(tmp_path / "server", *options) as server:
            assert 0 < counts(mongo)["events"] < SIZE * len(names)
            before.check(server, set(names))
            assert end_of_tail(server, before.secret, before.token)["code"] == "gone"
            with pytest.raises(httpx.HTTPStatusError) as caught:
                end_of_tail(server, before.secret, late_token)
            assert code_of(caught.value) == "410 gone"
            since = caught.value.response.json()["since"]
            everything = SIZE * (len(names) + 2)
            assert len(sources(server, before.secret, everything, since=f"{since}Z")) == everything
