"""The ledger of a seed: every batch that was sent, and what became of every attempt at it. Imports answers. No I/O.

An event's mark names its batch and its place there, so an event of the database is looked up at once, and a batch takes
little more than the ids that were acknowledged: 16 bytes for each event. One thread writes, another reads the sums.
"""

from collections import Counter
from random import Random
from typing import NamedTuple

from tests.faults.answers import Answer, Receipt

MAX_BATCH = 1 << 10
"""Events in a batch are fewer: a mark is the batch's number times this, plus the event's place."""


class Batch:
    """A batch that was sent, once or more."""

    __slots__ = ("has_key", "may_be_stored", "number", "receipt", "size")

    def __init__(self, number: int, size: int, has_key: bool) -> None:
        self.number = number
        self.size = size
        self.has_key = has_key
        self.may_be_stored = False
        """Whether any attempt was of unknown outcome."""
        self.receipt: Receipt | None = None
        """The first one."""

    @property
    def idempotency_key(self) -> str:
        """Its key; empty where it has none."""
        return f"batch-{self.number}" if self.has_key else ""

    @property
    def marks(self) -> range:
        """The marks of its events."""
        return range(self.number * MAX_BATCH, self.number * MAX_BATCH + self.size)


class Acknowledgement(NamedTuple):
    """When an attempt that was acknowledged began and ended, on the monotonic clock."""

    begun_s: float
    answered_s: float
    face: str
    replayed: bool


class Ledger:
    """The books on one seed."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.acknowledgements: list[Acknowledgement] = []
        """In the order of their answers."""
        self.acknowledged_events: Counter[str] = Counter()
        """By the face that acknowledged them first."""
        self.attempts: Counter[str] = Counter()
        """By face and outcome."""
        self.improper: Counter[str] = Counter()
        """By face and what is wrong."""
        self.repeats = 0
        """Acknowledgements of batches that had been acknowledged before."""
        self.differing_repeats = 0

    def new_batch(self, size: int, has_key: bool) -> Batch:
        """A batch that is about to be sent."""
        batch = Batch(len(self.batches), size, has_key)
        self.batches.append(batch)
        return batch

    def earlier_batch(self, random: Random) -> Batch | None:
        """A batch that was acknowledged under a key, however long ago; None where chance meets another."""
        batch = random.choice(self.batches)
        return batch if batch.has_key and batch.receipt else None

    def record(self, batch: Batch, answer: Answer, face: str, begun_s: float, answered_s: float) -> None:
        """Write down what became of an attempt."""
        self.attempts[f"{face} {answer.outcome}"] += 1
        if answer.improper:
            self.improper[f"{face} {answer.improper}"] += 1
        if answer.outcome == "unknown":
            batch.may_be_stored = True
        if answer.receipt is not None:
            self.acknowledgements.append(Acknowledgement(begun_s, answered_s, face, answer.receipt.replayed))
            self._acknowledge(batch, answer.receipt, face)

    def _acknowledge(self, batch: Batch, receipt: Receipt, face: str) -> None:
        """A receipt has come: the first, or one that must be equal to it."""
        if batch.receipt is None:
            batch.receipt = receipt
            self.acknowledged_events[face] += batch.size
            return
        self.repeats += 1
        if not are_equal(batch.receipt, receipt):
            self.differing_repeats += 1
        if batch.receipt.received_ms is None:  # now it is known to the millisecond
            batch.receipt = batch.receipt._replace(received_ms=receipt.received_ms)

    def count_since(self, begun_s: float, face: str) -> int:
        """Acknowledgements over a face of what was sent since then."""
        count = 0
        for acknowledgement in reversed(self.acknowledgements):
            if acknowledgement.answered_s < begun_s:
                break
            count += acknowledgement.begun_s >= begun_s and acknowledgement.face == face
        return count

    def longest_gap_s(self, start_s: float, end_s: float) -> float:
        """The longest stretch between two moments in which nothing was acknowledged."""
        answered = [item.answered_s for item in self.acknowledgements if start_s <= item.answered_s <= end_s]
        return max(after - before for before, after in zip([start_s, *answered], [*answered, end_s], strict=True))

    def first_receipts_within(self, start_s: float, end_s: float) -> int:
        """Acknowledgements that were begun and answered between two moments.

        Repeats do not count: what is safe on a majority already may be acknowledged again without one.
        """
        return sum(
            start_s <= item.begun_s and item.answered_s <= end_s and not item.replayed for item in self.acknowledgements
        )


def are_equal(first: Receipt, second: Receipt) -> bool:
    """Whether two receipts are of the same ids and time, as far as both say."""
    times = {first.received_ms, second.received_ms} - {None}
    return first.ids == second.ids and first.received_s == second.received_s and len(times) <= 1
