"""The ledger of a seed: every batch that was sent, and the outcome of every attempt. It does no I/O.

An event's mark is made of its batch and its index there. So an event of the database is found in the ledger at once,
and a batch takes little more than 16 bytes for each acknowledged id. One thread writes, another reads the sums.
"""

from collections import Counter
from random import Random
from typing import NamedTuple

from tests.faults.responses import Receipt, Response

MAX_BATCH = 1 << 10
"""More than the events of a batch. A mark is the batch's number times this, plus the event's index."""


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
        """The first receipt."""

    @property
    def idempotency_key(self) -> str:
        """Its key; empty if it has none."""
        return f"batch-{self.number}" if self.has_key else ""

    @property
    def marks(self) -> range:
        """The marks of its events."""
        return range(self.number * MAX_BATCH, self.number * MAX_BATCH + self.size)


class Acknowledgement(NamedTuple):
    """An attempt that was acknowledged: when it began and ended, on the monotonic clock."""

    begun_s: float
    answered_s: float
    protocol: str
    replayed: bool


class Ledger:
    """All batches and attempts of one seed."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.acknowledgements: list[Acknowledgement] = []
        """In the order in which they arrived."""
        self.acknowledged_events: Counter[str] = Counter()
        """By the protocol over which they were first acknowledged."""
        self.attempts: Counter[str] = Counter()
        """By protocol and outcome."""
        self.improper: Counter[str] = Counter()
        """By protocol, and by what is wrong."""
        self.repeats = 0
        """Acknowledgements of batches that had been acknowledged before."""
        self.differing_repeats = 0

    def new_batch(self, size: int, has_key: bool) -> Batch:
        """A batch that is about to be sent."""
        batch = Batch(len(self.batches), size, has_key)
        self.batches.append(batch)
        return batch

    def earlier_batch(self, random: Random) -> Batch | None:
        """A random batch, if it was acknowledged under a key; None if not."""
        batch = random.choice(self.batches)
        return batch if batch.has_key and batch.receipt else None

    def record(self, batch: Batch, response: Response, protocol: str, begun_s: float, answered_s: float) -> None:
        """Record the outcome of an attempt."""
        self.attempts[f"{protocol} {response.outcome}"] += 1
        if response.improper:
            self.improper[f"{protocol} {response.improper}"] += 1
        if response.outcome == "unknown":
            batch.may_be_stored = True
        if response.receipt is not None:
            self.acknowledgements.append(Acknowledgement(begun_s, answered_s, protocol, response.receipt.replayed))
            self._acknowledge(batch, response.receipt, protocol)

    def _acknowledge(self, batch: Batch, receipt: Receipt, protocol: str) -> None:
        """Record a receipt: the first, or one that must equal it."""
        if batch.receipt is None:
            batch.receipt = receipt
            self.acknowledged_events[protocol] += batch.size
            return
        self.repeats += 1
        if not are_equal(batch.receipt, receipt):
            self.differing_repeats += 1
        if batch.receipt.received_ms is None:  # only gRPC says the milliseconds
            batch.receipt = batch.receipt._replace(received_ms=receipt.received_ms)

    def count_since(self, begun_s: float, protocol: str) -> int:
        """The number of requests sent since then and acknowledged over a protocol."""
        count = 0
        for acknowledgement in reversed(self.acknowledgements):
            if acknowledgement.answered_s < begun_s:
                break
            count += acknowledgement.begun_s >= begun_s and acknowledgement.protocol == protocol
        return count

    def longest_gap_s(self, start_s: float, end_s: float) -> float:
        """The longest time without an acknowledgement between two times."""
        answered = [item.answered_s for item in self.acknowledgements if start_s <= item.answered_s <= end_s]
        return max(after - before for before, after in zip([start_s, *answered], [*answered, end_s], strict=True))

    def first_receipts_within(self, start_s: float, end_s: float) -> int:
        """First acknowledgements whose requests began and ended between two times.

        Repeats do not count: a batch that is on a majority may be acknowledged again without one.
        """
        return sum(
            start_s <= item.begun_s and item.answered_s <= end_s and not item.replayed for item in self.acknowledgements
        )


def are_equal(first: Receipt, second: Receipt) -> bool:
    """Whether two receipts are of the same ids and time, as far as both say."""
    times = {first.received_ms, second.received_ms} - {None}
    return first.ids == second.ids and first.received_s == second.received_s and len(times) <= 1
