"""Clients that read badly: some read nothing, some leave, some read slowly. And what another tenant notices of them."""

import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from tests.support.harness import Json, Server, event
from tests.support.pressure import memory_mib
from tests.support.readers import SMALL_BUFFER_BYTES, post_steadily, send_get
from tests.support.wire import EVENTS, connect

LARGE_EVENTS, LARGE_BYTES = 90, 900_000

READERS = 60
"""Bad readers at a time, in equal parts of each kind."""

INTERVAL_S = 0.05
"""How often the good client posts."""

MAX_GROWTH_MIB = 220
"""How much more memory a worker may take than it had before: to about 300 MiB if it is new."""

MAX_P99_S = 1.0
"""Of the good client's posts, on a machine that is busy with the bad readers themselves."""


class ReaderFigures(NamedTuple):
    """What came of a campaign."""

    lists: int
    """Lists that bad readers asked for."""
    posts: int
    """Posts of the good client, all of which were stored."""
    p99_ms: float
    growth_mib: float

    def as_line(self) -> str:
        """For people."""
        return (
            f"{self.lists:,} lists for bad readers; {self.posts:,} posts beside them, p99 {self.p99_ms:.0f} ms; "
            f"a worker grew by {self.growth_mib:.0f} MiB at most"
        )


class BadReaders:
    """Threads that each ask for lists and read them badly, until `stop` is set."""

    def __init__(self, server: Server, key: Json) -> None:
        self._server = server
        self._key = key
        self.stop = threading.Event()
        self.lists = 0

    def kinds(self) -> list[Callable[[random.Random], None]]:
        """One list of each kind."""
        return [self.read_nothing, self.leave, self.read_slowly]

    def run(self, number: int, seed: int) -> None:
        """One thread's lists, all of one kind."""
        rng = random.Random(f"{seed}/{number}")
        kind = self.kinds()[number % len(self.kinds())]
        while not self.stop.is_set():
            with suppress(ConnectionError, TimeoutError):  # the server may end what takes too long
                kind(rng)
            self.lists += 1

    def read_nothing(self, rng: random.Random) -> None:
        """Ask for a list, and wait."""
        with connect(self._server) as connection:
            send_get(connection, self._key, f"limit={LARGE_EVENTS}", receive_buffer=SMALL_BUFFER_BYTES)
            self.stop.wait(rng.uniform(1, 20))

    def leave(self, rng: random.Random) -> None:
        """Ask for a list, read some of it, and leave."""
        with connect(self._server) as connection:
            send_get(connection, self._key, f"limit={LARGE_EVENTS}&skip={rng.randrange(10)}")
            for _ in range(rng.randrange(5)):
                connection.recv(100_000)

    def read_slowly(self, rng: random.Random) -> None:
        """Ask for a list, and read it a little at a time."""
        with connect(self._server) as connection:
            send_get(connection, self._key, f"limit={rng.randrange(1, 6)}", receive_buffer=SMALL_BUFFER_BYTES)
            while not self.stop.wait(0.05) and connection.recv(100_000):
                pass


def run_readers(server: Server, seconds: float, seed: int) -> ReaderFigures:
    """Let bad readers of one tenant read for a time, and a good client of another post. Fails if it notices them."""
    bad_key = server.create_key(f"bad-readers-{seed}", "--rate-limit", "0")
    good_key = server.create_key(f"beside-readers-{seed}", "--rate-limit", "0")
    store_large_events(server, bad_key)
    workers, readers, growth = server.worker_pids(), BadReaders(server, bad_key), [0.0]
    before = {pid: memory_mib(pid) for pid in workers}

    def watch() -> None:
        while not readers.stop.wait(0.05):
            growth.append(max(memory_mib(pid) - before[pid] for pid in workers))

    with ThreadPoolExecutor(READERS + 1) as threads:
        running = [threads.submit(watch), *(threads.submit(readers.run, number, seed) for number in range(READERS))]
        try:
            time.sleep(1)
            latencies = post_steadily(server, good_key, seconds, INTERVAL_S)
        finally:
            readers.stop.set()
        for done in running:
            done.result()
    assert server.worker_pids() == workers, "a worker ended"
    figures = ReaderFigures(
        readers.lists, len(latencies), statistics.quantiles(latencies, n=100)[98] * 1_000, max(growth)
    )
    assert figures.growth_mib < MAX_GROWTH_MIB, figures
    assert figures.p99_ms < MAX_P99_S * 1_000, figures
    return figures


def store_large_events(server: Server, key: Json) -> None:
    """Store a page of the largest events."""
    large = event(data={"text": "x" * LARGE_BYTES})
    with server.client(key["key"]) as client:
        for _ in range(LARGE_EVENTS // 10):
            assert client.post(EVENTS, json={"source": "large", "events": [large] * 10}).status_code == 201
