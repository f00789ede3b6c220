"""Measures how long a page of events takes, with many stored: `python -m loadtests.pages` (`--help`).

It stores events of one tenant: one in a million is of the type `rare`, and one in ten thousand of the type `few`. Then
it reads pages in turn: the newest; one in the middle and one at the end, each by a cursor; those of a search for each
of the two types; and of a type that was never sent.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import NamedTuple, cast

import click
import httpx

from loadtests.benchmark.table import print_table
from loadtests.support.databases import nodes_option, running_database
from loadtests.support.payloads import Json, make_events
from loadtests.support.processes import create_key, serving
from loadtests.support.progress import say

EVENTS_PATH = "/api/v1/events"

JSON = {"Content-Type": "application/json"}

BATCH_SIZE = 1_000
RARE_EVERY = 1_000_000
"""Of this number of events, one is of the type `rare`."""

FEW_EVERY = 10_000
"""Of this number of events, one is of the type `few`: a page finds dozens, each far from the next."""

CONNECTIONS = 4
"""Connections that store the events: a worker has always one to work on."""

MAX_PAGE_RATIO = 1.5
"""How much longer than the newest page one in the middle or at the end may take."""

MAX_NEVER_SEEN_MS = 20.0
MAX_RARE_MS = 1_500.0
MAX_FEW_MS = 1_000.0


class Timed(NamedTuple):
    """How long each request of a kind took, and how long it may take."""

    name: str
    times_ms: list[float]
    aim_ms: float | None

    @property
    def is_met(self) -> bool:
        """Whether the median is within the aim."""
        return self.aim_ms is None or statistics.median(self.times_ms) <= self.aim_ms

    def cells(self) -> list[str]:
        """The row of the table."""
        aim = "-" if self.aim_ms is None else f"at most {self.aim_ms:.1f}"
        return [
            self.name,
            f"{statistics.median(self.times_ms):.1f}",
            f"{min(self.times_ms):.1f}-{max(self.times_ms):.1f}",
            aim,
            "yes" if self.is_met else "NO",
        ]


@click.command(help=__doc__)
@click.option("--events", default=2_000_000, show_default=True, help="How many events to store.")
@click.option("--rounds", default=15, show_default=True, help="How often to read each page.")
@nodes_option
def main(events: int, rounds: int, nodes: str) -> None:
    """Store the events, read the pages, and print how long they took."""
    found = asyncio.run(run(events, rounds, int(nodes)))
    print_table([["ms", "median", "min-max", "aim", "met"], *(timed.cells() for timed in found)])
    newest, middle, end = (statistics.median(timed.times_ms) for timed in found[:3])
    print(f"beside the newest page, the middle one takes {middle / newest:.2f}, and the last {end / newest:.2f}")
    if not all(timed.is_met for timed in found):
        sys.exit(1)


async def run(events: int, rounds: int, nodes: int) -> list[Timed]:
    """Measure on a new server with a new database."""
    with tempfile.TemporaryDirectory() as directory:
        log, data = Path(directory) / "serve.log", Path(directory) / "data"
        async with running_database(data, nodes) as database:
            env = {"SLUICE_MONGODB_URL": database.url}
            async with serving(log, env, "--workers", "1") as server:
                key = await create_key(env, "pages")
                with httpx.Client(base_url=server.url, headers={"X-API-Key": key.secret}, timeout=30) as client:
                    received = await asyncio.to_thread(fill, client, events)
                    say(f"reading each page {rounds} times")
                    return await asyncio.to_thread(measure, client, received, rounds)


def fill(client: httpx.Client, events: int) -> list[str]:
    """Store the events, with the rare ones evenly among them. Returns when each batch was received."""
    rng = Random(1)
    plain = [encoded(make_events(rng, BATCH_SIZE)) for _ in range(8)]
    few, rare = (encoded([*make_events(rng, BATCH_SIZE - 1), {"type": name, "data": {}}]) for name in ("few", "rare"))

    def send(number: int) -> str:
        content = plain[number % len(plain)]
        if is_middle(number, FEW_EVERY):
            content = few
        if is_middle(number + 1, RARE_EVERY):  # another batch than one with a few
            content = rare
        response = client.post(EVENTS_PATH, content=content, headers=JSON)
        response.raise_for_status()
        received: str = response.json()["events"][0]["received_at"]
        return received

    received = []
    with (
        ThreadPoolExecutor(CONNECTIONS) as pool,
        click.progressbar(length=events // BATCH_SIZE, label="storing", file=sys.stderr) as bar,
    ):
        for moment in pool.map(send, range(events // BATCH_SIZE)):
            received.append(moment)
            bar.update(1)
    return received


def is_middle(number: int, every: int) -> bool:
    """Whether a batch is in the middle of `every` events."""
    return number % (every // BATCH_SIZE) == every // BATCH_SIZE // 2


def encoded(events: list[Json]) -> bytes:
    """A batch in JSON."""
    return json.dumps({"source": "backend", "events": events}).encode()


def measure(client: httpx.Client, received: list[str], rounds: int) -> list[Timed]:
    """Read each page in each round. The newest page of the same run is the measure of the others."""
    soon_after_start = (datetime.fromisoformat(received[0]) + timedelta(seconds=2)).isoformat()
    middle, end = (cursor_before(client, moment) for moment in (received[len(received) // 2], soon_after_start))
    pages: dict[str, Callable[[], list[float]]] = {
        "newest page": lambda: [timed(client, EVENTS_PATH)[0]],
        "page in the middle, by a cursor": lambda: [timed(client, middle)[0]],
        "page at the end, by a cursor": lambda: [timed(client, end)[0]],
        "a type that was never sent": lambda: [timed(client, f"{EVENTS_PATH}?event_type=never")[0]],
        f"each page of a search for 1 in {RARE_EVERY:,}": lambda: walk(client, f"{EVENTS_PATH}?event_type=rare"),
        f"each page of a search for 1 in {FEW_EVERY:,}": lambda: walk(client, f"{EVENTS_PATH}?event_type=few"),
    }
    times_ms: dict[str, list[float]] = {name: [] for name in pages}
    for number in range(rounds):
        for name, read in pages.items():
            if "search" not in name or number % 5 == 0:
                times_ms[name] += read()
    newest_ms = statistics.median(times_ms["newest page"])
    max_page_ms = MAX_PAGE_RATIO * newest_ms
    aims = [None, max_page_ms, max_page_ms, MAX_NEVER_SEEN_MS, MAX_RARE_MS, MAX_FEW_MS]
    return [Timed(name, times, aim) for (name, times), aim in zip(times_ms.items(), aims, strict=True)]


def cursor_before(client: httpx.Client, moment: str) -> str:
    """The link to the second page of the events that were received before a moment."""
    _, link = timed(client, f"{EVENTS_PATH}?until={moment}")
    if link is None:
        raise click.ClickException("there are too few events")
    return link


def walk(client: httpx.Client, url: str) -> list[float]:
    """How long each page took, to the end of the list."""
    times_ms, link = list[float](), cast("str | None", url)
    while link is not None:
        took_ms, link = timed(client, link)
        times_ms.append(took_ms)
    return times_ms


def timed(client: httpx.Client, url: str) -> tuple[float, str | None]:
    """How long a page takes in milliseconds, and the link to the next one."""
    began = time.perf_counter()
    response = client.get(url)
    took_ms = (time.perf_counter() - began) * 1_000
    response.raise_for_status()
    link = response.links.get("next")
    return took_ms, None if link is None else link["url"]


if __name__ == "__main__":
    main()
