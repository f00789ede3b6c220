"""Evaluates rules every second on two hosts, with three workers, and kills whoever evaluates.

Afterwards, each due time of each rule must have one result, with the number of events that are stored in its window.
The alerts and deliveries must be those that follow from the results. No result may be later than
LATEST_S.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx

from server.core.rules.windows import COMPLETE_AFTER_MS
from server.core.times import MS_PER_S
from server.runtime.background import LEASE_S
from tests.support.evaluations import (
    check_alerts,
    check_due_times,
    check_values,
    create_rule,
    lateness_ms,
)
from tests.support.harness import Json, MongoClient, Server, batch, wait_until
from tests.support.mongod import ReplicaSet

INTERVAL_MS = 1_000

RULES = 3

TAKEOVER_S = 5.0
"""How soon after the end of a lease another worker has evaluated."""

LATEST_S = LEASE_S + TAKEOVER_S + INTERVAL_MS / MS_PER_S
"""How late a result may be: the worker may have been killed when it was about to evaluate."""

FREEZE_S = 3 * LEASE_S

SEND_S = 0.5
"""How often purchases are sent, in every other minute."""

MINUTE_S = 60

WEBHOOK: Json = {
    "name": "nowhere",
    "url": "https://93.184.216.34/",
    "events": ["alert.opened", "alert.resolved"],
    "format": "standard",
}


class Figures(NamedTuple):
    """What was found."""

    kills: int
    freezes: int
    step_downs: int
    states: Counter[str]
    """Of the results."""
    transitions: int
    latest_s: float

    def is_in_time(self) -> bool:
        """Whether no result was later than LATEST_S, which only a machine without other work can tell."""
        return self.latest_s < LATEST_S

    def line(self) -> str:
        """The figures for people."""
        return (
            f"{self.kills} kills, {self.freezes} freezes, {self.step_downs} step-downs: "
            f"{self.states.total()} results ({dict(self.states)}), 0 missing, 0 twice; {self.transitions} transitions; "
            f"the latest result {self.latest_s:.1f} s late"
        )


class Hosts:
    """Two hosts on one replica set: one with two workers, and one with one."""

    def __init__(self, servers: list[Server], replicas: ReplicaSet, mongo: MongoClient) -> None:
        self.servers = servers
        self.replicas = replicas
        self.mongo = mongo

    def holder(self) -> int:
        """The worker that holds the lease."""
        wait_until(lambda: self.fence() > 0, "a holder of the lease")
        lease = self.mongo.sluice.leases.find_one({"_id": "rules"})
        assert lease is not None
        return int(lease["holder"].split(":")[-2])

    def fence(self) -> int:
        """The fencing number of the lease; 0 if there is none yet."""
        lease = self.mongo.sluice.leases.find_one({"_id": "rules"})
        return int(lease["fence"]) if lease else 0

    def take_over(self, disturb: Callable[[], None]) -> None:
        """Wait until another holder has evaluated after `disturb`."""
        before = self.fence()
        disturb()
        wait_until(lambda: self.fence() > before, "another holder", 4 * LEASE_S)  # how soon is told by the results
        self.wait_for_results()

    def wait_for_results(self) -> None:
        """Wait until there are results of all due times until now: what is missed adds up, if it is not waited for."""
        rules = self.mongo.sluice.rules

        def are_current() -> bool:
            until = datetime.now(UTC) - timedelta(milliseconds=COMPLETE_AFTER_MS + 2 * INTERVAL_MS)
            return not rules.count_documents({"evaluated_until": {"$lt": until}})

        wait_until(are_current, "results until now", 60)

    def count(self) -> int:
        """The number of results."""
        return int(self.mongo.sluice.rule_results.count_documents({}))

    def kill_holder(self) -> None:
        """Kill the worker that holds the lease, as a crash does. Its supervisor replaces it."""
        self.take_over(lambda: os.kill(self.holder(), signal.SIGKILL))

    def freeze_holder(self) -> None:
        """Freeze the host whose worker holds the lease for three times of a lease, as if its machine were suspended."""
        holder = self.holder()
        (server,) = [server for server in self.servers if holder in server.worker_pids()]
        frozen = [server.process.pid, *server.worker_pids()]
        thaws = time.monotonic() + FREEZE_S
        try:
            self.take_over(lambda: signal_all(frozen, signal.SIGSTOP))
            wait_until(lambda: time.monotonic() > thaws, "three times of a lease", FREEZE_S + 10)
        finally:
            signal_all(frozen, signal.SIGCONT)
        self.wait_for_results()

    def step_down(self) -> None:
        """Let another member become the primary."""
        self.replicas.wait_until_complete()
        self.replicas.step_down()
        self.wait_for_results()


def signal_all(pids: list[int], number: int) -> None:
    """Send a signal to each process."""
    for pid in pids:
        os.kill(pid, number)


def run(directory: Path, *, kills: int, freezes: int, step_downs: int, results: int) -> Figures:
    """Do so, with the disturbances spread over the run, until there are that many results. Fails if one is wrong."""
    with hosts(directory) as running:
        key = running.servers[0].create_key("acme", "--rate-limit", "0")
        with running.servers[0].client(key["key"]) as client:
            client.post("/api/v1/webhooks", json=WEBHOOK).raise_for_status()
        rules = [create_rule(running.servers[0], key, name=f"rule {number}")["id"] for number in range(RULES)]
        with purchases(running.servers, key):
            running.wait_for_results()
            for disturb in order_of(running, kills, freezes, step_downs):
                disturb()
            wait_until(lambda: running.count() >= results, f"{results} results", 3_600)
        for server in running.servers:
            assert server.stop() == 0
        latest_s, states, transitions = 0.0, Counter[str](), 0
        for rule in rules:
            found = check_due_times(running.mongo, rule, INTERVAL_MS)
            check_values(running.mongo, key["tenant_id"], found)
            transitions += len(check_alerts(running.mongo, rule, found))
            states.update(result["state"] for result in found)
            latest_s = max(latest_s, *(lateness_ms(result) / MS_PER_S for result in found))
        assert running.mongo.sluice.deliveries.count_documents({"event": {"$ne": "webhook.test"}}) == transitions
        return Figures(kills, freezes, step_downs, states, transitions, latest_s)


def order_of(running: Hosts, kills: int, freezes: int, step_downs: int) -> list[Callable[[], None]]:
    """The disturbances: the rare ones among the others."""
    order: list[Callable[[], None]] = [running.kill_holder] * kills
    for count, disturb in ((step_downs, running.step_down), (freezes, running.freeze_holder)):
        for number in range(count):
            order.insert((number + 1) * len(order) // (count + 1), disturb)
    return order


@contextmanager
def hosts(directory: Path) -> Iterator[Hosts]:
    """Both hosts, which evaluate every second."""
    with ExitStack() as stack:
        replicas = stack.enter_context(ReplicaSet(directory / "db"))
        options = ("--mongodb-url", replicas.url, "--rules-interval", f"{INTERVAL_MS // MS_PER_S}s")
        servers = [
            stack.enter_context(Server(directory / name, "--workers", workers, *options))
            for name, workers in (("first", "2"), ("second", "1"))
        ]
        yield Hosts(servers, replicas, stack.enter_context(replicas.client()))


@contextmanager
def purchases(servers: list[Server], key: Json) -> Iterator[None]:
    """Send purchases inside in every other minute, to whichever host takes them."""
    ended = threading.Event()
    sending = threading.Thread(target=send, args=(servers, key, ended))
    sending.start()
    try:
        yield
    finally:
        ended.set()
        sending.join()


def send(servers: list[Server], key: Json, ended: threading.Event) -> None:
    """Send purchases until `ended` is set. What a host does not take, it does not take."""
    clients = [httpx.Client(base_url=each.url, headers={"X-API-Key": key["key"]}, timeout=2) for each in servers]
    while not ended.wait(SEND_S):
        if int(time.time()) // MINUTE_S % 2:
            for client in clients:
                try:
                    client.post("/api/v1/events", json=batch())
                except httpx.HTTPError:
                    continue
    for client in clients:
        client.close()
