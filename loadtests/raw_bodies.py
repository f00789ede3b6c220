"""Compares raw bodies with batches of 1,000 of the same events: `python -m loadtests.raw_bodies` (`--help`).

A raw body has 60,000 small events, and just under 10 MiB. In each round clients send such bodies, and the same events
as batches, over as many connections. What comes first changes from round to round. A client sends its next request as
soon as the response has come.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click
import httpx
import msgspec

from loadtests.benchmark.table import print_table
from loadtests.support.processes import create_key, resident_mib, serving

BODY_EVENTS, BATCH_EVENTS = 60_000, 1_000

NOTE = "x" * 73
"""Text in each event, so that 60,000 have just under 10 MiB."""

MIN_RATIO = 0.85
"""The least rate of raw bodies, as a share of that of batches."""


class Form(NamedTuple):
    """A form in which the same events are sent."""

    path: str
    media_type: str
    bodies: list[bytes]


class Round(NamedTuple):
    """What was measured in a round, in events/s, and the memory of the workers after it."""

    raw: float
    batches: float
    mib: float


@click.command(help=__doc__)
@click.option("--rounds", default=9, show_default=True, help="How often to send both forms.")
@click.option("--connections", default=4, show_default=True, help="Connections, and raw bodies a round.")
@click.option("--workers", default=1, show_default=True, help="Workers of the server.")
def main(rounds: int, connections: int, workers: int) -> None:
    """Send both forms in turn, and print their rates."""
    measured = asyncio.run(run(rounds, connections, workers))
    ratio = statistics.median(each.raw / each.batches for each in measured)
    raw, batches = (statistics.median(rates) for rates in ([r.raw for r in measured], [r.batches for r in measured]))
    print_table([["events/s, median", ""], ["raw bodies", f"{raw:,.0f}"], ["batches of 1,000", f"{batches:,.0f}"]])
    print(f"ratio, median of the rounds: {ratio:.2f} (at least {MIN_RATIO})")
    print(f"memory of the workers, the most after a round: {max(r.mib for r in measured):.0f} MiB")
    sys.exit(ratio < MIN_RATIO)


async def run(rounds: int, connections: int, workers: int) -> list[Round]:
    """Start a server and measure it. The first round warms it up, and does not count."""
    with tempfile.TemporaryDirectory(prefix="sluice-loadtest-") as directory:
        env = {"SLUICE_DATA_DIR": f"{directory}/data", "SLUICE_MONGODB_URL": ""}
        async with serving(Path(directory) / "serve.log", env, "--workers", str(workers)) as server:
            key = await create_key(env, "raw-bodies")
            raw, batches = forms(connections)
            measured = list[Round]()
            for number in range(rounds + 1):
                order = [raw, batches] if number % 2 else [batches, raw]
                rates = {form.path: rate_of(form, server.url, key.secret, connections) for form in order}
                measured.append(Round(rates[raw.path], rates[batches.path], resident_mib(server.worker_pids)))
            return measured[1:]


def forms(bodies: int) -> tuple[Form, Form]:
    """The events of this number of raw bodies, as raw bodies and as batches."""
    events = [
        {"type": "purchase", "data": {"index": index, "value": 99.99, "currency": "USD", "note": NOTE}}
        for index in range(BODY_EVENTS)
    ]
    batches = [
        msgspec.json.encode({"source": "load", "events": events[start : start + BATCH_EVENTS]})
        for start in range(0, BODY_EVENTS, BATCH_EVENTS)
    ]
    lines = b"\n".join(map(msgspec.json.encode, events))
    return (
        Form("/api/v1/events?source=load", "application/x-ndjson", [lines] * bodies),
        Form("/api/v1/events", "application/json", batches * bodies),
    )


def rate_of(form: Form, url: str, secret: str, connections: int) -> float:
    """The events/s at which the bodies of a form are stored."""
    shares = [form.bodies[start::connections] for start in range(connections)]
    headers = {"X-API-Key": secret, "Content-Type": form.media_type}

    def send(bodies: Sequence[bytes]) -> int:
        with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
            return sum(
                client.post(form.path, content=body).raise_for_status().json()["events_received"] for body in bodies
            )

    began = time.monotonic()
    with ThreadPoolExecutor(connections) as threads:
        stored = sum(threads.map(send, shares))
    return stored / (time.monotonic() - began)


if __name__ == "__main__":
    main()
