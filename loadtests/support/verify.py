"""The verify phase: whether what is stored is just what was acknowledged. Reads the database; imports no Locust.

One pass over the collection against the ledger. An event's mark names its batch and place there, so each event is
looked up once, and what is kept is the ledger's ids and a byte for each event.

A batch whose outcome is unknown may be there or not, each of its events once at most; those found are counted as
`settled_later`, not passed over. A run on a server of its own owns the whole collection, and then anything else in it
is foreign; on someone's server only events with the run's sources are looked at.
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
    STORED_THOUGH_REFUSED,
    WRONG_REPLAYS,
    Check,
)

ID_BYTES = 16

READ_AT_ONCE = 10_000
"""Documents that the database sends at a time."""

Document = Mapping[str, Any]


class Findings(Struct):
    """What the verify phase counted, in events but for `wrong_replays`."""

    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    duplicates: int = 0
    foreign: int = 0
    misplaced: int = 0
    stored_though_refused: int = 0
    settled_later: int = 0
    wrong_replays: int = 0

    def checks(self) -> list[Check]:
        """The thresholds of every verify phase."""
        return [
            Check(ACKNOWLEDGED, self.acknowledged),
            Check(LOST, self.lost),
            Check(DUPLICATES, self.duplicates),
            Check(FOREIGN, self.foreign),
            Check(MISPLACED, self.misplaced),
            Check(STORED_THOUGH_REFUSED, self.stored_though_refused),
            Check(WRONG_REPLAYS, self.wrong_replays),
        ]


class Batch:
    """A batch that was sent, and which of its events have been seen in the database."""

    __slots__ = ("ids", "perhaps", "seen", "tenant_id")

    def __init__(self, events: int) -> None:
        self.ids = b""
        self.tenant_id = b""
        self.perhaps = False
        self.seen = bytearray(events)


def verify(records: Iterable[Record], lanes: Sequence[Lane], documents: Iterable[Document]) -> Findings:
    """Compare the ledger with the documents of the database."""
    by_number = {lane.number: lane for lane in lanes}
    findings = Findings()
    batches = batches_of(records, findings)
    for document in documents:
        findings.stored += 1
        look_at(document, by_number, batches, findings)
    for batch in batches.values():
        if batch.ids:
            findings.acknowledged += len(batch.seen)
            findings.lost += batch.seen.count(0)
    return findings


def batches_of(records: Iterable[Record], findings: Findings) -> dict[tuple[int, int], Batch]:
    """What was sent, by lane and ticket. A batch that was sent again is the same batch."""
    batches: dict[tuple[int, int], Batch] = {}
    for record in records:
        batch = batches.setdefault((record.lane, record.ticket), Batch(record.events))
        if record.outcome in PERHAPS_STORED:
            batch.perhaps = True
        elif record.outcome == "acknowledged":
            if batch.ids and batch.ids != record.ids:
                findings.wrong_replays += 1
            elif len(record.ids) != record.events * ID_BYTES:
                findings.misplaced += 1
            batch.ids, batch.tenant_id = batch.ids or record.ids, record.tenant_id
    return batches


def look_at(
    document: Document, lanes: Mapping[int, Lane], batches: Mapping[tuple[int, int], Batch], findings: Findings
) -> None:
    """Count one stored event as what it is."""
    mark = document.get("data", {}).get("n")
    if not isinstance(mark, int):
        findings.foreign += 1
        return
    number, ticket, place = ticket_of(mark)
    lane, batch = lanes.get(number), batches.get((number, ticket))
    if lane is None or batch is None or place >= len(batch.seen):
        findings.foreign += 1
    elif batch.seen[place]:
        findings.duplicates += 1
    else:
        batch.seen[place] = 1
        if not is_in_place(document, lane, batch, place):
            findings.misplaced += 1
        elif not batch.ids and batch.perhaps:
            findings.settled_later += 1
        elif not batch.ids:
            findings.stored_though_refused += 1


def is_in_place(document: Document, lane: Lane, batch: Batch, place: int) -> bool:
    """Whether an event has the source, tenant and id that it should have."""
    tenant_id = bytes(document["tenant_id"])
    if document["source"] != lane.source or tenant_id.hex() != (lane.tenant_id or tenant_id.hex()):
        return False
    if not batch.ids:
        return True
    start = place * ID_BYTES
    return tenant_id == batch.tenant_id and bytes(document["_id"]) == batch.ids[start : start + ID_BYTES]


def stored_events(mongodb_url: str, database: str, sources: Iterable[str] | None = None) -> Iterator[Document]:
    """All events in the database, or those of the sources; of each what `verify` needs."""
    with pymongo.MongoClient[dict[str, Any]](mongodb_url) as client:
        fields = {"tenant_id": 1, "source": 1, "data.n": 1}
        wanted = {} if sources is None else {"source": {"$in": sorted(sources)}}
        yield from client[database].events.find(wanted, fields, batch_size=READ_AT_ONCE)
