"""When the last event of a type came: what is acknowledged is saved, whatever happens to the worker."""

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest

from tests.support.harness import MongoClient, Server, wait_until
from tests.support.mongod import Mongod, fail_point

EVENTS = "/api/v1/events"

STEPPED_DOWN = 189
"""MongoDB's code for a primary that is none any more."""


@pytest.fixture(scope="module")
def mongo(mongod: Mongod) -> Iterator[MongoClient]:
    with mongod.client() as client:
        yield client


@pytest.fixture(scope="module")
def server(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("data"), "--mongodb-url", mongod.url) as running:
        yield running


def post(server: Server, secret: str) -> None:
    with server.client(secret) as client:
        response = client.post(EVENTS, json={"source": "web", "events": [{"type": "view", "data": {}}]})
        assert response.status_code == 201, response.text


def kill_worker(server: Server) -> None:
    """Kill the only worker, and wait until another is ready."""
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: server.worker_pids() not in ([], [worker]) and is_ready(server), "a new worker")


def is_ready(server: Server) -> bool:
    with server.client() as client:
        try:
            return client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False


@pytest.mark.parametrize("failures", [0, 3], ids=["well", "failing"])
def test_a_worker_that_is_killed_loses_no_time(server: Server, mongo: MongoClient, failures: int) -> None:
    """`failing` is a database that has an election when the time is saved."""
    key = server.create_key(f"killed-{failures}", "--rate-limit", "0")
    post(server, key["key"])
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    own_id = {"tenant_id": UUID(key["tenant_id"]), "source": "web", "event_type": "view"}
    mongo.sluice.event_types.update_one({"_id": own_id}, {"$set": {"first_seen": hour_ago, "last_seen": hour_ago}})
    kill_worker(server)  # the new one does not remember the first event, as after an hour
    failing = {"failCommands": ["update"], "namespace": "sluice.event_types", "errorCode": STEPPED_DOWN}
    with fail_point(mongo, "failCommand", {"times": failures}, **failing) if failures else nullcontext():
        post(server, key["key"])
    kill_worker(server)
    stored = mongo.sluice.event_types.find_one({"_id": own_id})
    event = mongo.sluice.events.find_one({"_id.tenant_id": own_id["tenant_id"]}, sort=[("_id", -1)])
    assert stored is not None
    assert event is not None
    assert stored["last_seen"] == event["received_at"]
    assert stored["first_seen"] < event["received_at"] - timedelta(minutes=50)
