"""A server with one worker whose inserts can be held up or made to fail."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.support.harness import Json, MongoClient, Server, wait_until
from tests.support.mongod import Mongod
from tests.support.pressure import (
    Clients,
    SentRequest,
    wait_until_quiet,
)

AT_ONCE = 2
"""Inserts that a worker has in flight at most."""

NOT_WRITABLE_PRIMARY = 10107


class Host(NamedTuple):
    """A server with one worker, the database that it uses, and tenants' keys."""

    server: Server
    mongo: MongoClient
    clients: Clients
    keys: list[Json]

    def occupy(self, key: Json, under_way: Callable[[], int]) -> list[SentRequest]:
        """Send as many requests as there may be inserts at once. Each is an insert of its own, as it is sent alone."""
        sent: list[SentRequest] = []
        for _ in range(AT_ONCE):
            sent.append(self.clients.post(key))
            wait_until(lambda: under_way() == len(sent), "an insert")
        return sent

    def hold(self, sent: list[SentRequest]) -> None:
        """Wait until all that was sent waits in the worker."""
        assert sent
        wait_until_quiet(self.server.worker_pids()[0])


def start(stack: ExitStack, path: Path, *options: str) -> Host:
    """Start a database, a server on it, and create three keys of three tenants."""
    mongod = stack.enter_context(Mongod(path / "db"))
    mongo = stack.enter_context(mongod.client())
    server = stack.enter_context(Server(path / "data", "--mongodb-url", mongod.url, *options))
    keys = [server.create_key(f"t{number}", "--rate-limit", "0") for number in range(3)]
    return Host(server, mongo, stack.enter_context(Clients(server)), keys)


def write_concern_error(code: int) -> Json:
    """A write that is done, but of which it is unknown whether a majority has it."""
    return {"writeConcernError": {"code": code, "errmsg": "no majority"}}


FAILURES: dict[str, Json] = {
    "WriteConcernTimeout": write_concern_error(64),
    "ShutdownInProgress-stored": write_concern_error(91),
    "InterruptedDueToReplStateChange-stored": write_concern_error(11602),
    "ShutdownInProgress": {"errorCode": 91},
    "PrimarySteppedDown": {"errorCode": 189},
    "NotWritablePrimary": {"errorCode": NOT_WRITABLE_PRIMARY},
    "InterruptedAtShutdown": {"errorCode": 11600},
    "InterruptedDueToReplStateChange": {"errorCode": 11602},
    "closed": {"closeConnection": True},
    "blocked": {"blockConnection": True, "blockTimeMS": 500},
    "blocked-closed": {"blockConnection": True, "blockTimeMS": 300, "closeConnection": True},
}
"""What may happen to an insert, as data of the fail point `failCommand`."""
