"""Group commit: the documents of requests that wait at the same time are inserted by one command.

A commit costs the database a journal write and a round trip to a majority, whether it holds 1 document or 1,000. So
single events become nearly as cheap as batches under load. A lone request never waits for others.

Example: request A (1 event) arrives at an idle server, and its insert starts at once. Requests B (2 events) and C (1
event, of another tenant) arrive while it runs. Their 3 documents go into a second command, which starts at once too,
because 2 may run at a time. D and E arrive next; they wait until A's command ends, and then share the third. If the
database refuses document 2 of the second command, that is event 0 of C. B is told nothing about it.
"""

from collections.abc import Mapping, Sequence

from server.core.coalesce import Coalescer
from server.core.deadline import Deadline
from server.core.ingest.store import DocumentStore, EncodedBatch, NotInserted

MAX_GROUP_BYTES = 12 * 1024 * 1024
"""Documents in one group: below the 16 MiB that a driver sends at once, and inserted within some 0.1 s."""

GROUPS_AT_ONCE = 2
"""Groups in flight: one is written to the journal while the database reads the next."""


class GroupCommit:
    """Stores documents in `store`, together with those of other requests."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._insert_coalesced = Coalescer(
            self._insert_group,
            weight=lambda batch: len(batch.documents),
            limit=MAX_GROUP_BYTES,
            at_once=GROUPS_AT_ONCE,
            outcome="unknown",
        )

    async def __call__(self, batch: EncodedBatch, deadline: Deadline) -> Mapping[int, NotInserted]:
        """Store the documents of one request. Returns and raises what `DocumentStore.insert` does, for these alone."""
        return await self._insert_coalesced(batch, deadline)

    async def _insert_group(self, group: Sequence[EncodedBatch], deadline: Deadline) -> list[Mapping[int, NotInserted]]:
        """Insert the documents of all requests. Returns, for each request, which of its own were not inserted."""
        not_inserted = await self._store.insert(group, deadline)
        outcomes: list[Mapping[int, NotInserted]] = []
        start = 0
        for batch in group:
            end = start + batch.event_count
            outcomes.append({index - start: why for index, why in not_inserted.items() if start <= index < end})
            start = end
        return outcomes
