"""Transitions reach a receiver that fails often, while workers are killed: none is lost, and all copies are equal."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from server.core.alerts.model import Transition
from server.core.deadline import Deadline
from server.core.webhooks.messages import message_id
from server.core.webhooks.model import Webhook
from storage.client import database, opened
from storage.indexes import ensure_indexes
from storage.webhooks import StoredWebhooks
from tests.support.alerts import alert, transition, webhook
from tests.support.delivery_process import JOB
from tests.support.harness import MongoClient, Server, wait_until
from tests.support.mongod import Mongod
from tests.support.receiver import Received, Reply, receiver
from tests.support.webhooks import happen, make, path_of

DRIVERS = ("motor", "pymongo")

FAILING = 0.3
"""The part of calls that the receiver fails. Half of these were taken in before."""

RULES = 50

FINISH_S = 120
"""After the last kill. Mostly, it is the wait for retries."""


class Workers:
    """Processes that deliver, of which one at a time holds the lease."""

    def __init__(self, mongod: Mongod, mongo: MongoClient, log: Path) -> None:
        self._mongod = mongod
        self._mongo = mongo
        self._log = log.open("ab")
        self._processes = [self._start(driver) for driver in DRIVERS]

    def _start(self, driver: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.support.delivery_process", self._mongod.url, driver]
        return subprocess.Popen(command, stderr=self._log)

    def _holder(self) -> int | None:
        """The place of the process that holds the lease; None if it has ended."""
        lease = self._mongo.sluice.leases.find_one({"_id": JOB})
        pids = [process.pid for process in self._processes]
        pid = int(lease["holder"].split(":")[1]) if lease else 0
        return pids.index(pid) if pid in pids else None

    def kill_holder(self) -> None:
        """Kill the process that holds the lease, and start another in its place."""
        wait_until(lambda: self._holder() is not None, "a worker holds the lease")
        place = self._holder()
        assert place is not None
        self._processes[place].kill()
        self._processes[place].wait()
        self._processes[place] = self._start(DRIVERS[place])

    def stop(self) -> None:
        """Kill all."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._log.close()


@contextmanager
def workers(mongod: Mongod, mongo: MongoClient, log: Path) -> Iterator[Workers]:
    """Two processes that deliver."""
    running = Workers(mongod, mongo, log)
    try:
        yield running
    finally:
        running.stop()


class FailingReceiver:
    """Takes messages in, or fails: before it has taken them in, or after."""

    def __init__(self) -> None:
        self._random = random.Random(7)
        self.bodies = defaultdict[str, set[bytes]](set)
        """Each body that came under an id."""
        self.accepted = set[str]()

    def __call__(self, got: Received) -> Reply:
        self.bodies[got.message_id].add(got.body)
        fails = self._random.random() < FAILING
        if not fails or self._random.random() < 1 / 2:
            self.accepted.add(got.message_id)
        return Reply(503) if fails else Reply()


def make_webhook(mongod: Mongod, url: str) -> Webhook:
    """A webhook in a database with all indexes."""
    made = webhook(uuid4(), url)

    async def scenario() -> None:
        async with opened(mongod.url, "pymongo") as client:
            storage = database(client, "sluice")
            await ensure_indexes(storage)
            await StoredWebhooks(storage).insert(made, Deadline())

    asyncio.run(scenario())
    return made


def transitions(tenant_id: UUID, count: int) -> Iterator[Transition]:
    """Alerts of some rules that open and resolve, each at its time."""
    rules = [uuid4() for _ in range(RULES)]
    for number in range(count):
        now, is_opened = datetime.now(UTC), number // RULES % 2 == 0
        told = alert(tenant_id, rules[number % RULES], None if is_opened else now)
        yield transition(told, "alert.opened" if is_opened else "alert.resolved", now)


def test_each_transition_arrives_and_all_copies_are_equal(mongod: Mongod, tmp_path: Path) -> None:
    check(mongod, tmp_path, count=150, kills=4)


@pytest.mark.long
def test_a_thousand_transitions_and_twenty_kills(mongod: Mongod, tmp_path: Path) -> None:
    check(mongod, tmp_path, count=1_000, kills=20)


@pytest.mark.slow
def test_what_killed_workers_were_sending_is_sent_again(tmp_path: Path) -> None:
    arrived, killed = threading.Event(), threading.Event()

    def hang(_: Received) -> Reply:
        arrived.set()
        killed.wait(60)
        return Reply()

    with Server(tmp_path, "--workers", "2", "--webhook-allow", "127.0.0.0/8") as server, receiver() as receiving:
        receiving.reply = hang
        with server.client(server.first_key) as client:
            made = make(client, receiving.url)
            assert client.post(path_of(made, "test")).status_code == 202
        assert arrived.wait(30)
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
        killed.set()
        wait_until(lambda: len(receiving.received) == 2, "a second copy", timeout_s=60)
        first, second = receiving.received
        assert (first.message_id, first.body) == (second.message_id, second.body)


def check(mongod: Mongod, tmp_path: Path, count: int, kills: int) -> None:
    """Let transitions happen while the worker that delivers is killed. Each must arrive."""
    taking = FailingReceiver()
    with mongod.client() as mongo, receiver() as receiving:
        mongo.drop_database("sluice")
        receiving.reply = taking
        made = make_webhook(mongod, receiving.url)
        happened: list[Transition] = []

        def note() -> Iterator[Transition]:
            for each in transitions(made.tenant_id, count):
                happened.append(each)
                yield each

        happening = threading.Thread(target=happen, args=(mongod.url, note()))
        with workers(mongod, mongo, tmp_path / "log") as running:
            happening.start()
            for kill in range(1, kills + 1):
                reached = kill * count // (kills + 1)
                wait_until(lambda: len(taking.accepted) >= reached, f"{reached} messages", FINISH_S)  # noqa: B023
                running.kill_holder()
            happening.join()
            pending = {"due_at": {"$exists": True}}
            wait_until(lambda: not mongo.sluice.deliveries.count_documents(pending), "all are delivered", FINISH_S)
        ids = {str(message_id(each.at, each.id, made.id)) for each in happened}
        assert len(ids) == count
        assert taking.accepted == ids
        assert set(taking.bodies) == ids
        assert {len(bodies) for bodies in taking.bodies.values()} == {1}
        assert mongo.sluice.deliveries.count_documents({"state": "delivered"}) == count
