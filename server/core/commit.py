"""Group commit: documents of requests that wait at the same time are stored together. Imports the rest of the core.

Single events are as cheap as batches when many wait, whichever protocol and tenant they come from; a lone request
waits for nobody.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from server.core.deadline import Deadline
from server.core.merge import Merged

MAX_GROUP_BYTES = 12 * 1024 * 1024
"""Documents that are stored together: below the 16 MiB that a driver sends at once, and quick enough not to be felt."""

GROUPS_AT_ONCE = 2
"""Groups under way: one is written to the journal while the database takes in the next."""

ALREADY_STORED = 11000
"""The error code of a document that is refused because one with its id is stored, on a majority as all the others."""


class Encoded(NamedTuple):
    """The documents of one request, in the form in which they are kept, one after the other."""

    documents: bytes
    number: int
    """How many."""


class DocumentStore(Protocol):
    """Where documents are kept."""

    async def insert(self, group: Sequence[Encoded], deadline: Deadline) -> dict[int, int]:
        """Return when all documents are safe on disk on a majority, but for those the database refused.

        Those are returned as index -> the database's error code, where the index counts the documents of the whole
        group. Raises Unavailable where not all is certain.
        """


class GroupCommit:
    """Stores documents in `store`, together with those of others."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._merged = Merged(
            self._insert_all,
            weight=lambda encoded: len(encoded.documents),
            limit=MAX_GROUP_BYTES,
            at_once=GROUPS_AT_ONCE,
            outcome="unknown",
        )

    async def __call__(self, encoded: Encoded, deadline: Deadline) -> dict[int, int]:
        """Store the documents of a request. Returns and raises what `DocumentStore.insert` does, for these alone."""
        return await self._merged(encoded, deadline)

    async def _insert_all(self, group: Sequence[Encoded]) -> list[dict[int, int]]:
        """Insert the documents of all, and give each what became of its own."""
        refused = await self._store.insert(group, Deadline())
        outcomes, start = [], 0
        for encoded in group:
            end = start + encoded.number
            outcomes.append({index - start: code for index, code in refused.items() if start <= index < end})
            start = end
        return outcomes
