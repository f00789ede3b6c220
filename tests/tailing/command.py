"""`sluice tail` while 4 writers ingest: one command over 20 kills of what it talks to, and 20 kills of the command."""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from tests.support.crashes import kill_server
from tests.support.harness import Server, wait_until
from tests.support.mongod import ReplicaSet
from tests.support.ports import free_ports
from tests.support.remote_commands import running
from tests.tailing.exactly_once import SETTLE_S, Writers, kill_primary, kill_worker

KILLS = 20

PAUSE_S = 0.2
"""Between the batches of a writer whose events are read again after each kill of the command."""

BACK = timedelta(minutes=1)
"""How far before the newest event that was printed a command begins again, as the README says."""

SINCE = "2020-01-01T00:00:00"


class Site(NamedTuple):
    """A replica set, a server with two workers, and a key."""

    replica_set: ReplicaSet
    server: Server
    secret: str


class Printed:
    """The file that commands print into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def cut_half_line(self) -> None:
        """Remove what a killed command began to print."""
        lines = self.path.read_bytes()
        with self.path.open("r+b") as file:
            file.truncate(lines.rfind(b"\n") + 1)

    def since(self) -> str:
        """From when a command begins again."""
        times = [json.loads(line)["received_at"] for line in self._whole_lines()]
        return (datetime.fromisoformat(max(times)) - BACK).isoformat() if times else SINCE

    def counts(self) -> Counter[str]:
        """How often each event was printed."""
        return Counter(json.loads(line)["id"] for line in self._whole_lines())

    def expect_all(self, expected: list[str]) -> None:
        """Wait until all these events were printed."""
        wait_until(lambda: not (set(expected) - self.counts().keys()), "all events", SETTLE_S)

    def _whole_lines(self) -> list[bytes]:
        return self.path.read_bytes().split(b"\n")[:-1]


@contextmanager
def site(directory: Path) -> Iterator[Site]:
    """They run, and the server comes back at the same address."""
    port = str(free_ports(1)[0])
    with (
        ReplicaSet(directory / "set") as replica_set,
        Server(directory / "server", "--workers", "2", "--mongodb-url", replica_set.url, "--port", port) as server,
    ):
        yield Site(replica_set, server, server.create_key("tailing", "--rate-limit", "0")["key"])


def living_command(directory: Path) -> None:
    """Fails unless a command that is never stopped prints each acknowledged event exactly once."""
    printed = Printed(directory / "events")
    with (
        site(directory) as (replica_set, server, secret),
        printed.path.open("ab") as stdout,
        (directory / "told").open("wb") as told,
        running(server.url, secret, "tail", "--since", SINCE, stdout=stdout, stderr=told) as process,
    ):
        writers = Writers(server, secret)
        writers.start()
        for number in range(KILLS):
            time.sleep(random.uniform(1, 3))
            if number == KILLS // 2:
                kill_primary(replica_set)
            if number % 2:
                kill_worker(server)
            elif number % 4:
                server.stop()
                server.start()
            else:
                kill_server(server)
                server.start()
        writers.stop()
        printed.expect_all(writers.acknowledged)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        counts = printed.counts()
        twice = [event_id for event_id, count in counts.items() if count > 1]
        lost = (directory / "told").read_text().count("trying again")
        print(  # noqa: T201
            f"  {len(writers.acknowledged)} acknowledged, {len(counts)} printed, 0 missing, {len(twice)} twice; "
            f"{KILLS} kills and restarts of workers and the server, {lost} of its connections were lost"
        )
        assert not twice


def killed_command(directory: Path) -> None:
    """Fails unless commands that are killed and begun again print each acknowledged event."""
    printed = Printed(directory / "events")
    with site(directory) as (replica_set, server, secret):
        writers = Writers(server, secret, PAUSE_S)
        writers.start()
        for number in range(KILLS):
            with tail(server, secret, printed):
                time.sleep(random.uniform(1, 4))
                if number in (KILLS // 4, KILLS * 3 // 4):
                    kill_worker(server)
                elif number == KILLS // 2:
                    kill_primary(replica_set)
        writers.stop()
        with tail(server, secret, printed):
            printed.expect_all(writers.acknowledged)
        counts = printed.counts()
        print(  # noqa: T201
            f"  {len(writers.acknowledged)} acknowledged, {len(counts)} printed, 0 missing, "
            f"{counts.total() - len(counts)} lines that repeat an id; {KILLS} kills of the command"
        )


@contextmanager
def tail(server: Server, secret: str, printed: Printed) -> Iterator[None]:
    """A command that goes on where the file ends, and is killed."""
    printed.cut_half_line()
    with (
        printed.path.open("ab") as stdout,
        running(server.url, secret, "tail", "--since", printed.since(), stdout=stdout),
    ):
        yield
