"""The ports to where events and idempotency records are kept. `storage` implements both."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from msgspec import Struct

from server.core.deadline import Deadline
from server.core.events.ids import Seed
from server.core.events.model import BatchInfo, Event


class EncodedBatch(Struct, frozen=True):
    """The documents of one request in their stored form, one after the other."""

    documents: bytes
    size: int
    """Bytes of the documents."""
    event_count: int


class NotInserted(NamedTuple):
    """Why the database did not insert a document."""

    code: int
    """MongoDB's error code, for the log."""
    already_stored: bool
    """Whether a document with this one's own id is stored, on a majority like all the others."""


NotInsertedByIndex = Mapping[int, NotInserted]
"""The documents of a batch that were not inserted, by their index in the batch."""


class DocumentsRefused(Exception):
    """The database refused documents that it should take. The values are its error codes. This is a bug."""


class Unstorable(Exception):
    """An event holds a value that the store cannot hold. The event's values say which."""


class DocumentStore(Protocol):
    """Stores encoded documents."""

    async def insert(self, group: Sequence[EncodedBatch], deadline: Deadline) -> Sequence[NotInsertedByIndex]:
        """Return when all documents but the returned ones are on disk on a majority.

        Returns, for each batch, the documents that were not inserted, by their index in the batch. Raises Unavailable
        if the outcome of any document is uncertain.
        """


class EventStore(DocumentStore, Protocol):
    """Encodes and stores events."""

    def encode(
        self, info: BatchInfo, ids: Sequence[bytes], events: Sequence[Event], times: Sequence[int | None]
    ) -> list[bytes]:
        """The stored form of each event, given its id and its time. Raises Unstorable."""


class IdempotencyRecord(Struct, frozen=True):
    """What an idempotency key of a tenant stands for. It holds neither the key nor any part of the events."""

    id: bytes
    """A hash of tenant and key."""
    tenant_id: UUID
    fingerprint: bytes
    """A hash of the batch."""
    seed: Seed
    """The ids of the events are made from it. It is new for each request, so it tells two requests apart."""


class IdempotencyStore(Protocol):
    """Stores idempotency records."""

    async def put(self, records: Sequence[IdempotencyRecord], deadline: Deadline) -> list[IdempotencyRecord]:
        """Store each record, unless one with its id exists. Returns, for each, the record that is stored.

        All returned records are on disk on a majority. Raises Unavailable if that is not certain.
        """
