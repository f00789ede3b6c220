"""Tests of the numbers of workers: their layout, what is counted, and the sums over workers that are gone."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from server.core.errors import InvalidBatch, SluiceError, Unavailable
from server.core.request import Api, Request
from server.core.requests import Requests
from server.runtime.metrics.exposition import Exposition
from server.runtime.metrics.layout import APIS, BALANCES, EVENTS, HISTOGRAM_SIZE, LAYOUT, REQUESTS
from server.runtime.metrics.recorder import Recorder, observe
from server.runtime.metrics.slots import COUNTED, Slot, Slots
from server.settings import DatabaseSettings, Settings

pytestmark = pytest.mark.unit

SETTINGS = Settings(
    storage=DatabaseSettings(mongodb_url=None, database="sluice", data_dir=".sluice", driver="motor"),
    host="127.0.0.1",
    port=8000,
    grpc_port=50051,
    workers=2,
    tls_cert=None,
    tls_key=None,
    tls_client_ca=None,
    log_level="info",
    log_format="console",
)


class Worker:
    """A worker that counts, and its open requests with the events that have no outcome yet."""

    def __init__(self, slots: Slots) -> None:
        self.slot: Slot = slots.open()
        self.slot.hand_over()
        self.requests = Requests()
        self.requests.add_listener(Recorder(self.slot._numbers))
        self.open: list[tuple[Request, int]] = []


@contextmanager
def workers(slots: Slots, count: int) -> Iterator[list[Worker]]:
    started = [Worker(slots) for _ in range(count)]
    yield started
    for worker in started:
        worker.slot.close()


def sums(slots: Slots) -> list[int]:
    return list(map(sum, zip(slots.gone(), *slots.read(), strict=True)))


def test_no_two_numbers_share_a_place() -> None:
    taken = [
        place
        for family in LAYOUT.families
        for first in family.places.values()
        for place in range(first, first + (HISTOGRAM_SIZE if family.kind == "histogram" else 1))
    ]
    assert sorted(taken) == list(range(LAYOUT.size))


def test_what_is_received_is_read_last() -> None:
    for balance in BALANCES:
        first_received = min(balance.received.places.values())
        for family in (*balance.outcomes.values(), balance.refused):
            assert max(family.places.values()) < first_received


def test_histogram() -> None:
    slots = Slots()
    with workers(slots, 1) as [worker]:
        first = LAYOUT.families[-1].places["rest",]
        numbers = memoryview(bytearray(HISTOGRAM_SIZE * 8)).cast("q")
        for duration_ns in (0, 250_000, 250_001, 60_000_000_000):
            observe(numbers, 0, duration_ns)
        counts = numbers.tolist()
        assert counts[:2] == [2, 1]
        assert counts[-2:] == [1, 60_000_500_001]
        assert worker.slot.read()[first] == 0


@given(st.data())
def test_both_sums_hold_whatever_workers_do(data: st.DataObject) -> None:
    """Requests begin, are decoded, settle and end in any order, and workers die with some of them in flight."""
    slots = Slots()
    with workers(slots, 2) as running:
        before = sums(slots)
        for _ in range(data.draw(st.integers(1, 25))):
            step(data, slots, running)
            now = sums(slots)
            in_flight = {balance.noun: sum(balance.in_flight(now, api) for api in APIS) for balance in BALANCES}
            assert in_flight["requests"] == sum(len(worker.open) for worker in running)
            assert in_flight["events"] == sum(events for worker in running for _, events in worker.open)
            assert all(now[place] >= before[place] for place in COUNTED)
            before = now


def step(data: st.DataObject, slots: Slots, running: list[Worker]) -> None:
    """One thing that may happen."""
    at = data.draw(st.integers(0, len(running) - 1))
    worker = running[at]
    match data.draw(st.sampled_from(["begin", "decode", "store", "fail", "kill"])):
        case "kill":
            worker.slot.close()
            running[at] = Worker(slots)
        case "begin":
            request = worker.requests.open(cast("Api", data.draw(st.sampled_from(APIS))))
            request.__enter__()
            worker.open.append((request, 0))
        case "decode" if worker.open:
            request, events = worker.open.pop()
            count = data.draw(st.integers(1, 1000))
            request.add_events(count)
            worker.open.append((request, events + count))
        case "store" if worker.open:
            request, events = worker.open.pop()
            replayed = data.draw(st.integers(0, events))
            request.is_replayed = replayed > 0
            request.settle("stored", events - replayed)
            request.settle("replayed", replayed)
            request.__exit__(None, None, None)
        case "fail" if worker.open:
            request, events = worker.open.pop()
            error: SluiceError = data.draw(
                st.sampled_from([InvalidBatch("bad"), Unavailable("unknown"), Unavailable("not_stored")])
            )
            request.settle_failed(events, error)
            request.__exit__(type(error), error, None)


def test_a_dead_worker_leaves_what_it_had_in_flight_as_unknown() -> None:
    slots = Slots()
    worker = Worker(slots)
    with worker.requests.open("rest") as request:
        request.add_events(3)
        request.settle("stored", 3)
    worker.requests.open("rest").__enter__().add_events(5)
    worker.requests.open("grpc").__enter__()
    worker.slot.close()
    numbers = sums(slots)
    assert {api: REQUESTS.in_flight(numbers, api) for api in APIS} == {"rest": 0, "grpc": 0}
    unknown = [family.outcomes["unknown"].places for family in (REQUESTS, EVENTS)]
    assert [numbers[places["rest",]] for places in unknown] == [1, 5]
    assert [numbers[places["grpc",]] for places in unknown] == [1, 0]


def text_of(slots: Slots) -> dict[str, float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exposition(slots, SETTINGS))
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_what_prometheus_reads() -> None:
    slots = Slots()
    with workers(slots, 2) as [first, second]:
        for worker in (first, second):
            with worker.requests.open("rest") as request:
                request.admit_ns, request.wait_ns, request.insert_ns = 1_000_000, 0, 3_000_000
                request.add_events(10)
                request.settle("stored", 10)
        with suppress(InvalidBatch), first.requests.open("grpc"):
            raise InvalidBatch("bad")
        second.slot._numbers[next(f for f in LAYOUT.families if "writable" in f.name).places[()]] = 1
        text = text_of(slots)
    assert text['sluice_events_stored_total{protocol="rest"}'] == 20
    assert text['sluice_requests_refused_total{code="invalid_batch",protocol="grpc"}'] == 1
    assert text['sluice_insert_duration_seconds_bucket{le="0.0025",protocol="rest"}'] == 0
    buckets = [value for name, value in text.items() if name.startswith("sluice_insert_duration_seconds_bucket")]
    assert all(low <= high for low, high in pairwise(buckets[: len(buckets) // 2]))
    assert text['sluice_insert_duration_seconds_bucket{le="0.005",protocol="rest"}'] == 2
    assert text['sluice_insert_duration_seconds_sum{protocol="rest"}'] == pytest.approx(0.006)
    assert text["sluice_database_writable"] == 0  # of one worker only
    assert text["sluice_workers"] == 2
    assert [value for name, value in text.items() if name.startswith("sluice_build_info")] == [1]
