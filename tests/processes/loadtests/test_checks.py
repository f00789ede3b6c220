"""The checks of load tests over made-up records: each notices what it is for. And the ledger that holds the records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from loadtests import limits, overload
from loadtests.limits import limit_checks
from loadtests.overload import overload_checks
from loadtests.support.checks import response_checks
from loadtests.support.plan import Arrivals, Lane
from loadtests.support.records import Counter, Ledger, Outcome, Record, read_records
from loadtests.support.thresholds import (
    BAD_WAITS,
    BURST_ADMITTED,
    BURST_S,
    EARLY_REJECTIONS,
    FAILURES,
    LONE_ADMITTED,
    LONE_REJECTED,
    MISSING_LIMIT_HEADERS,
    MOST_ADMITTED,
    RECOVERED_P95,
    RECOVERED_REJECTIONS,
    SURPLUS_REJECTED,
    Threshold,
)
from loadtests.users import responses
from tests.support.harness import Json
from tests.support.records import lane_of, missed, record_of

# Waits


@pytest.mark.parametrize("wait", ["", "0", "1.5", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "3600"])
@pytest.mark.parametrize("status", [429, 503])
def test_rest_refusal_without_a_usable_wait_is_noticed(key: Json, status: int, wait: str) -> None:
    answer = responses.of_rest(status, {"retry-after": wait}, b'{"outcome": "not_stored"}')
    assert missed(response_checks([record_of(lane_of(key), 0, answer)], (answer.outcome,))) == [BAD_WAITS]


@pytest.mark.parametrize("delay", [None, Duration(), Duration(seconds=3600)])
def test_grpc_refusal_without_a_usable_wait_is_noticed(key: Json, delay: Duration | None) -> None:
    status = status_pb2.Status(code=8)
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain="sluice", reason="RATE_LIMITED"))
    if delay is not None:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    answer = responses.of_status(status)
    assert answer.outcome == "limited"
    assert missed(response_checks([record_of(lane_of(key), 0, answer)], ("limited",))) == [BAD_WAITS]


def test_answers_that_should_not_be_are_noticed(key: Json) -> None:
    answer = responses.of_rest(500, {}, b"{}")
    assert missed(response_checks([record_of(lane_of(key), 0, answer)], ("acknowledged",))) == [FAILURES]


# The rate limit, over a ledger


LIMIT = 10


def admission(lane: Lane, ticket: int, at_s: float, outcome: Outcome = "acknowledged") -> Record:
    """A request to a limited key."""
    return record_of(lane, ticket, responses.Response(outcome, "", 30), at_s)


def limited_run(key: Json) -> tuple[list[Lane], list[Record]]:
    """A good run: the limit, rejections, and a lone client that is rejected and then admitted."""
    shared = lane_of(key, arrivals=(Arrivals(0, 2 * LIMIT, phase=limits.BURST),), number=0)
    lone = lane_of(key, arrivals=(Arrivals(5, LIMIT, phase=limits.LONE),), number=1)
    burst = [admission(shared, n, n / 100) for n in range(LIMIT)]
    refused = [admission(shared, n, n / 100, "limited") for n in range(LIMIT, 2 * LIMIT)]
    return [shared, lone], [*burst, *refused, admission(lone, 0, 30, "limited"), admission(lone, 1, 60.5)]


def test_exact_limit_passes(key: Json) -> None:
    lanes, records = limited_run(key)
    assert missed(limit_checks(records, lanes, LIMIT)) == []


def change(index: int, **fields: Any) -> Callable[[list[Record]], None]:
    """Make one record of a run another."""

    def changed(records: list[Record]) -> None:
        records[index] = msgspec.structs.replace(records[index], **fields)

    return changed


@pytest.mark.parametrize(
    ("damage", "noticed"),
    [
        (change(15, outcome="acknowledged"), [BURST_ADMITTED, MOST_ADMITTED]),
        (change(5, outcome="limited"), [BURST_ADMITTED, EARLY_REJECTIONS]),
        (change(15, answered_s=61.0), [BURST_S]),
        (change(-2, outcome="acknowledged"), [MOST_ADMITTED, LONE_REJECTED, LONE_ADMITTED]),
        (change(-1, sent_s=59.0, answered_s=59.1), [MOST_ADMITTED]),
        (change(-2, sent_s=70.0, answered_s=70.1), [EARLY_REJECTIONS, LONE_ADMITTED]),
        (change(-1, outcome="limited"), [LONE_ADMITTED]),
        (change(3, limit_headers=False), [MISSING_LIMIT_HEADERS]),
        (change(12, wait_s=None), [BAD_WAITS]),
    ],
)
def test_wrong_limits_are_noticed(key: Json, damage: Callable[[list[Record]], None], noticed: list[Threshold]) -> None:
    lanes, records = limited_run(key)
    damage(records)
    assert set(noticed) <= set(missed(limit_checks(records, lanes, LIMIT)))


# Overload, over a ledger


def overloaded_run(key: Json) -> dict[str, list[Record]]:
    """A good run: some are rejected, and then all is as before."""
    lane = lane_of(key)
    return {
        overload.BEFORE: [record_of(lane, n, responses.Response("acknowledged", ""), n) for n in range(5)],
        "surplus": [record_of(lane, n, responses.Response("unavailable", "", 1), n) for n in range(5, 10)],
        overload.AFTER: [record_of(lane, n, responses.Response("acknowledged", ""), n) for n in range(10, 15)],
    }


def test_clean_overload_passes(key: Json) -> None:
    assert missed(overload_checks(overloaded_run(key))) == []


@pytest.mark.parametrize(
    ("phase", "fields", "noticed"),
    [
        ("surplus", {"outcome": "acknowledged"}, SURPLUS_REJECTED),
        ("surplus", {"wait_s": None}, BAD_WAITS),
        ("surplus", {"outcome": "broken"}, FAILURES),
        (overload.AFTER, {"outcome": "unavailable", "wait_s": 1.0}, RECOVERED_REJECTIONS),
        (overload.AFTER, {"answered_s": 16.0}, RECOVERED_P95),
    ],
)
def test_unclean_overload_is_noticed(key: Json, phase: str, fields: Json, noticed: Threshold) -> None:
    run = overloaded_run(key)
    run[phase] = [msgspec.structs.replace(record, **fields) for record in run[phase]]
    assert noticed in missed(overload_checks(run))


# The ledger


def test_ledger_reads_back_what_was_written(tmp_path: Path, key: Json) -> None:
    lane, ledger = lane_of(key), Ledger(tmp_path)
    written = [record_of(lane, n, responses.Response("acknowledged", "201", ids=bytes(16 * n))) for n in range(100)]
    for record in written:
        ledger.write(record)
    assert list(read_records(tmp_path)) == written


def test_counters_of_one_file_never_give_a_number_twice(tmp_path: Path) -> None:
    one, other = Counter(tmp_path / "tickets"), Counter(tmp_path / "tickets")
    assert [one.next(), other.next(), other.next(), one.next()] == [0, 1, 2, 3]
