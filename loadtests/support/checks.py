"""What every load test asks of the ledger. Pure functions: records in, checks out."""

from collections.abc import Collection, Iterable, Sequence

from loadtests.support.records import Outcome, Record
from loadtests.support.thresholds import BAD_WAITS, FAILURES, MAX_WAIT_S, UNEXPECTED_REFUSALS, Check

ASK_TO_WAIT: Collection[Outcome] = ("limited", "unavailable", "uncertain")
"""Refusals that must say how long to wait."""


def answer_checks(records: Collection[Record], expected: Sequence[Outcome]) -> list[Check]:
    """Every answer is one of the `expected` outcomes, and a refusal that asks to wait says how long."""
    unexpected = [record for record in records if record.outcome not in expected]
    return [
        Check(FAILURES, sum(record.outcome != "refused" for record in unexpected)),
        Check(UNEXPECTED_REFUSALS, sum(record.outcome == "refused" for record in unexpected)),
        Check(BAD_WAITS, sum(not has_usable_wait(record) for record in records)),
    ]


def has_usable_wait(record: Record) -> bool:
    """Whether an answer, if it asks to wait, says how long, and not for ever."""
    return record.outcome not in ASK_TO_WAIT or (record.wait_s is not None and 0 < record.wait_s <= MAX_WAIT_S)


def reasons(records: Iterable[Record]) -> dict[str, int]:
    """What the answers said that were no receipts, and how often each."""
    counted: dict[str, int] = {}
    for record in records:
        if record.outcome != "acknowledged":
            reason = f"{record.outcome}: {record.status}: {record.detail}"
            counted[reason] = counted.get(reason, 0) + 1
    return dict(sorted(counted.items(), key=lambda item: -item[1]))
