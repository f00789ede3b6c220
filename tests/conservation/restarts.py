"""Kills workers 200 times: counters never fall, nothing is left of a worker, and a scrape stays fast."""

import os
import signal
import statistics
from pathlib import Path
from typing import NamedTuple

from tests.support.harness import Server, batch, descriptors, wait_until
from tests.support.metrics import Scrape, check_scrape, scrape

MAX_SCRAPE_S = 0.05

MEMORY = "memfd:sluice-metrics"
"""How the slots are called in /proc."""


class Restarts(NamedTuple):
    """What was found."""

    restarts: int
    scrapes_s: list[float]
    stored: int

    def are_fast(self) -> bool:
        """Whether a scrape is as fast as it should be, which only a quiet machine can tell."""
        return statistics.median(self.scrapes_s) < MAX_SCRAPE_S

    def line(self) -> str:
        """The figures for people."""
        median, slowest = statistics.median(self.scrapes_s), max(self.scrapes_s)
        return (
            f"{self.restarts} restarts, {self.stored} events stored; {len(self.scrapes_s)} scrapes: "
            f"median {median * 1_000:.1f} ms, slowest {slowest * 1_000:.1f} ms"
        )


def run(directory: Path, workers: int, restarts: int) -> Restarts:
    """Kill all workers at once until `restarts` were replaced. Fails if anything is left, or a counter falls."""
    with Server(directory, "--workers", str(workers), "--metrics-port", "0", "--log-level", "error") as server:
        files = set(files_below(directory))
        opened, scrapes_s, stored = len(open_files(server)), list[float](), 0
        before: Scrape | None = None
        with server.client(server.first_key) as client:
            while before is None or before.total("sluice_worker_restarts_total") < restarts:
                assert client.post("/api/v1/events", json=batch(10)).status_code == 201
                stored += 10
                now = scrape(server.metrics)
                check_scrape(now, before)
                assert now.total("sluice_events_stored_total") == stored
                replace_all(server, workers, now.total("sluice_worker_restarts_total"))
                quiet = [scrape(server.metrics) for _ in range(5)]
                scrapes_s += [each.seconds for each in quiet]
                before = quiet[-1]
                assert before.total("sluice_events_stored_total") == stored, "a killed worker's counts are lost"
        assert len(open_files(server)) <= opened + 2, open_files(server)
        slots = [line for line in maps(server) if MEMORY in line]
        assert len(slots) == workers, slots
        assert not {path for path in set(files_below(directory)) - files if "metrics" in path.name}
        assert not [path for path in Path("/dev/shm").iterdir() if "sluice" in path.name]
        return Restarts(int(before.total("sluice_worker_restarts_total")), scrapes_s, stored)


def replace_all(server: Server, workers: int, restarts: float) -> None:
    """Kill all workers, and wait until each has a successor that accepts requests."""
    for pid in server.worker_pids():
        os.kill(pid, signal.SIGKILL)

    def are_replaced() -> bool:
        now = scrape(server.metrics)
        return (
            now.total("sluice_worker_restarts_total") >= restarts + workers and now.total("sluice_workers") == workers
        )

    wait_until(are_replaced, "all workers are replaced", timeout_s=120)


def files_below(directory: Path) -> list[Path]:
    """All files below a directory."""
    return [path for path in directory.rglob("*") if path.is_file()]


def open_files(server: Server) -> list[str]:
    """What the supervisor's descriptors are."""
    return descriptors(server.process.pid)


def maps(server: Server) -> list[str]:
    """The memory that the supervisor has mapped."""
    return Path(f"/proc/{server.process.pid}/maps").read_text().splitlines()
