"""A tail is cut and resumed 20 times, while 4 writers ingest and workers and the primary are killed."""

import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
import httpx

from tests.support.harness import Server, batch, wait_until
from tests.support.mongod import ReplicaSet
from tests.support.reading import EVENTS
from tests.support.tail import FOLLOW

CUTS = 20
WRITERS = 4
WRITE_S = 45
SETTLE_S = 60
FAILURES = (httpx.HTTPError, grpc.RpcError)


class Writers:
    """Threads that send batches, each until it is acknowledged."""

    def __init__(self, server: Server, secret: str, pause_s: float = 0) -> None:
        self._server = server
        self._secret = secret
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write) for _ in range(WRITERS)]
        self.acknowledged: list[str] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        while not self._stop.wait(self._pause_s):
            headers, body = {"Idempotency-Key": uuid.uuid4().hex}, batch(random.randint(1, 150))
            while True:
                with suppress(httpx.HTTPError), self._server.client(self._secret) as client:
                    response = client.post(EVENTS, json=body, headers=headers)
                    if response.status_code == 201:
                        self.acknowledged += [item["id"] for item in response.json()["events"]]
                        break
                time.sleep(0.1)


class Follower:
    """A thread that follows, and whose connection ends again and again."""

    def __init__(self, server: Server, secret: str) -> None:
        self._server = server
        self._secret = secret
        self._token = ""
        self.received = Counter[str]()
        self.cuts = 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.is_over.is_set():
            follow = random.choice(list(FOLLOW.values()))
            with suppress(*FAILURES):
                self._follow_once(follow)
            time.sleep(random.random() / 10)

    def _follow_once(self, follow: object) -> None:
        query = {} if self._token else {"since": "2020-01-01T00:00:00Z"}
        ends = time.monotonic() + random.uniform(0.2, WRITE_S / CUTS)
        with follow(self._server, self._secret, token=self._token, **query) as messages:  # type: ignore[operator]
            for message in messages:
                if message.kind == "event":
                    self.received[message.data["id"]] += 1
                self._token = message.token or self._token
                if (time.monotonic() > ends and self.cuts < CUTS) or self.is_over.is_set():
                    self.cuts += 1
                    return


def exactly_once(directory: Path) -> None:
    """Fails unless each acknowledged event is received exactly once."""
    with (
        ReplicaSet(directory / "set") as replica_set,
        Server(directory / "server", "--workers", "2", "--mongodb-url", replica_set.url) as server,
    ):
        secret = server.create_key("tailing", "--rate-limit", "0")["key"]
        writers, follower = Writers(server, secret), Follower(server, secret)
        writers.start()
        follower.thread.start()
        kills: list[Callable[[], None]] = [lambda: kill_worker(server), lambda: kill_primary(replica_set)]
        for kill in (*kills, kills[0]):
            time.sleep(WRITE_S / 4)
            kill()
        time.sleep(WRITE_S / 4)
        writers.stop()
        expected = set(writers.acknowledged)
        try:
            wait_until(lambda: expected <= follower.received.keys(), "all events", SETTLE_S)
        finally:
            follower.is_over.set()
            missing = expected - follower.received.keys()
            twice = [event_id for event_id, count in follower.received.items() if count > 1]
            print(  # noqa: T201
                f"  {len(expected)} acknowledged, {len(follower.received)} received, {len(missing)} missing, "
                f"{len(twice)} twice, {follower.cuts} cuts"
            )
        assert not missing
        assert not twice
        assert follower.cuts >= CUTS


def kill_worker(server: Server) -> None:
    os.kill(random.choice(server.worker_pids()), signal.SIGKILL)


def kill_primary(replica_set: ReplicaSet) -> None:
    primary = replica_set.primary()
    primary.kill()
    time.sleep(5)
    primary.launch()
