"""Measures how fast a tenant's events are exported, with many stored: `python -m loadtests.export` (`--help`).

It stores events of one tenant, and exports all of them from one worker: plain, compressed by gzip, and by zstd. One
more export has a filter that all events match. The client reads as fast as it can, and counts the lines.
"""

import asyncio
import http.client
import statistics
import sys
import threading
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

import click

from loadtests.benchmark.table import print_table
from loadtests.support.databases import nodes_option
from loadtests.support.processes import Server, resident_mib
from loadtests.support.progress import say
from loadtests.support.stored_events import EVENTS_PATH, serving_events

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EXPORTS = {
    "plain": (EVENTS_PATH, "identity"),
    "gzip": (EVENTS_PATH, "gzip"),
    "zstd": (EVENTS_PATH, "zstd"),
    "of a source, oldest first": (f"{EVENTS_PATH}?source=backend&order=asc", "identity"),
}
"""What is exported, by the path and the encoding."""

READ_BYTES = 1024 * 1024
SAMPLE_S = 0.05

MIN_EVENTS_PER_S = 80_000
MAX_GROWTH_MIB = 50


class Export(NamedTuple):
    """One export that was read to its end."""

    events_per_s: float
    growth_mib: float
    """How much more memory the worker took at most than before the first export."""
    sent_mib: float


@click.command(help=__doc__)
@click.option("--events", default=2_000_000, show_default=True, help="How many events to store.")
@click.option("--rounds", default=3, show_default=True, help="How often to export them in each way.")
@nodes_option
def main(events: int, rounds: int, nodes: str) -> None:
    """Store the events, export them, and print how fast that was."""
    found = asyncio.run(run(events, rounds, int(nodes)))
    rows, is_met = [["export", "events/s", "min-max", "growth MiB", "sent MiB", "met"]], True
    for name, exports in found.items():
        rates = [export.events_per_s for export in exports]
        growth = max(export.growth_mib for export in exports)
        met = statistics.median(rates) >= MIN_EVENTS_PER_S and growth <= MAX_GROWTH_MIB
        is_met = is_met and met
        low_high = f"{min(rates):,.0f}-{max(rates):,.0f}"
        sent = f"{exports[0].sent_mib:.0f}"
        rows.append([name, f"{statistics.median(rates):,.0f}", low_high, f"{growth:.0f}", sent, "yes" if met else "NO"])
    print_table(rows)
    print(f"aims: at least {MIN_EVENTS_PER_S:,} events/s, and a growth of at most {MAX_GROWTH_MIB} MiB")
    if not is_met:
        sys.exit(1)


async def run(events: int, rounds: int, nodes: int) -> dict[str, list[Export]]:
    """Measure on a new server with a new database."""
    async with serving_events("export", events, nodes) as stored:
        say(f"exporting {rounds} times in each way")
        return await asyncio.to_thread(measure, stored.server, stored.secret, events, rounds)


def measure(server: Server, key: str, events: int, rounds: int) -> dict[str, list[Export]]:
    """Export in each way in each round."""
    before_mib = resident_mib(server.worker_pids)
    found: dict[str, list[Export]] = {name: [] for name in EXPORTS}
    for _ in range(rounds):
        for name, (path, encoding) in EXPORTS.items():
            found[name].append(export(server, key, path, encoding, events, before_mib))
    return found


def export(server: Server, key: str, path: str, encoding: str, events: int, before_mib: float) -> Export:
    """Read one export. Raises ClickException if it has another number of events."""
    headers = {"X-API-Key": key, "Accept": "application/x-ndjson", "Accept-Encoding": encoding}
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    stop, most_mib = threading.Event(), [before_mib]

    def watch() -> None:
        while not stop.wait(SAMPLE_S):
            most_mib[0] = max(most_mib[0], resident_mib(server.worker_pids))

    watching = threading.Thread(target=watch)
    watching.start()
    began, lines, sent, decode = time.perf_counter(), 0, 0, decoder(encoding)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        while chunk := response.read1(READ_BYTES):
            sent += len(chunk)
            lines += decode(chunk).count(b"\n")
        took_s = time.perf_counter() - began
    finally:
        stop.set()
        watching.join()
        connection.close()
    if lines != events:
        raise click.ClickException(f"an export had {lines:,} of {events:,} events")
    return Export(lines / took_s, most_mib[0] - before_mib, sent / 2**20)


def decoder(encoding: str) -> Callable[[bytes], bytes]:
    """What decodes a stream of an encoding."""
    match encoding:
        case "gzip":
            return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress
        case "zstd":
            return zstd.ZstdDecompressor().decompress
    return bytes


if __name__ == "__main__":
    main()
