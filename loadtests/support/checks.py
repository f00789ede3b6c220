"""The checks that every load test makes on its ledger: expected outcomes only, and usable waits.

They are pure functions, so that the tests can run them on ledgers that they make up.
"""

from collections.abc import Collection, Iterable, Sequence

from loadtests.support.records import Outcome, Record
from loadtests.support.thresholds import BAD_WAITS, FAILURES, MAX_WAIT_S, UNEXPECTED_REJECTIONS, Check

MUST_NAME_A_WAIT: Collection[Outcome] = ("limited", "unavailable", "uncertain")
"""Outcomes whose response must say how long to wait."""


def response_checks(records: Collection[Record], expected: Sequence[Outcome]) -> list[Check]:
    """Check that every outcome is one of `expected`, and that every response that must name a wait does."""
    unexpected = [record for record in records if record.outcome not in expected]
    return [
        Check(FAILURES, sum(record.outcome != "rejected" for record in unexpected)),
        Check(UNEXPECTED_REJECTIONS, sum(record.outcome == "rejected" for record in unexpected)),
        Check(BAD_WAITS, sum(not has_usable_wait(record) for record in records)),
    ]


def has_usable_wait(record: Record) -> bool:
    """Whether a response that must name a wait names one of at most `MAX_WAIT_S`. True for all other responses."""
    return record.outcome not in MUST_NAME_A_WAIT or (record.wait_s is not None and 0 < record.wait_s <= MAX_WAIT_S)


def reasons(records: Iterable[Record]) -> dict[str, int]:
    """Count the responses that were no receipts, by outcome, status and detail. The most frequent come first."""
    counted: dict[str, int] = {}
    for record in records:
        if record.outcome != "acknowledged":
            reason = f"{record.outcome}: {record.status}: {record.detail}"
            counted[reason] = counted.get(reason, 0) + 1
    return dict(sorted(counted.items(), key=lambda item: -item[1]))
