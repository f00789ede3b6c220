"""Rejections and usage over hosts, restarts and kills."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.activity import rejections, usage_sums
from tests.support.harness import Json, MongoClient, Server, batch, wait_until
from tests.support.mongod import Mongod, fail_point
from tests.support.wire import EVENTS

OVER_QUOTA = 8000
"""The code of a hosted database that is over its quota: it takes no writes, and can be read."""


@pytest.fixture(scope="module")
def mongo(mongod: Mongod) -> Iterator[MongoClient]:
    with mongod.client() as client:
        yield client


@pytest.fixture(scope="module")
def server(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("data"), "--mongodb-url", mongod.url) as running:
        yield running


def send(server: Server, key: Json, good: int, bad: int) -> None:
    """Send good batches of 2 events, and bad ones."""
    with server.client(key["key"]) as client:
        for count, status in ((good, 201), (bad, 400)):
            for _ in range(count):
                assert client.post(EVENTS, json=batch(2 if status == 201 else 0)).status_code == status


def test_a_host_that_stops_loses_nothing_and_all_hosts_show_all(server: Server, mongod: Mongod, tmp_path: Path) -> None:
    key = server.create_key("hosts", "--rate-limit", "0")
    with Server(tmp_path, "--mongodb-url", mongod.url, "--workers", "2") as other:
        send(other, key, good=5, bad=20)
        send(server, key, good=3, bad=1)
    with server.client(key["key"]) as client:
        assert usage_sums(client, 29)[:2] == ({"stored": 8, "refused": 21}, {"stored": 16})
        assert len(rejections(client, 21)) == 21


def test_a_worker_that_is_killed_loses_only_what_it_had_not_saved(server: Server) -> None:
    key = server.create_key("killed", "--rate-limit", "0")
    send(server, key, good=7, bad=2)
    with server.client(key["key"]) as client:
        usage_sums(client, 9)
        rejections(client, 2)
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: server.worker_pids() not in ([], [worker]) and is_ready(server), "a new worker")
    send(server, key, good=1, bad=1)
    with server.client(key["key"]) as client:
        assert usage_sums(client, 11)[0] == {"stored": 8, "refused": 3}
        rejections(client, 3)


def test_what_the_database_does_not_take_is_saved_later_and_once(server: Server, mongo: MongoClient) -> None:
    """The calls are carried out, and then fail: their outcome is in doubt."""
    key = server.create_key("away", "--rate-limit", "0")
    failure: Json = {"failCommands": ["update", "insert"], "writeConcernError": {"code": OVER_QUOTA, "errmsg": "away"}}
    for name in ("usage", "rejections"):
        with fail_point(mongo, "failCommand", **failure, namespace=f"sluice.{name}"):
            send(server, key, good=1, bad=1)
            wait_until(partial(is_logged, server, f"saving of {name} failed"), f"a failed call for {name}")
    with server.client(key["key"]) as client:
        assert usage_sums(client, 4)[:2] == ({"stored": 2, "refused": 2}, {"stored": 4})
        rejections(client, 2)


def is_ready(server: Server) -> bool:
    with server.client() as client:
        try:
            return client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False


def is_logged(server: Server, text: str) -> bool:
    return text in server.stderr()
