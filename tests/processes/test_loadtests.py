"""The load tests: that they pass, in a short form, and that each notices when what it checks is broken.

Speed is not judged here. The short forms run beside each other, and beside the tests of the checks: one has to wait out
a window of the rate limit.
"""

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from loadtests import limits, overload
from loadtests.checks import answer_checks
from loadtests.limits import limit_checks
from loadtests.overload import overload_checks
from loadtests.plan import Arrivals, Face, Lane
from loadtests.records import Counter, Ledger, Outcome, Record, read_records
from loadtests.templates import Template
from loadtests.thresholds import (
    BAD_WAITS,
    BURST_ADMITTED,
    BURST_S,
    DUPLICATES,
    EARLY_REFUSALS,
    FAILURES,
    FOREIGN,
    LONE_ADMITTED,
    LONE_REFUSED,
    LOST,
    MISPLACED,
    MISSING_LIMIT_HEADERS,
    MOST_ADMITTED,
    RECOVERED_P95,
    RECOVERED_REFUSALS,
    STORED_THOUGH_REFUSED,
    SURPLUS_REFUSED,
    WRONG_REPLAYS,
    Check,
    Threshold,
)
from loadtests.users import answers
from loadtests.users.faces import Rest, Unary
from loadtests.verify import Findings, stored_events, verify
from tests.support.harness import Json, MongoClient, Server, embedded_url

RUN_TIMEOUT_S = 240

Run = subprocess.Popen[str]


def start(name: str, *options: str) -> Run:
    """A load test in its short form."""
    line = [sys.executable, "-m", f"loadtests.{name}", "--short", *options]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(run: Run) -> tuple[int, str, Json]:
    """Its exit status, what it printed, and the figures in its report."""
    output, progress = run.communicate(timeout=RUN_TIMEOUT_S)
    report = re.search(r"report: (.+)\.html$", progress, re.MULTILINE)
    assert report is not None, output + progress
    page = Path(f"{report[1]}.html").read_text()
    assert page.count("<svg") > 1
    assert not re.search("<script|<link|src=|url\\(", page), "it must need nothing else"
    figures: Json = json.loads(Path(f"{report[1]}.json").read_text())
    return run.returncode, output, figures


@pytest.fixture(scope="module", autouse=True)
def runs(server: Server) -> Iterator[dict[str, Run]]:
    """Short passes that run meanwhile; `unlimited` has a key without the limit that it is told of."""
    key = server.create_key(f"loadtest-{uuid.uuid4().hex}", "--rate-limit", "0")["key"]
    target = ["--target", server.url, "--grpc-target", server.grpc, "--mongodb-url", embedded_url(server.data_dir)]
    started = {
        "limits": start("limits", "--workers", "2"),
        "throughput": start("throughput", "--workers", "2"),
        "unlimited": start("limits", *target, "--key", key),
    }
    yield started
    for run in started.values():
        run.terminate()
        run.communicate(timeout=RUN_TIMEOUT_S)


def missed(checks: list[Check]) -> list[Threshold]:
    """The thresholds that do not hold."""
    return [check.threshold for check in checks if not check.passed]


# The verify phase, against a real database that is damaged


SIZES = (1, 7, 3)


def lane_of(key: Json, face: Face = "rest", **fields: Any) -> Lane:
    """A lane of a load test."""
    name = f"loadtest-{uuid.uuid4().hex}"
    tenant_id = uuid.UUID(key["tenant_id"]).hex
    common: dict[str, Any] = {"number": 3, "sizes": SIZES, "users": 1, "name": name, "kind": name, "source": name}
    return Lane(**(common | fields), face=face, key=key["key"], tenant_id=tenant_id)


def record_of(lane: Lane, ticket: int, answer: answers.Answer, at_s: float = 0.0) -> Record:
    """What the ledger says of an answer."""
    fields = msgspec.structs.asdict(answer)
    fields |= {"due_s": at_s, "sent_s": at_s, "answered_s": at_s + 0.01}
    return Record(lane=lane.number, ticket=ticket, events=lane.size(ticket), **fields)


@pytest.fixture(params=["rest", "unary"])
def sent(request: pytest.FixtureRequest, server: Server, key: Json) -> tuple[Lane, list[Record]]:
    """A lane whose batches were sent, and what came of them."""
    lane = lane_of(key, request.param)
    rest = lane.face == "rest"
    face = Rest(server.url, lane.key, 30, 0) if rest else Unary(server.grpc, lane.key, 30)
    bodies = (Template(lane, size).fill(lane.first_mark(ticket)) for ticket, size in enumerate(SIZES))
    with closing(face):
        return lane, [record_of(lane, ticket, face.send(body, "")) for ticket, body in enumerate(bodies)]


def findings_of(server: Server, lane: Lane, records: list[Record]) -> Findings:
    """What the verify phase finds."""
    return verify(records, [lane], stored_events(embedded_url(server.data_dir), "sluice", [lane.source]))


def test_verify_passes_what_is_stored_as_acknowledged(server: Server, sent: tuple[Lane, list[Record]]) -> None:
    findings = findings_of(server, *sent)
    assert missed(findings.checks()) == []
    assert findings.stored == findings.acknowledged == sum(SIZES)


def lose(events: Any, one: Json) -> None:
    events.delete_one({"_id": one["_id"]})


def duplicate(events: Any, one: Json) -> None:
    events.insert_one({**one, "_id": uuid.uuid4()})


def slip_in(events: Any, one: Json) -> None:
    events.insert_one({**one, "_id": uuid.uuid4(), "data": {"n": one["data"]["n"] + 500}})


def slip_in_unmarked(events: Any, one: Json) -> None:
    events.insert_one({**one, "_id": uuid.uuid4(), "data": {}})


def give_away(events: Any, one: Json) -> None:
    events.update_one({"_id": one["_id"]}, {"$set": {"tenant_id": uuid.uuid4()}})


def rename(events: Any, one: Json) -> None:
    events.delete_one({"_id": one["_id"]})
    events.insert_one({**one, "_id": uuid.uuid4()})


@pytest.mark.parametrize(
    ("damage", "noticed"),
    [
        (lose, LOST),
        (duplicate, DUPLICATES),
        (slip_in, FOREIGN),
        (slip_in_unmarked, FOREIGN),
        (give_away, MISPLACED),
        (rename, MISPLACED),
    ],
)
def test_verify_notices_damage(
    server: Server,
    mongo: MongoClient,
    sent: tuple[Lane, list[Record]],
    damage: Callable[[Any, Json], None],
    noticed: Threshold,
) -> None:
    lane, records = sent
    one = mongo.sluice.events.find_one({"source": lane.source})
    assert one is not None
    damage(mongo.sluice.events, one)
    assert missed(findings_of(server, lane, records).checks()) == [noticed]


def test_verify_notices_what_a_refused_batch_left_behind(server: Server, sent: tuple[Lane, list[Record]]) -> None:
    lane, (first, *rest) = sent
    refused = record_of(lane, first.ticket, answers.Answer("unavailable", "503", 1))
    assert missed(findings_of(server, lane, [refused, *rest]).checks()) == [STORED_THOUGH_REFUSED]


def test_verify_accounts_for_unknown_outcomes(server: Server, sent: tuple[Lane, list[Record]]) -> None:
    lane, (first, *rest) = sent
    broken = record_of(lane, first.ticket, answers.Answer("broken", "TimeoutError"))
    findings = findings_of(server, lane, [broken, *rest])
    assert missed(findings.checks()) == []
    assert findings.settled_later == first.events


def test_verify_notices_a_repeat_with_another_receipt(server: Server, sent: tuple[Lane, list[Record]]) -> None:
    lane, records = sent
    repeat = msgspec.structs.replace(records[0], ids=uuid.uuid4().bytes, replayed=True)
    assert missed(findings_of(server, lane, [*records, repeat]).checks()) == [WRONG_REPLAYS]


# Waits


@pytest.mark.parametrize("wait", ["", "0", "1.5", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "3600"])
@pytest.mark.parametrize("status", [429, 503])
def test_rest_refusal_without_a_usable_wait_is_noticed(key: Json, status: int, wait: str) -> None:
    answer = answers.of_rest(status, {"retry-after": wait}, b'{"outcome": "not_stored"}')
    assert missed(answer_checks([record_of(lane_of(key), 0, answer)], (answer.outcome,))) == [BAD_WAITS]


@pytest.mark.parametrize("delay", [None, Duration(), Duration(seconds=3600)])
def test_grpc_refusal_without_a_usable_wait_is_noticed(key: Json, delay: Duration | None) -> None:
    status = status_pb2.Status(code=8)
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain="sluice", reason="RATE_LIMITED"))
    if delay is not None:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    answer = answers.of_status(status)
    assert answer.outcome == "limited"
    assert missed(answer_checks([record_of(lane_of(key), 0, answer)], ("limited",))) == [BAD_WAITS]


def test_answers_that_should_not_be_are_noticed(key: Json) -> None:
    answer = answers.of_rest(500, {}, b"{}")
    assert missed(answer_checks([record_of(lane_of(key), 0, answer)], ("acknowledged",))) == [FAILURES]


# The rate limit, over a ledger


LIMIT = 10


def admission(lane: Lane, ticket: int, at_s: float, outcome: Outcome = "acknowledged") -> Record:
    """A request to a limited key."""
    return record_of(lane, ticket, answers.Answer(outcome, "", 30), at_s)


def limited_run(key: Json) -> tuple[list[Lane], list[Record]]:
    """A good run: the limit, refusals, and a lone client that is refused and then admitted."""
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
        (change(5, outcome="limited"), [BURST_ADMITTED, EARLY_REFUSALS]),
        (change(15, answered_s=61.0), [BURST_S]),
        (change(-2, outcome="acknowledged"), [MOST_ADMITTED, LONE_REFUSED, LONE_ADMITTED]),
        (change(-1, sent_s=59.0, answered_s=59.1), [MOST_ADMITTED]),
        (change(-2, sent_s=70.0, answered_s=70.1), [EARLY_REFUSALS, LONE_ADMITTED]),
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
    """A good run: some are refused, and then all is as before."""
    lane = lane_of(key)
    return {
        overload.BEFORE: [record_of(lane, n, answers.Answer("acknowledged", ""), n) for n in range(5)],
        "surplus": [record_of(lane, n, answers.Answer("unavailable", "", 1), n) for n in range(5, 10)],
        overload.AFTER: [record_of(lane, n, answers.Answer("acknowledged", ""), n) for n in range(10, 15)],
    }


def test_clean_overload_passes(key: Json) -> None:
    assert missed(overload_checks(overloaded_run(key))) == []


@pytest.mark.parametrize(
    ("phase", "fields", "noticed"),
    [
        ("surplus", {"outcome": "acknowledged"}, SURPLUS_REFUSED),
        ("surplus", {"wait_s": None}, BAD_WAITS),
        ("surplus", {"outcome": "broken"}, FAILURES),
        (overload.AFTER, {"outcome": "unavailable", "wait_s": 1.0}, RECOVERED_REFUSALS),
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
    written = [record_of(lane, n, answers.Answer("acknowledged", "201", ids=bytes(16 * n))) for n in range(100)]
    for record in written:
        ledger.write(record)
    assert list(read_records(tmp_path)) == written


def test_counters_of_one_file_never_give_a_number_twice(tmp_path: Path) -> None:
    one, other = Counter(tmp_path / "tickets"), Counter(tmp_path / "tickets")
    assert [one.next(), other.next(), other.next(), one.next()] == [0, 1, 2, 3]


# The command lines


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]"])
def test_only_this_machine_is_loaded_unless_confirmed(host: str) -> None:
    line = ["--target", f"http://{host}:8000", "--grpc-target", "127.0.0.1:1", "--key", "k", "--mongodb-url", "m"]
    run = start("limits", *line)
    output, complaint = run.communicate(timeout=RUN_TIMEOUT_S)
    assert run.returncode == 2
    assert output == ""
    assert "--this-host-is-mine" in complaint


def test_throughput_passes(runs: dict[str, Run]) -> None:
    status, output, figures = finish(runs["throughput"])
    assert status == 0, output
    assert figures["passed"]
    assert {line["name"] for line in figures["lines"]} >= {"rest, 1 a batch", "stream, 1,000 a batch"}
    assert all(line["acknowledged"] == line["requests"] > 0 for line in figures["lines"])


def test_limits_fails_where_there_is_no_limit(runs: dict[str, Run]) -> None:
    status, output, figures = finish(runs["unlimited"])
    assert status == 1
    assert f"FAILED: {BURST_ADMITTED.what}" in output
    lost = next(bound for bound in figures["thresholds"] if bound["what"] == LOST.what)
    assert lost["passed"]


def test_limits_passes(runs: dict[str, Run]) -> None:
    status, output, figures = finish(runs["limits"])
    assert status == 0, output
    assert figures["passed"]
