"""Measures how fast `sluice import` stores a file, and its memory: `python -m loadtests.importing` (`--help`).

It writes a file of small events, and imports it into a new tenant in each round, over HTTP and over gRPC. The command
runs as a process of its own, beside a server and its database on the same machine.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from loadtests.benchmark.table import print_table
from loadtests.support.processes import Server, create_key, serving
from loadtests.support.progress import say

NOTE = "x" * 150
"""Text in each event, so that a line has some 220 bytes."""

MIN_EVENTS_PER_S = 80_000
MAX_RESIDENT_MIB = 150
"""Aims for an import over HTTP."""


class Run(NamedTuple):
    """One import."""

    events_per_s: float
    resident_mib: float
    """The most memory that the command took."""
    user_s: float
    """CPU seconds of the command."""


@click.command(help=__doc__)
@click.option("--events", default=2_000_000, show_default=True, help="How many events the file has.")
@click.option("--rounds", default=3, show_default=True, help="How often to import it over each protocol.")
@click.option("--workers", default=2, show_default=True, help="Workers of the server.")
@click.option("--protocol", "protocols", multiple=True, default=("HTTP", "gRPC"), show_default=True)
def main(events: int, rounds: int, workers: int, protocols: tuple[str, ...]) -> None:
    """Import the file, and print how fast that was."""
    found = asyncio.run(run(events, rounds, workers, protocols))
    rows, is_met = [["import", "events/s", "min-max", "peak MiB", "CPU µs/event"]], True
    for protocol, runs in found.items():
        rates, most = [each.events_per_s for each in runs], max(each.resident_mib for each in runs)
        cpu = statistics.median(each.user_s for each in runs) / events * 1e6
        median = statistics.median(rates)
        rows.append([protocol, f"{median:,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}", f"{most:.0f}", f"{cpu:.1f}"])
        is_met = is_met and most <= MAX_RESIDENT_MIB and (protocol != "HTTP" or median >= MIN_EVENTS_PER_S)
    print_table(rows)
    print(f"aims: at least {MIN_EVENTS_PER_S:,} events/s over HTTP, and at most {MAX_RESIDENT_MIB} MiB")
    sys.exit(not is_met)


async def run(events: int, rounds: int, workers: int, protocols: tuple[str, ...]) -> dict[str, list[Run]]:
    """Measure on a new server with a new database."""
    with tempfile.TemporaryDirectory(prefix="sluice-loadtest-") as directory:
        file = Path(directory) / "events.ndjson"
        write_events(file, events)
        env = {"SLUICE_DATA_DIR": f"{directory}/data", "SLUICE_MONGODB_URL": ""}
        async with serving(Path(directory) / "serve.log", env, "--workers", str(workers)) as server:
            found: dict[str, list[Run]] = {protocol: [] for protocol in protocols}
            for number in range(rounds):
                say(f"round {number + 1} of {rounds}")
                for protocol, runs in found.items():
                    key = await create_key(env, f"{protocol}-{number}")
                    runs.append(await asyncio.to_thread(import_once, file, events, server, key.secret, protocol))
            return found


def write_events(file: Path, count: int) -> None:
    """Write a file of this number of events."""
    with file.open("wb") as lines:
        for index in range(count):
            event = {"type": "purchase", "data": {"index": index, "value": 99.99, "currency": "USD", "note": NOTE}}
            lines.write(msgspec.json.encode(event) + b"\n")


def import_once(file: Path, events: int, server: Server, secret: str, protocol: str) -> Run:
    """Import the file as a new one. Raises ClickException if that fails."""
    for journal in file.parent.glob("*.sluice-journal*"):
        journal.unlink()
    to = ["--grpc", server.grpc] if protocol == "gRPC" else ["--url", server.url]
    command = [sys.executable, "-m", "server", "import", str(file), "--source", "load", *to]
    began = time.monotonic()
    pid = os.posix_spawn(sys.executable, command, {**os.environ, "SLUICE_API_KEY": secret})
    _, status, usage = os.wait4(pid, 0)
    took_s = time.monotonic() - began
    if status:
        raise click.ClickException(f"the import ended with {os.waitstatus_to_exitcode(status)}")
    return Run(events / took_s, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


if __name__ == "__main__":
    main()
