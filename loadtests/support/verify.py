"""The verify phase: it checks that exactly the acknowledged events are stored, because receipts alone prove nothing.

It reads the collection once and compares it with the ledger. An event's mark names its batch and its position, so each
event is looked up once. In memory are only the ids of the ledger and one byte for each event.

A batch with an unknown outcome may be stored, also in part, but each of its events at most once. Those that are found
count as `settled_later`. If the run has started its own server, every other event in the collection is foreign. On a
running server, only events with the run's sources are read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pymongo
from msgspec import Struct

from loadtests.support.plan import Lane, ticket_of
from loadtests.support.records import PERHAPS_STORED, Record
from loadtests.support.thresholds import (
    ACKNOWLEDGED,
    DUPLICATES,
    FOREIGN,
    LOST,
    MISPLACED,
    STORED_THOUGH_REJECTED,
    WRONG_REPLAYS,
    Check,
)

ID_BYTES = 16

READ_AT_ONCE = 10_000
"""Documents in one response of the database, which limits the memory that they take."""

Document = Mapping[str, Any]


class Findings(Struct):
    """What the verify phase counted: requests in `wrong_replays`, events in all other fields."""

    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    duplicates: int = 0
    foreign: int = 0
    misplaced: int = 0
    stored_though_rejected: int = 0
    settled_later: int = 0
    wrong_replays: int = 0

    def checks(self) -> list[Check]:
        """Return the checks of every verify phase."""
        return [
            Check(ACKNOWLEDGED, self.acknowledged),
            Check(LOST, self.lost),
            Check(DUPLICATES, self.duplicates),
            Check(FOREIGN, self.foreign),
            Check(MISPLACED, self.misplaced),
            Check(STORED_THOUGH_REJECTED, self.stored_though_rejected),
            Check(WRONG_REPLAYS, self.wrong_replays),
        ]


class Batch:
    """A batch that was sent, and which of its events were found in the database. No `ids`: not acknowledged."""

    __slots__ = ("found", "ids", "perhaps_stored", "tenant_id")

    def __init__(self, events: int) -> None:
        self.ids = b""
        self.tenant_id = b""
        self.perhaps_stored = False
        self.found = bytearray(events)


def verify(records: Iterable[Record], lanes: Sequence[Lane], documents: Iterable[Document]) -> Findings:
    """Compare the ledger with the documents of the database, and count every difference."""
    by_number = {lane.number: lane for lane in lanes}
    findings = Findings()
    batches = batches_of(records, findings)
    for document in documents:
        findings.stored += 1
        count_document(document, by_number, batches, findings)
    for batch in batches.values():
        if batch.ids:
            findings.acknowledged += len(batch.found)
            findings.lost += batch.found.count(0)
    return findings


def batches_of(records: Iterable[Record], findings: Findings) -> dict[tuple[int, int], Batch]:
    """Collect the batches that were sent, by lane and ticket. A repeat belongs to the same batch as the first."""
    batches: dict[tuple[int, int], Batch] = {}
    for record in records:
        batch = batches.setdefault((record.lane, record.ticket), Batch(record.events))
        if record.outcome in PERHAPS_STORED:
            batch.perhaps_stored = True
        elif record.outcome == "acknowledged":
            if batch.ids and batch.ids != record.ids:
                findings.wrong_replays += 1
            elif len(record.ids) != record.events * ID_BYTES:
                findings.misplaced += 1
            batch.ids, batch.tenant_id = batch.ids or record.ids, record.tenant_id
    return batches


def count_document(
    document: Document, lanes: Mapping[int, Lane], batches: Mapping[tuple[int, int], Batch], findings: Findings
) -> None:
    """Count one stored event in the field of `findings` that applies to it, if any."""
    mark = document.get("data", {}).get("n")
    if not isinstance(mark, int):
        findings.foreign += 1
        return
    number, ticket, position = ticket_of(mark)
    lane, batch = lanes.get(number), batches.get((number, ticket))
    if lane is None or batch is None or position >= len(batch.found):
        findings.foreign += 1
    elif batch.found[position]:
        findings.duplicates += 1
    else:
        batch.found[position] = 1
        if not has_expected_fields(document, lane, batch, position):
            findings.misplaced += 1
        elif not batch.ids and batch.perhaps_stored:
            findings.settled_later += 1
        elif not batch.ids:
            findings.stored_though_rejected += 1


def has_expected_fields(document: Document, lane: Lane, batch: Batch, position: int) -> bool:
    """Whether an event has the source, tenant and id that its lane and its receipt say."""
    tenant_id = bytes(document["_id"]["tenant_id"])
    if document["source"] != lane.source or tenant_id.hex() != (lane.tenant_id or tenant_id.hex()):
        return False
    if not batch.ids:
        return True
    start = position * ID_BYTES
    return tenant_id == batch.tenant_id and bytes(document["_id"]["id"]) == batch.ids[start : start + ID_BYTES]


def stored_events(mongodb_url: str, database: str, sources: Iterable[str] | None = None) -> Iterator[Document]:
    """Read the fields that `verify` needs of all events in the database, or of those with `sources`."""
    with pymongo.MongoClient[dict[str, Any]](mongodb_url) as client:
        fields = {"tenant_id": 1, "source": 1, "data.n": 1}
        wanted = {} if sources is None else {"source": {"$in": sorted(sources)}}
        yield from client[database].events.find(wanted, fields, batch_size=READ_AT_ONCE)
