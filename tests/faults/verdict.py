"""Finds what is wrong after a seed: compares the ledger with the database and with the times without a majority.

It reads the stored events once, and keeps a byte for each event that was sent.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from tests.faults.ledger import MAX_BATCH, Batch, Ledger
from tests.faults.responses import MS_PER_S, Receipt
from tests.support.harness import Json, MongoClient

ID_BYTES = 16

READ_AT_ONCE = 10_000
"""Documents that the database sends at a time."""

Document = Mapping[str, Any]


class Violations(Struct):
    """How often each promise was broken: numbers of events, unless a field says otherwise."""

    lost: int = 0
    """Acknowledged, and not stored."""
    stored_twice: int = 0
    foreign: int = 0
    """Stored, and never sent."""
    stored_though_rejected: int = 0
    """Stored, although every attempt was rejected."""
    unlike_their_receipt: int = 0
    """Under another id or at another time than the receipt says."""
    acknowledged_without_majority: int = 0
    """Requests that began and were acknowledged while there was no majority."""
    differing_repeats: int = 0
    """Repeats that got another receipt than the first time."""
    unsettled: int = 0
    """Batches with a key that were never acknowledged, although they were sent again and again."""
    improper_responses: int = 0
    """Responses that are wrong in themselves."""
    failed_drains: int = 0
    """Hosts that did not end with status 0 when they were told to."""
    errors_in_logs: int = 0
    """Lines of the hosts' logs that tell of an internal error."""

    def by_name(self) -> dict[str, int]:
        """The numbers by name."""
        return {name.replace("_", " "): getattr(self, name) for name in self.__struct_fields__}

    def total(self) -> int:
        """The sum of all numbers; 0 if all promises held."""
        return sum(self.by_name().values())


def compare(
    ledger: Ledger, documents: Iterable[Document], without_majority: Sequence[tuple[float, float]]
) -> Violations:
    """The violations that the ledger, the documents and the times without a majority show."""
    violations = Violations(
        acknowledged_without_majority=sum(ledger.first_receipts_within(*period) for period in without_majority),
        differing_repeats=ledger.differing_repeats,
        unsettled=sum(batch.has_key and batch.receipt is None for batch in ledger.batches),
        improper_responses=sum(ledger.improper.values()),
    )
    seen = [bytearray(batch.size) for batch in ledger.batches]
    for document in documents:
        check_event(document, ledger.batches, seen, violations)
    for batch, places in zip(ledger.batches, seen, strict=True):
        if batch.receipt is not None:
            violations.lost += places.count(0)
        elif not batch.may_be_stored:
            violations.stored_though_rejected += places.count(1)
    return violations


def check_event(
    document: Document, batches: Sequence[Batch], seen: Sequence[bytearray], violations: Violations
) -> None:
    """Count what is wrong with one stored event."""
    number, place = divmod(document["data"]["mark"], MAX_BATCH)
    if number >= len(batches) or place >= batches[number].size:
        violations.foreign += 1
    elif seen[number][place]:
        violations.stored_twice += 1
    else:
        seen[number][place] = 1
        receipt = batches[number].receipt
        if receipt is not None and not is_like(document, receipt, place):
            violations.unlike_their_receipt += 1


def is_like(document: Document, receipt: Receipt, place: int) -> bool:
    """Whether an event is stored as the receipt says."""
    received_ms = milliseconds(document["received_at"])
    start = place * ID_BYTES
    return (
        document["_id"]["id"].bytes == receipt.ids[start : start + ID_BYTES]
        and received_ms // MS_PER_S == receipt.received_s
        and receipt.received_ms in (None, received_ms)
    )


def milliseconds(moment: datetime) -> int:
    """Since the epoch."""
    return int(moment.timestamp()) * MS_PER_S + moment.microsecond // 1_000


def events_of(mongo: MongoClient) -> Collection[Json]:
    """The collection of events, as a majority has it."""
    return mongo.sluice.events.with_options(read_concern=ReadConcern("majority"))


def stored(events: Collection[Json]) -> Iterator[Document]:
    """Every event; of each what there is to compare."""
    yield from events.find({}, {"data.mark": 1, "received_at": 1}, batch_size=READ_AT_ONCE)
