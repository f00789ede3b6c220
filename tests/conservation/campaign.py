"""The campaign: load, bad clients, overload and kills, and a check of both sums at every scrape.

What the database holds at the end is compared with what was counted, in two ways:

    stored <= in the database <= stored + unknown
    in the database = acknowledged as new + acknowledged as replays

The events of a worker that was killed after the database had them, and before it could count them, are unknown and not
stored. A client gets its receipt for them by a retry, as a replay. So in a run without kills, deadlines of clients and
503s whose outcome is unknown, stored is what the database holds.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from os import kill
from pathlib import Path
from random import Random

from msgspec import Struct

from tests.conservation.bad_clients import bad_grpc, bad_rest
from tests.conservation.clients import GrpcClients, RestClients, Tally, forever, until_acknowledged
from tests.support.harness import Server
from tests.support.metrics import NOUNS, Scrape, check_scrape, scrape

SCRAPE_S = 0.2
OVERLOAD_BATCHES = 130
"""Batches of 1,000 that are sent at once. Two workers hold 100,000 events, and usually one gets more than half."""

IDLE_TIMEOUT_S = 30


class Figures(Struct):
    """What a run came to."""

    scrapes: int = 0
    slowest_scrape_s: float = 0.0
    kills: int = 0
    drains: int = 0
    in_flight: Counter[str] = Counter()
    """The most that was in flight at a scrape."""
    in_database: int = 0
    last: Scrape | None = None
    new: int = 0
    replayed: int = 0
    failures: Counter[str] = Counter()

    def lines(self) -> list[str]:
        """The figures for people."""
        assert self.last is not None
        refused = Counter[str]()
        for (name, labels), value in self.last.numbers.items():
            if name == "sluice_requests_refused_total" and value:
                refused[dict(labels)["code"]] += int(value)
        return [
            f"{self.scrapes} scrapes, the slowest {self.slowest_scrape_s * 1_000:.0f} ms, "
            f"{self.kills} kills, {self.drains} drains, "
            f"{self.last.total('sluice_worker_restarts_total'):.0f} restarts; "
            f"at most {dict(self.in_flight)} in flight at a scrape",
            *(self.last.balance(noun) for noun in NOUNS),
            f"refused: {dict(refused)}",
            f"attempts without a receipt: {dict(self.failures)}",
            f"in the database: {self.in_database}; acknowledged: {self.new} as new, {self.replayed} as replays",
        ]


def run(directory: Path, seconds: float, kill_every_s: float, overload_every_s: float) -> Figures:
    """Run the campaign on a new server. Fails if anything is not conserved."""
    with Server(directory, "--workers", "2", "--metrics-port", "0", "--log-level", "warning") as server:
        secret, limited = (server.create_key("c", "--rate-limit", limit)["key"] for limit in ("0", "60"))
        return asyncio.run(run_on(server, secret, limited, seconds, kill_every_s, overload_every_s))


async def run_on(
    server: Server, secret: str, limited: str, seconds: float, kill_every_s: float, overload_every_s: float
) -> Figures:
    """Run the campaign on a server that no other client uses, with a key that has no rate limit and one that has."""
    figures, tally, stop, done = Figures(), Tally(), asyncio.Event(), asyncio.Event()
    scraping = asyncio.create_task(scrape_until(done, server, figures))
    rest, grpc = RestClients(server.url, secret), GrpcClients(server.grpc, secret)
    seed = Random(1)
    sends = [rest.strict, rest.strict, rest.lenient, rest.raw, grpc.unary, grpc.unary]
    working = [
        *(forever(send, tally, Random(seed.random()), stop) for send in sends),
        *(grpc.stream(tally, Random(seed.random()), stop) for _ in range(2)),
        bad_rest(server.url, secret, limited, stop),
        bad_grpc(server.grpc, secret, stop),
        every(kill_every_s, stop, lambda: kill_a_worker(server, figures)),
        every(overload_every_s, stop, lambda: overload(rest, tally)),
    ]
    ending = asyncio.get_running_loop().call_later(seconds, stop.set)
    try:
        await until_first_failure(scraping, [asyncio.create_task(work) for work in working])
    finally:
        ending.cancel()
        await rest.client.aclose()
        await grpc.close()
    await until_idle(server)
    done.set()
    await scraping
    with server.mongo() as mongo:
        figures.in_database = mongo["sluice"]["events"].count_documents({})
    figures.new, figures.replayed, figures.failures = tally.new, tally.replayed, tally.failures
    figures.last = await asyncio.to_thread(scrape, server.metrics)
    check_end(figures, figures.last)
    return figures


def check_end(figures: Figures, last: Scrape) -> None:
    """Check what was counted against the database, and against what the clients know."""
    check_scrape(last, None)
    assert last.total("sluice_requests_in_flight") == last.total("sluice_events_in_flight") == 0
    stored, unknown = (int(last.total(f"sluice_events_{outcome}_total")) for outcome in ("stored", "unknown"))
    assert figures.in_database == figures.new + figures.replayed, figures.lines()
    assert stored <= figures.in_database <= stored + unknown, figures.lines()
    assert figures.new <= stored, figures.lines()


async def until_first_failure(scraping: asyncio.Task[None], working: list[asyncio.Task[None]]) -> None:
    """Wait for all that work. Raises at once what the scraping raises, or any of them."""
    ended: asyncio.Task[list[None]] = asyncio.create_task(all_of(working))
    await asyncio.wait([scraping, ended], return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        ended.cancel()
        scraping.result()
    ended.result()


async def all_of(tasks: list[asyncio.Task[None]]) -> list[None]:
    """Wait for all tasks. Raises what the first that fails raises."""
    return await asyncio.gather(*tasks)


async def scrape_until(done: asyncio.Event, server: Server, figures: Figures) -> None:
    """Scrape again and again, and check each scrape."""
    before = None
    while not done.is_set():
        now = await asyncio.to_thread(scrape, server.metrics)
        check_scrape(now, before)
        figures.scrapes += 1
        figures.slowest_scrape_s = max(figures.slowest_scrape_s, now.seconds)
        for noun in NOUNS:
            figures.in_flight[noun] = max(figures.in_flight[noun], int(now.total(f"sluice_{noun}_in_flight")))
        before = now
        await asyncio.sleep(SCRAPE_S)


async def every(interval_s: float, stop: asyncio.Event, action: Callable[[], Awaitable[None]]) -> None:
    """Do something again and again, until `stop` is set."""
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval_s)
        if not stop.is_set():
            await action()


async def kill_a_worker(server: Server, figures: Figures) -> None:
    """Kill a worker, or now and then let one drain."""
    pids = server.worker_pids()
    if not pids:
        return
    is_drain = figures.kills % 4 == 3 and figures.drains <= figures.kills // 4
    with suppress(ProcessLookupError):
        kill(Random().choice(pids), signal.SIGTERM if is_drain else signal.SIGKILL)
        figures.drains += is_drain
        figures.kills += not is_drain


async def overload(rest: RestClients, tally: Tally) -> None:
    """Send more at once than the workers hold."""
    await asyncio.gather(*(until_acknowledged(rest.large, tally, 0) for _ in range(OVERLOAD_BATCHES)))


async def until_idle(server: Server) -> None:
    """Wait until nothing is in flight: also what clients have given up."""
    end = time.monotonic() + IDLE_TIMEOUT_S
    while True:
        now = await asyncio.to_thread(scrape, server.metrics)
        if not any(now.total(f"sluice_{noun}_in_flight") for noun in NOUNS):
            return
        assert time.monotonic() < end, [now.balance(noun) for noun in NOUNS]
        await asyncio.sleep(SCRAPE_S)
