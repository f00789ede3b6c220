"""A server and its database, which tests kill and start again."""

import os
import signal
from contextlib import suppress
from typing import NamedTuple

import httpx

from tests.support.harness import MongoClient, Server
from tests.support.mongod import Mongod

HANG_MS = 15_000
"""How long a write hangs: longer than a request may take. Only one write hangs at a time."""


class Crashing(NamedTuple):
    """A server with one worker, and its database."""

    server: Server
    mongod: Mongod
    mongo: MongoClient


def accepts(client: httpx.Client) -> bool:
    """Whether a worker listens and reaches the database."""
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def kill_server(server: Server) -> None:
    """End it and its workers as a crash of the machine does. Without a supervisor they would drain."""
    workers = server.worker_pids()
    server.stop(signal.SIGKILL)
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
