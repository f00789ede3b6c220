"""Group commit: the documents of requests that wait at the same time are inserted by one command.

A commit costs the database a journal write and a round trip to a majority, whether it holds 1 document or 1,000. So
single events become nearly as cheap as batches under load. A lone request never waits for others.

Example: request A (1 event) arrives at an idle server, and its insert starts at once. Requests B (2 events) and C (1
event, of another tenant) arrive while it runs. Their 3 documents go into a second command, which starts at once too,
because 2 may run at a time. D and E arrive next; they wait until A's command ends, and then share the third. If the
database refuses document 2 of the second command, that is event 0 of C. B is told nothing about it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from time import perf_counter_ns
from typing import NamedTuple

from server.core.coalesce import Coalescer
from server.core.deadline import Deadline
from server.core.ingest.store import DocumentStore, EncodedBatch, NotInsertedByIndex
from server.core.request import Request
from server.core.tracing import NO_SPAN, Tracer

MAX_GROUP_BYTES = 12 * 1024 * 1024
"""Documents in one group: below the 16 MiB that a driver sends at once, and inserted within some 0.1 s."""

GROUPS_AT_ONCE = 2
"""Groups in flight: one is written to the journal while the database reads the next."""


class QueuedBatch(NamedTuple):
    """A batch that waits for its insert, and the request that it is of."""

    batch: EncodedBatch
    request: Request
    queued_ns: int
    """Since when it waits."""


GroupCommit = Coalescer[QueuedBatch, NotInsertedByIndex]


def group_commit(store: DocumentStore, tracer: Tracer | None = None) -> GroupCommit:
    """Inserts into `store`. A call returns and raises what `DocumentStore.insert` does, for its own batch.

    The request of each batch learns how long it waited, and how long the insert took that it shared. With a tracer, an
    insert has a span, which is linked to those of all its requests.
    """

    async def insert(group: Sequence[QueuedBatch], deadline: Deadline) -> Sequence[NotInsertedByIndex]:
        started_ns = perf_counter_ns()
        for queued in group:
            queued.request.wait_ns += started_ns - queued.queued_ns
        try:
            with insert_span(tracer, group):
                return await store.insert([queued.batch for queued in group], deadline)
        finally:
            insert_ns = perf_counter_ns() - started_ns
            for queued in group:
                queued.request.insert_ns += insert_ns

    return Coalescer(
        insert,
        weight=attrgetter("batch.size"),
        limit=MAX_GROUP_BYTES,
        at_once=GROUPS_AT_ONCE,
        outcome="unknown",
    )


def insert_span(tracer: Tracer | None, group: Sequence[QueuedBatch]) -> AbstractContextManager[None]:
    """A span for the insert of a group, if a request in it is traced."""
    spans = [] if tracer is None else [each.request.span for each in group if each.request.span is not None]
    if tracer is None or not spans:
        return NO_SPAN
    return tracer.insert(spans, sum(queued.batch.event_count for queued in group))
