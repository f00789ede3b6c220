"""MongoDB servers and replica sets for `--mongodb-url`, which tests start, kill and make fail."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pymongo

from storage.embedded.binary import bundled_binary
from storage.embedded.libraries import library_path, link_library
from tests.support.harness import Json, MongoClient, wait_until
from tests.support.ports import free_port

LOADER_STATUS = 127
"""The exit status of a program if the dynamic linker does not find a library."""


def mongod_binary() -> Path:
    """The mongod of the `embedded` extra."""
    binary = bundled_binary()
    assert binary is not None, "needs the extra `embedded`"
    return binary


@cache
def lacks_libraries() -> bool:
    """Whether mongod cannot run with this system's libraries alone: a bare Debian has no libcurl."""
    return subprocess.run([mongod_binary(), "--version"], capture_output=True, check=False).returncode == LOADER_STATUS


class Mongod:
    """A mongod that the test starts, kills and starts again. It is a replica set of one unless `standalone`."""

    def __init__(self, directory: Path, standalone: bool = False) -> None:
        self.directory = directory
        self.standalone = standalone
        self.options: list[str] = []
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"mongodb://{self.host}/?directConnection=true"

    def start(self) -> Self:
        """Start it and wait until it takes writes."""
        self.launch()
        try:
            with self.client() as client:
                wait_until(lambda: self._writable(client), "a writable mongod")
        except BaseException:  # Ctrl-C too: no mongod is left behind
            self.kill()
            raise
        return self

    def launch(self) -> None:
        """Start it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        arguments = ["--dbpath", str(self.directory), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        arguments += ["--logpath", str(self.directory / "log"), "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket"]
        arguments += ["--setParameter", "enableTestCommands=1"]
        if not self.standalone:
            arguments += ["--replSet", "tests", "--oplogSize", "100"]
        arguments += self.options
        environment = dict(os.environ)
        if lacks_libraries():
            libraries = self.directory / "lib"
            link_library(libraries, "libcurl.so.4")
            environment |= library_path(libraries)
        self.process = subprocess.Popen([mongod_binary(), *arguments], stdout=subprocess.DEVNULL, env=environment)

    def client(self) -> MongoClient:
        """A client of it."""
        return pymongo.MongoClient(
            self.url, uuidRepresentation="standard", tz_aware=True, serverSelectionTimeoutMS=5000
        )

    def _writable(self, client: MongoClient) -> bool:
        try:
            if not self.standalone and not client.admin.command("hello").get("setName"):
                member = {"_id": 0, "host": self.host}
                client.admin.command("replSetInitiate", {"_id": "tests", "members": [member]})
            return bool(client.admin.command("hello")["isWritablePrimary"])
        except pymongo.errors.AutoReconnect:
            return False

    def state(self) -> str:
        """Its part in its replica set, such as PRIMARY; empty if it cannot say."""
        try:
            with pymongo.MongoClient[Json](self.url, serverSelectionTimeoutMS=500, socketTimeoutMS=500) as client:
                hello = client.admin.command("hello")
        except pymongo.errors.ConnectionFailure:
            return ""
        return "PRIMARY" if hello["isWritablePrimary"] else "SECONDARY" if hello["secondary"] else "OTHER"

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory)


@contextmanager
def secured(mongod: Mongod) -> Iterator[MongoClient]:
    """Start it with users, whose rights it checks. The value is the client of an administrator."""
    mongod.start()
    try:
        with mongod.client() as client:
            client.admin.command("createUser", "admin", pwd="p", roles=["root"])
        mongod.kill()
        key_file = mongod.directory / "key"
        key_file.write_text("x" * 100)
        key_file.chmod(0o600)
        mongod.options = ["--auth", "--keyFile", str(key_file)]
        mongod.launch()
        url = f"mongodb://admin:p@{mongod.host}/?directConnection=true&authSource=admin"
        with pymongo.MongoClient[Json](url, uuidRepresentation="standard", tz_aware=True) as client:
            wait_until(lambda: client.admin.command("hello")["isWritablePrimary"], "a writable mongod")
            yield client
    finally:
        mongod.kill()
        shutil.rmtree(mongod.directory)


@contextmanager
def fail_point(mongo: MongoClient, name: str, mode: str | dict[str, int] = "alwaysOn", **data: Any) -> Iterator[None]:
    """Set one of the fail points of MongoDB inside."""
    mongo.admin.command("configureFailPoint", name, mode=mode, data=data)
    try:
        yield
    finally:
        mongo.admin.command("configureFailPoint", name, mode="off")


@contextmanager
def failing_inserts(mongo: MongoClient, times: int | None = None, **data: Any) -> Iterator[None]:
    """Make Sluice's inserts of events fail inside: the next `times`, or all if that is None."""
    mode: str | dict[str, int] = "alwaysOn" if times is None else {"times": times}
    where = {"failCommands": ["insert"], "appName": "sluice", "namespace": "sluice.events"}
    with fail_point(mongo, "failCommand", mode, **where, **data):
        yield


def block_next_insert(mongo: MongoClient, collection: str, hang_ms: int) -> Callable[[], object]:
    """Make the next insert into the collection hang. Returns a function that waits until it does."""
    return block_next(mongo, "insert", hang_ms, namespace=f"sluice.{collection}")


def block_next(mongo: MongoClient, command: str, hang_ms: int, **where: str) -> Callable[[], object]:
    """Make the next command of this name hang. Returns a function that waits until it does."""
    data = {"failCommands": [command], "blockConnection": True, "blockTimeMS": hang_ms, **where}
    entered = mongo.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)["count"]
    wait = {"waitForFailPoint": "failCommand", "timesEntered": entered + 1, "maxTimeMS": 30_000}
    return lambda: mongo.admin.command(wait)


class ReplicaSet:
    """Three mongods, of which one is elected within a second or two. The test stops, kills and starts them."""

    ELECTION_TIMEOUT_MS = 1_000

    def __init__(self, directory: Path) -> None:
        self.nodes = [Mongod(directory / str(number)) for number in range(3)]
        hosts = ",".join(node.host for node in self.nodes)
        self.url = f"mongodb://{hosts}/?replicaSet=tests"

    def start(self) -> Self:
        """Start them and wait for one primary and two secondaries."""
        with ExitStack() as started:
            for node in self.nodes:
                node.launch()
                started.callback(node.kill)
            self._initiate()
            started.pop_all()
        return self

    def _initiate(self) -> None:
        members = [{"_id": number, "host": node.host} for number, node in enumerate(self.nodes)]
        settings = {"electionTimeoutMillis": self.ELECTION_TIMEOUT_MS, "heartbeatIntervalMillis": 500}
        wait_until(lambda: all(self.states()), "members that respond")  # the next command asks whether they agree
        with self.nodes[0].client() as first:
            first.admin.command("replSetInitiate", {"_id": "tests", "members": members, "settings": settings})
        self.wait_until_complete()

    def client(self) -> MongoClient:
        """A client of the whole set, which finds the primary."""
        return pymongo.MongoClient(self.url, uuidRepresentation="standard", tz_aware=True)

    def states(self) -> list[str]:
        """The state of each member: PRIMARY, SECONDARY, OTHER, or empty."""
        return [node.state() for node in self.nodes]

    def wait_until_complete(self) -> None:
        """Wait until there are a primary and two secondaries."""
        wait_until(lambda: sorted(self.states()) == ["PRIMARY", "SECONDARY", "SECONDARY"], "a complete replica set", 60)

    def primary(self) -> Mongod:
        """Wait for a primary and return it."""
        states: list[str] = []

        def is_there() -> bool:
            states[:] = self.states()
            return states.count("PRIMARY") == 1

        wait_until(is_there, "a primary", 60)
        return self.nodes[states.index("PRIMARY")]  # a member that is asked again may be late

    def step_down(self) -> None:
        """Make the primary step down, also if no other member has all writes, and wait until another is primary."""
        before = self.primary()

        def other_leads() -> bool:
            if self.primary() is not before:
                return True
            with before.client() as client, suppress(pymongo.errors.NotPrimaryError):  # it is not, meanwhile
                client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=2, force=True)
            return False

        wait_until(other_leads, "another primary", 60)  # if the others are slow, it leads again after 5 s

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.kill()
            shutil.rmtree(node.directory)
