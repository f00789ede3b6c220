"""Measures how long a page of events takes, with many stored: `python -m loadtests.pages` (`--help`).

It stores events of one tenant: one in a million is of the type `rare`, and one in ten thousand of the type `few`. Then
it reads pages in turn: the newest; one in the middle and one at the end, each by a cursor; those of a search for each
of the two types; and of a type that was never sent.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple, cast

import click
import httpx

from loadtests.benchmark.table import print_table
from loadtests.support.databases import nodes_option
from loadtests.support.progress import say
from loadtests.support.stored_events import EVENTS_PATH, FEW_EVERY, RARE_EVERY, serving_events

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
    async with serving_events("pages", events, nodes) as stored:
        headers = {"X-API-Key": stored.secret}
        with httpx.Client(base_url=stored.server.url, headers=headers, timeout=30) as client:
            say(f"reading each page {rounds} times")
            return await asyncio.to_thread(measure, client, stored.received, rounds)


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
