"""Reads the metrics of a server, and checks what must hold at every scrape."""

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.harness import Server, wait_until

Labels = frozenset[tuple[str, str]]

NOUNS = ("requests", "events")
OUTCOMES = ("stored", "replayed", "refused", "unknown")


class Scrape(NamedTuple):
    """All numbers of a scrape, and how long it took."""

    numbers: Mapping[tuple[str, Labels], float]
    types: Mapping[str, str]
    """By name of the metric, as the numbers have it without `_total` and the like."""
    seconds: float

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric over all labels but these."""
        wanted = frozenset(labels.items())
        return sum(value for (own, have), value in self.numbers.items() if own == name and wanted <= have)

    def counters(self) -> Iterator[tuple[tuple[str, Labels], float]]:
        """The numbers that must never fall: of counters and histograms."""
        for (name, labels), value in self.numbers.items():
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                yield (name, labels), value

    def balance(self, noun: str) -> str:
        """What was received, and what became of it, for people."""
        parts = [f"{self.total(f'sluice_{noun}_{outcome}_total'):.0f} {outcome}" for outcome in OUTCOMES]
        in_flight = f"{self.total(f'sluice_{noun}_in_flight'):.0f} in flight"
        return f"{self.total(f'sluice_{noun}_received_total'):.0f} {noun}: {', '.join([*parts, in_flight])}"

    def is_balanced(self, noun: str) -> bool:
        """Whether all that was received has an outcome, or is in flight."""
        settled = sum(self.total(f"sluice_{noun}_{outcome}_total") for outcome in OUTCOMES)
        in_flight = self.total(f"sluice_{noun}_in_flight")
        return in_flight >= 0 and self.total(f"sluice_{noun}_received_total") == settled + in_flight


def scrape(url: str) -> Scrape:
    """The metrics at `url` now."""
    started = time.perf_counter()
    response = httpx.get(url, timeout=30, trust_env=False).raise_for_status()
    seconds = time.perf_counter() - started
    numbers, types = {}, {}
    for family in text_string_to_metric_families(response.text):
        types[family.name] = family.type
        for sample in family.samples:
            numbers[sample.name, frozenset(sample.labels.items())] = sample.value
    return Scrape(numbers, types, seconds)


def check_scrape(now: Scrape, before: Scrape | None) -> None:
    """Check that both sums hold, and that no counter fell since an earlier scrape."""
    for noun in NOUNS:
        assert now.is_balanced(noun), now.balance(noun)
    if before is not None:
        then = dict(before.counters())
        fallen = {key: (then[key], value) for key, value in now.counters() if value < then.get(key, 0)}
        assert not fallen, f"counters fell: {fallen}"


Deltas = dict[str, int]


def scrape_when_idle(server: Server) -> Scrape:
    """A scrape when nothing is in flight. A read ends a moment after its response, and a follower after its client."""
    now: Scrape | None = None

    def is_idle() -> bool:
        nonlocal now
        now = scrape(server.metrics)
        return not any(now.total(f"sluice_{noun}_in_flight") for noun in (*NOUNS, "reads"))

    wait_until(is_idle, "requests end")
    assert now is not None
    return now


def changes(server: Server, before: Scrape) -> Deltas:
    """What requests, events and reads were counted since `before`, once none of them is in flight."""
    now = scrape_when_idle(server)
    check_scrape(now, before)
    found: Deltas = {}
    for (name, labels), value in now.counters():
        if name.endswith("_total") and name.startswith(("sluice_requests", "sluice_events", "sluice_reads")):
            change = int(value - before.numbers.get((name, labels), 0))
            if change:
                parts = [name.removeprefix("sluice_").removesuffix("_total"), *(v for _, v in sorted(labels))]
                found[" ".join(parts)] = change
    return found


def received(api: str, requests: int, events: int) -> Deltas:
    """What is counted of the arrival of requests and events."""
    both = {f"requests_received {api}": requests, f"events_received {api}": events}
    return {name: count for name, count in both.items() if count}
