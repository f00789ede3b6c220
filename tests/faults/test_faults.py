"""A short run with one seed: the promises hold. And the checks of a run notice if they do not."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from tests.faults.course import run_seed
from tests.faults.ledger import Batch, Ledger
from tests.faults.plan import KINDS, plan_of
from tests.faults.responses import UNKNOWN, Receipt, Response
from tests.faults.verdict import Document, Violations, compare

SEED = 16
"""A seed whose faults do not last long."""

SHORT = (
    "kill -9 of the primary",
    "step-down",
    "kill -9 of both secondaries",
    "kill -9 of a worker",
    "SIGTERM of sluice serve",
    "failCommand, error code",
    "failCommand, writeConcernError",
)
"""At least one fault of each part. Those that take long are left to `python -m tests.faults`."""

MAX_ELECTION_GAP_S = 10
"""The time without acknowledgements after a crash of the primary: 1 to 2 s, and more beside other tests."""

RECEIVED_S = 1_795_000_000
MOMENT = datetime.fromtimestamp(RECEIVED_S, UTC)

REJECTED = Response("rejected")


@pytest.mark.slow
def test_the_promises_hold_through_faults(tmp_path: Path) -> None:
    plan = plan_of(SEED, len(SHORT), SHORT)
    figures = run_seed(SEED, plan, tmp_path, lambda _: None)
    assert figures.improper == {}
    assert figures.violations == Violations()
    assert [fault.kind for fault in figures.faults] == [step.kind for step in plan]
    assert {protocol for protocol, events in figures.acknowledged.items() if events} == {"rest", "unary", "stream"}
    assert figures.stored >= sum(figures.acknowledged.values())
    assert figures.repeats > 0
    (gap_s,) = (fault.gap_s for fault in figures.faults if fault.kind == "kill -9 of the primary")
    assert gap_s < MAX_ELECTION_GAP_S


def test_a_plan_is_made_of_its_seed() -> None:
    def told(seed: int) -> list[tuple[str, str]]:
        return [(step.kind, step.fault.detail) for step in plan_of(seed, 40, list(KINDS))]

    assert told(1) == told(1) != told(2)
    assert {kind for kind, _ in told(1)} == set(KINDS)


# --- the checks


def id_of(mark: int) -> UUID:
    return UUID(int=mark)


def document(mark: int, **fields: object) -> Document:
    return {"_id": {"id": id_of(mark)}, "data": {"mark": mark}, "received_at": MOMENT, **fields}


def receipt_of(batch: Batch, received_ms: int | None = None, replayed: bool = False) -> Receipt:
    return Receipt(b"".join(id_of(mark).bytes for mark in batch.marks), RECEIVED_S, received_ms, replayed)


def ledger_of(*responses: Response | None) -> tuple[Ledger, Batch]:
    """A ledger with a batch of two events, and the responses to its attempts. None stands for a receipt."""
    ledger = Ledger()
    batch = ledger.new_batch(2, has_key=False)
    for response in responses:
        ledger.record(batch, response or Response("acknowledged", receipt_of(batch)), "rest", 1, 2)
    return ledger, batch


def violations_of(*responses: Response | None, stored: Iterable[Document]) -> Violations:
    return compare(ledger_of(*responses)[0], stored, [])


@pytest.mark.parametrize("responses", [(None,), (UNKNOWN, None), (REJECTED, None), (None, None)])
def test_no_violation_if_what_was_acknowledged_is_stored_once(responses: tuple[Response | None, ...]) -> None:
    assert violations_of(*responses, stored=[document(1), document(0)]) == Violations()


@pytest.mark.parametrize("marks", [[], [0], [0, 1]])
def test_what_is_unknown_may_be_stored_or_not(marks: list[int]) -> None:
    assert violations_of(REJECTED, UNKNOWN, stored=map(document, marks)) == Violations()


def test_wrong_events_are_noticed() -> None:
    good = [document(0), document(1)]
    assert violations_of(None, stored=[document(0)]) == Violations(lost=1)
    assert violations_of(None, stored=[*good, document(1)]) == Violations(stored_twice=1)
    assert violations_of(UNKNOWN, stored=[*good, *good]) == Violations(stored_twice=2)
    assert violations_of(None, stored=[*good, document(2), document(1 << 20)]) == Violations(foreign=2)
    assert violations_of(REJECTED, stored=[document(0)]) == Violations(stored_though_rejected=1)
    swapped = [document(0, _id={"id": id_of(1)}), document(1, _id={"id": id_of(0)})]
    assert violations_of(None, stored=swapped) == Violations(unlike_their_receipt=2)
    late = document(0, received_at=MOMENT.replace(second=MOMENT.second + 1))
    assert violations_of(None, stored=[late, document(1)]) == Violations(unlike_their_receipt=1)


def test_repeats_that_differ() -> None:
    for other, count in {None: 0, RECEIVED_S * 1_000 + 1: 0, RECEIVED_S * 1_000 + 2: 1}.items():
        ledger, batch = ledger_of(None)
        for received_ms in (RECEIVED_S * 1_000 + 1, other):
            response = Response("acknowledged", receipt_of(batch, received_ms, replayed=True))
            ledger.record(batch, response, "unary", 3, 4)
        assert (ledger.repeats, ledger.differing_repeats) == (2, count)
    ledger, batch = ledger_of(None)
    ids = receipt_of(batch).ids
    response = Response("acknowledged", Receipt(ids[::-1], RECEIVED_S, None, replayed=True))
    ledger.record(batch, response, "rest", 3, 4)
    assert ledger.differing_repeats == 1


@pytest.mark.parametrize(
    ("period", "count"), [((0.5, 2.5), 1), ((1, 2), 1), ((1.5, 2.5), 0), ((0.5, 1.5), 0), ((3, 4), 0)]
)
def test_acknowledgements_while_there_was_no_majority(period: tuple[float, float], count: int) -> None:
    stored = [document(0), document(1)]
    ledger, batch = ledger_of(None)
    assert compare(ledger, stored, [period]) == Violations(acknowledged_without_majority=count)
    repeat = Response("acknowledged", receipt_of(batch, replayed=True))
    ledger.record(batch, repeat, "rest", 1, 2)  # it needs no majority
    assert compare(ledger, stored, [period]) == Violations(acknowledged_without_majority=count)


def test_a_batch_with_a_key_that_is_never_acknowledged() -> None:
    ledger = Ledger()
    ledger.record(ledger.new_batch(1, has_key=True), UNKNOWN, "rest", 1, 2)
    assert compare(ledger, [], []) == Violations(unsettled=1)
    assert ledger.earlier_batch(Random(1)) is None


def test_improper_responses_are_counted() -> None:
    assert violations_of(Response("rejected", improper="400"), stored=[]) == Violations(improper_responses=1)


def test_gaps() -> None:
    ledger = Ledger()
    batch = ledger.new_batch(1, has_key=True)
    for moment_s in (1.0, 2.0, 5.0, 6.0):
        ledger.record(batch, Response("acknowledged", receipt_of(batch)), "rest", moment_s, moment_s)
    assert ledger.longest_gap_s(0, 6) == 3
    assert ledger.longest_gap_s(2.5, 10) == 4
    assert ledger.longest_gap_s(7, 9) == 2
    assert (ledger.count_since(2, "rest"), ledger.count_since(2, "unary")) == (3, 0)
