"""Sends many bad inputs of every kind from several threads, and counts the responses."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import NamedTuple

from tests.abuse.clients import AbusiveClient
from tests.support.harness import Server
from tests.support.pressure import memory_mib

THREADS = 8

MAX_MEMORY_MIB = 1_024
"""The memory of a worker, whatever it is sent: its limits on bodies, times several for decoded ones."""

Tally = Counter[tuple[str, str]]
"""The number of inputs by kind and code of the response."""


class Figures(NamedTuple):
    """The figures of a campaign."""

    inputs: int
    seconds: float
    memory_mib: float
    codes: dict[str, dict[str, int]]
    """The number of inputs by kind, and then by code."""

    def as_json(self) -> str:
        """The figures as JSON."""
        return json.dumps(self._asdict())

    def as_table(self) -> str:
        """The figures as a table of text."""
        width = max(map(len, self.codes))
        lines = [
            f"{kind:{width}} {sum(codes.values()):8,}  " + ", ".join(f"{code} {n:,}" for code, n in codes.items())
            for kind, codes in self.codes.items()
        ]
        summary = f"{self.inputs:,} in {self.seconds:.0f} s; a worker held {self.memory_mib:.0f} MiB at most"
        return "\n".join([*lines, summary])


def run_campaign(
    server: Server, key: str, inputs: int, seed: int, on_progress: Callable[[int], None] = lambda _count: None
) -> Figures:
    """Send bad inputs, the same for the same seed. Fails if a response is wrong, or if the server logs an error."""
    workers, begun, before = server.worker_pids(), time.monotonic(), server.log_size()
    tally: Tally = Counter()
    with ThreadPoolExecutor(THREADS) as threads:
        shares = [inputs // THREADS + (number < inputs % THREADS) for number in range(THREADS)]
        running = [
            threads.submit(send_share, server, key, share, f"{seed}/{number}", on_progress)
            for number, share in enumerate(shares)
        ]
        for done in running:
            tally.update(done.result())
    assert server.worker_pids() == workers, "a worker ended"
    log = server.stderr(before)  # other tests may have used the server
    assert not any(word in log for word in ("internal error", "fault", "Traceback")), log
    memory = max(memory_mib(pid, "VmHWM") for pid in workers)
    assert memory < MAX_MEMORY_MIB
    codes: dict[str, dict[str, int]] = {}
    for (kind, code), count in sorted(tally.items()):
        codes.setdefault(kind, {})[code] = count
    return Figures(sum(tally.values()), time.monotonic() - begun, memory, codes)


def send_share(server: Server, key: str, inputs: int, seed: str, on_progress: Callable[[int], None]) -> Tally:
    """The inputs of one thread, of each kind in turn."""
    client, rng = AbusiveClient(server, key), random.Random(seed)
    tally: Tally = Counter()
    try:
        for kind, send in islice(cycle(client.kinds().items()), inputs):
            try:
                tally[kind, send(rng)] += 1
            except Exception as error:
                error.add_note(f"{kind}, of seed {seed!r}, after {sum(tally.values())} others")
                raise
            on_progress(1)
    finally:
        client.close()
    return tally
